//! An H.264 track of an MP4: its tables, its parameters, and the order of its frames.

use crate::MediaError;
use crate::decoder::{DOUBLED, SINGLE};
use crate::h264::{self, Sequence};
use crate::h264_track::{self, Track};
use crate::picture::Look;
use crate::window::Timeline;

/// A video's tables and parameters.
pub(crate) struct Video {
    pub(crate) track: Track,
    pub(crate) sequence: Sequence,
    /// The `[height, width]` of the picture before it is turned upright.
    pub(crate) visible: [usize; 2],
    pub(crate) doubled: bool,
    pub(crate) timeline: Timeline,
    /// Of each frame, in the order of decoding, its number in the order of showing.
    pub(crate) rank: Vec<usize>,
}

impl Video {
    pub(crate) fn open(bytes: &[u8]) -> Result<Self, MediaError> {
        let track = h264_track::read(bytes)?;
        let first = track.frames[0].bytes(bytes);
        let sequence = track
            .parameters
            .iter()
            .map(Vec::as_slice)
            .chain(nal_units(first, track.length_bytes).filter_map(Result::ok))
            .find(|nal| h264::nal_type(nal) == 7)
            .ok_or_else(|| MediaError::mp4("no sequence parameter set"))?;
        let sequence = h264::sequence(sequence)?;
        let coded = sequence.size;
        let fits = |factor: usize| {
            let [height, width] = track.shown;
            height.min(width) > 0 && factor * height <= coded[0] && factor * width <= coded[1]
        };
        let doubled = track.encoder == DOUBLED && fits(2);
        let cut = track.encoder == SINGLE && fits(1);
        let visible = if doubled || cut { track.shown } else { coded };
        let (timeline, rank) = order(&track);
        Ok(Self {
            track,
            sequence,
            visible,
            doubled,
            timeline,
            rank,
        })
    }

    /// How a picture of `[height, width]` that a decoder gave is to be shown.
    ///
    /// # Errors
    /// If it is not of the size that the stream's parameters promise.
    pub(crate) fn look(&self, size: [usize; 2]) -> Result<Look, MediaError> {
        let promised = self.sequence.size;
        if size != promised {
            return Err(MediaError::mp4(format!(
                "a picture of {}x{} in a stream of {}x{}",
                size[1], size[0], promised[1], promised[0]
            )));
        }
        Ok(Look {
            colour: self.sequence.colour,
            visible: self.visible,
            turns: self.track.turns,
            doubled: self.doubled,
        })
    }

    pub(crate) fn upright(&self) -> [usize; 2] {
        let [height, width] = self.visible;
        if self.track.turns % 2 == 1 {
            [width, height]
        } else {
            [height, width]
        }
    }

    /// The last frame from which decoding can start to show frame `shown`: all frames decoded
    /// before it are shown before it, and all others after, so that both orders agree on its number.
    pub(crate) fn entry(&self, shown: usize) -> usize {
        let frames = &self.track.frames;
        let mut later = i64::MAX;
        let mut after = vec![i64::MAX; frames.len()];
        for (index, frame) in frames.iter().enumerate().rev() {
            after[index] = later;
            later = later.min(frame.shown_at());
        }
        let (mut before, mut entry) = (i64::MIN, 0);
        for (index, frame) in frames.iter().enumerate().take(shown + 1) {
            if frame.sync && before < frame.shown_at() && frame.shown_at() < after[index] {
                entry = index;
            }
            before = before.max(frame.shown_at());
        }
        entry
    }

    /// How many frames can be decoded before one that is shown before all of them.
    #[cfg(feature = "ffmpeg")]
    pub(crate) fn reorder(&self) -> usize {
        // A frame is held back until all that are shown before it are decoded: count those that
        // are decoded, but not shown yet.
        let mut decoded = vec![false; self.rank.len()];
        let (mut next, mut held, mut most) = (0, 0usize, 0);
        for &rank in &self.rank {
            decoded[rank] = true;
            held += 1;
            while decoded.get(next) == Some(&true) {
                next += 1;
                held -= 1;
            }
            most = most.max(held);
        }
        most
    }

    /// The coded bytes of a frame, by its number in the order of decoding.
    pub(crate) fn coded<'a>(&self, bytes: &'a [u8], index: usize) -> &'a [u8] {
        self.track.frames[index].bytes(bytes)
    }

    /// The frames, in the order of decoding, that must be decoded from frame `entry` on to show the
    /// wanted ones. What comes behind the last of these is left in where `to_the_end` says so.
    pub(crate) fn needed(
        &self,
        bytes: &[u8],
        entry: usize,
        wanted: &[usize],
        to_the_end: bool,
    ) -> Vec<usize> {
        let is_wanted = |index: usize| wanted.binary_search(&self.rank[index]).is_ok();
        let frames = self.track.frames.len();
        let last = (entry..frames).rev().find(|&index| is_wanted(index));
        let end = match last {
            Some(last) if !to_the_end => last + 1,
            _ => frames,
        };
        (entry..end)
            .filter(|&index| is_wanted(index) || !self.disposable(self.coded(bytes, index)))
            .collect()
    }

    /// Turns a frame into what codecs take: start codes instead of lengths, and the parameters in
    /// front of the first one.
    pub(crate) fn annex_b(
        &self,
        packet: &mut Vec<u8>,
        coded: &[u8],
        first: bool,
    ) -> Result<(), MediaError> {
        packet.clear();
        let parameters = if first {
            &self.track.parameters[..]
        } else {
            &[]
        };
        let units = nal_units(coded, self.track.length_bytes);
        for nal in parameters.iter().map(|nal| Ok(nal.as_slice())).chain(units) {
            packet.extend([0, 0, 0, 1]);
            packet.extend(nal?);
        }
        Ok(())
    }

    /// Whether no other frame is predicted from this one, so that it can be left out.
    fn disposable(&self, coded: &[u8]) -> bool {
        let mut slices = nal_units(coded, self.track.length_bytes)
            .map(|nal| nal.ok().and_then(|nal| nal.first().copied()))
            .filter(|head| head.is_none_or(|head| (1..=5).contains(&(head & 31))))
            .peekable();
        slices.peek().is_some()
            && slices.all(|head| head.is_some_and(|head| head & 31 == 1 && head >> 5 & 3 == 0))
    }
}

/// When the frames are shown, and the place of each among them.
fn order(track: &Track) -> (Timeline, Vec<usize>) {
    let frames = &track.frames;
    let mut shown: Vec<usize> = (0..frames.len()).collect();
    shown.sort_by_key(|&index| frames[index].shown_at());
    let mut rank = vec![0; frames.len()];
    for (place, &index) in shown.iter().enumerate() {
        rank[index] = place;
    }
    let times: Vec<i64> = shown
        .iter()
        .map(|&index| frames[index].shown_at())
        .collect();
    let last = shown.last().map_or(0, |&index| frames[index].duration);
    let unit = 1.0 / f64::from(track.timescale);
    (Timeline::new(&times, i64::from(last), unit), rank)
}

/// The NAL units of a frame, each behind its length.
fn nal_units(coded: &[u8], length_bytes: usize) -> impl Iterator<Item = Result<&[u8], MediaError>> {
    let mut rest = coded;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let split = rest
            .split_at_checked(length_bytes)
            .and_then(|(length, tail)| {
                let length = length
                    .iter()
                    .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
                tail.split_at_checked(length)
            });
        let Some((nal, tail)) = split else {
            rest = &[];
            return Some(Err(MediaError::mp4("a frame ends inside a NAL unit")));
        };
        rest = tail;
        Some(Ok(nal))
    })
}
