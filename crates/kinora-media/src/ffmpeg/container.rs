//! Video in any container that FFmpeg reads: the times of its packets, and its pictures.

use super::demux::{Input, Stream};
use super::sys::{Converter, Head, Packet, Picture};
use crate::MediaError;
use crate::h264::Signal;
use crate::picture::{self, Look};
use crate::sink::Sink;
use crate::window::Timeline;
use crate::yuv::Colour;

/// A video track of a file.
pub(crate) struct Container<'a> {
    bytes: &'a [u8],
    stream: Stream,
    pub(crate) timeline: Timeline,
    /// The packets, in the order they are read: when each is shown, and whether decoding can start
    /// there.
    packets: Vec<(i64, bool)>,
    /// When each frame is shown, in order.
    shown: Vec<i64>,
    /// Whether the container does not know when its frames are shown, so that they are counted.
    counted: bool,
}

impl<'a> Container<'a> {
    /// Walks over all packets, without decoding any.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, MediaError> {
        let mut input = Input::open(bytes)?;
        let stream = input.stream()?;
        let mut packet = Packet::new()?;
        let mut heads: Vec<Head> = Vec::new();
        while input.next(&mut packet)? {
            // The bit of a VP8 frame's first byte that says that it is shown.
            let hidden = stream.vp8 && packet.first_byte().is_some_and(|byte| byte & 0x10 == 0);
            if !hidden {
                heads.push(packet.head());
            }
        }
        if heads.is_empty() {
            return Err(MediaError::damaged(
                "video",
                "the video track has no frames",
            ));
        }
        // Some old containers know when a packet is decoded, and not when it is shown; without
        // either, the order is all there is.
        let counted = heads.iter().any(|head| head.shown_at.is_none());
        let undated = heads.iter().any(|head| head.decoded_at.is_none());
        let shown_at = |index: usize, head: &Head| match counted {
            true if undated => index as i64,
            true => head.decoded_at.unwrap_or(0),
            false => head.shown_at.unwrap_or(0),
        };
        let packets: Vec<(i64, bool)> = heads
            .iter()
            .enumerate()
            .map(|(index, head)| (shown_at(index, head), head.key))
            .collect();
        let mut shown: Vec<i64> = packets.iter().map(|&(time, _)| time).collect();
        shown.sort_unstable();
        let last = shown.last().copied();
        let length = packets
            .iter()
            .zip(&heads)
            .find(|((time, _), _)| Some(*time) == last)
            .map_or(0, |(_, head)| head.length);
        let timeline = if stream.image && shown.len() == 1 {
            Timeline::still()
        } else {
            Timeline::new(&shown, length, stream.unit)
        };
        Ok(Self {
            bytes,
            stream,
            timeline,
            packets,
            shown,
            counted,
        })
    }

    /// Upright `[height, width]`.
    pub(crate) fn size(&self) -> [usize; 2] {
        let [height, width] = self.stream.size;
        if self.stream.turns % 2 == 1 {
            [width, height]
        } else {
            [height, width]
        }
    }

    /// Decodes the frames that a sink waits for, from the sync frame before the first on.
    pub(crate) fn run(&self, sink: &mut Sink<'_>, threads: usize) -> Result<(), MediaError> {
        let Some(first) = sink.next() else {
            return Ok(());
        };
        let wanted = self.shown[first];
        let entry = self
            .packets
            .iter()
            .rev()
            .find(|&&(time, key)| key && time <= wanted)
            .map(|&(time, _)| time);
        let mut input = Input::open(self.bytes)?;
        let mut packet = Packet::new()?;
        // Some containers find their way only roughly: then decoding starts at the beginning.
        let mut ready = false;
        if let Some(entry) = entry.filter(|&entry| entry > self.shown[0] && !self.counted) {
            ready = input.seek(entry) && input.next(&mut packet)? && {
                let head = packet.head();
                head.key && head.shown_at.is_some_and(|time| time <= wanted)
            };
            if !ready {
                input = Input::open(self.bytes)?;
            }
        }
        let begin = if ready { packet.head().shown_at } else { None };
        let mut codec = input.codec(threads)?;
        let mut painter = Painter {
            container: self,
            converter: Converter::new(),
            scratch: Vec::new(),
            begin,
            came: 0,
            damaged: false,
        };
        loop {
            if !ready {
                ready = input.next(&mut packet)?;
            }
            let next = ready.then_some(&mut packet);
            let end = next.is_none();
            codec.decode(next, |picture| painter.take(picture, sink))?;
            if sink.next().is_none() {
                return Ok(());
            }
            if end {
                break;
            }
            ready = false;
        }
        Err(MediaError::damaged(
            "video",
            format!(
                "frame {} of {} did not come out of the decoder",
                sink.next().unwrap_or(0),
                self.shown.len()
            ),
        ))
    }
}

struct Painter<'a> {
    container: &'a Container<'a>,
    converter: Converter,
    scratch: Vec<u8>,
    /// When the frame is shown at which decoding began, if that is not the first.
    begin: Option<i64>,
    /// Pictures so far.
    came: usize,
    damaged: bool,
}

impl Painter<'_> {
    fn take(&mut self, picture: &Picture<'_>, sink: &mut Sink<'_>) -> Result<(), MediaError> {
        let container = self.container;
        let Some(next) = sink.next() else {
            return Ok(());
        };
        let time = if container.counted {
            container.shown.get(self.came).copied()
        } else {
            picture.time()
        };
        self.came += 1;
        // Frames in front of the one where decoding began lack what they are predicted from.
        if self
            .begin
            .is_some_and(|begin| time.is_some_and(|time| time < begin))
        {
            return Ok(());
        }
        self.damaged |= picture.damaged();
        if time.is_none_or(|time| time < container.shown[next]) {
            return Ok(());
        }
        if time != Some(container.shown[next]) {
            return Err(MediaError::damaged(
                "video",
                format!("frame {next} did not come out of the decoder"),
            ));
        }
        if self.damaged {
            return Err(MediaError::damaged(
                "video",
                format!("frame {next} does not decode"),
            ));
        }
        let size = picture.size();
        if size != container.stream.size {
            return Err(MediaError::damaged(
                "video",
                format!(
                    "a picture of {size:?} in a stream of {:?}",
                    container.stream.size
                ),
            ));
        }
        let turns = container.stream.turns;
        let signal = picture.signal();
        if let Some(planes) = picture.planes(&mut self.scratch) {
            let signal = Signal {
                matrix: if signal.matrix == 0 { 2 } else { signal.matrix },
                full_range: signal.full_range,
            };
            let look = Look {
                colour: signal.resolve(size).unwrap_or(Colour::BT601),
                visible: size,
                turns,
                doubled: false,
            };
            return picture::put(&planes, look, sink);
        }
        // What players do with streams that do not say.
        let matrix = match signal.matrix {
            1 | 4..=7 => signal.matrix,
            9 | 10 => 9,
            _ if size[0] >= 720 => 1,
            _ => 5,
        };
        self.converter
            .rgb(picture, matrix, signal.full_range, &mut self.scratch)?;
        picture::put_rgb(&self.scratch, size, turns, sink)
    }
}
