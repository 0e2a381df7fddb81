//! Reading MP4: where the frames of the first video track lie (ISO/IEC 14496-12 and 14496-15).
//!
//! Every count and offset comes from a stranger: nothing is indexed before it is checked, and no
//! table grows larger than the bytes that describe it. Edit lists are not followed: they shift time
//! and trim, and a data set wants the frames that are there.

use crate::MediaError;
use crate::mp4_boxes::{Boxes, Fields, child};
use crate::mp4_fragments;

/// The first video track of a file.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) id: u32,
    /// Parameter sets, without start codes.
    pub(crate) parameters: Vec<Vec<u8>>,
    /// Bytes of the length in front of each NAL unit.
    pub(crate) length_bytes: usize,
    /// The frames, in the order of decoding.
    pub(crate) frames: Vec<Frame>,
    /// Units of time per second.
    pub(crate) timescale: u32,
    /// When the next frame would be decoded, in those units.
    pub(crate) ticks: u64,
    /// The size `[height, width]` that the track asks to be shown at.
    pub(crate) shown: [usize; 2],
    /// Clockwise quarter turns from the coded to the upright picture.
    pub(crate) turns: u8,
    /// The encoder's name for itself.
    pub(crate) encoder: Vec<u8>,
}

/// One coded frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) size: u32,
    /// When it is shown, in the track's units.
    pub(crate) shown_at: i64,
    /// How long it lasts in the order of decoding, in the track's units.
    pub(crate) length: u32,
    /// Whether decoding can start here.
    pub(crate) sync: bool,
}

/// Reads the tables of the first video track.
///
/// # Errors
/// `Damaged` for broken or cut files, `Unsupported` for codecs other than H.264.
pub(crate) fn read(bytes: &[u8]) -> Result<Track, MediaError> {
    let mut movie = None;
    let mut fragments = Vec::new();
    for part in Boxes::new(bytes) {
        let part = match part {
            // A cut mdat is reported, with numbers, when the frames are checked.
            Err(_) if movie.is_some() => break,
            part => part?,
        };
        match &part.name {
            b"moov" => movie = Some(part.body),
            b"moof" => fragments.push(part),
            _ => {}
        }
    }
    let movie = movie.ok_or_else(|| {
        MediaError::mp4("no moov box: the file is cut off, or was never finished by its writer")
    })?;
    let mut track = video(movie, bytes.len())?;
    mp4_fragments::read(&fragments, movie, bytes.len(), &mut track)?;
    if track.frames.is_empty() {
        return Err(MediaError::mp4("the video track has no frames"));
    }
    for (index, frame) in track.frames.iter().enumerate() {
        let end = frame.offset.saturating_add(u64::from(frame.size));
        if end > bytes.len() as u64 {
            return Err(MediaError::mp4(format!(
                "frame {index} of {} ends at byte {end}, but there are {} bytes",
                track.frames.len(),
                bytes.len()
            )));
        }
    }
    Ok(track)
}

/// The first video track of a movie, without its fragments.
fn video(movie: &[u8], file_bytes: usize) -> Result<Track, MediaError> {
    for part in Boxes::new(movie) {
        let part = part?;
        if &part.name != b"trak" {
            continue;
        }
        let media = child(part.body, b"mdia")?;
        let mut handler = Fields::new(child(media, b"hdlr")?, "hdlr");
        handler.skip(8)?;
        if handler.take(4)? == b"vide" {
            return track(part.body, media, file_bytes);
        }
    }
    Err(MediaError::mp4("no video track"))
}

fn track(trak: &[u8], media: &[u8], file_bytes: usize) -> Result<Track, MediaError> {
    let (id, turns, shown) = header(child(trak, b"tkhd")?)?;
    let mut times = Fields::new(child(media, b"mdhd")?, "mdhd");
    let long = times.version()? == 1;
    times.skip(if long { 16 } else { 8 })?;
    let timescale = times.u32()?;
    let table = child(child(media, b"minf")?, b"stbl")?;
    let mut track = Track {
        id,
        parameters: Vec::new(),
        length_bytes: 4,
        frames: Vec::new(),
        timescale,
        ticks: 0,
        shown,
        turns,
        encoder: Vec::new(),
    };
    description(child(table, b"stsd")?, &mut track)?;
    track.frames = frames(table, file_bytes)?;
    track.ticks = time(table, &mut track.frames)?;
    Ok(track)
}

/// The track's number, its quarter turns and the size it is shown at.
fn header(body: &[u8]) -> Result<(u32, u8, [usize; 2]), MediaError> {
    let mut fields = Fields::new(body, "tkhd");
    let long = fields.version()? == 1;
    fields.skip(if long { 16 } else { 8 })?;
    let id = fields.u32()?;
    fields.skip(if long { 12 } else { 8 } + 16)?;
    let matrix: Vec<i32> = (0..9)
        .map(|_| Ok(fields.u32()? as i32))
        .collect::<Result<_, MediaError>>()?;
    let turns = match [matrix[0], matrix[1], matrix[3], matrix[4]].map(i32::signum) {
        [0, 1, -1, 0] => 1,
        [-1, 0, 0, -1] => 2,
        [0, -1, 1, 0] => 3,
        _ => 0,
    };
    let [width, height] = [fields.u32()?, fields.u32()?].map(|side| (side >> 16) as usize);
    Ok((id, turns, [height, width]))
}

/// The codec and its parameter sets.
fn description(body: &[u8], track: &mut Track) -> Result<(), MediaError> {
    let mut fields = Fields::new(body, "stsd");
    fields.skip(8)?;
    let Some(entry) = Boxes::new(fields.rest()).next().transpose()? else {
        return Err(MediaError::mp4("the video track names no codec"));
    };
    if !matches!(&entry.name, b"avc1" | b"avc3") {
        return Err(foreign(&entry.name));
    }
    let mut fields = Fields::new(entry.body, "avc1");
    fields.skip(42)?;
    let name = fields.take(32)?;
    track.encoder = name[1..]
        .iter()
        .copied()
        .take(usize::from(name[0]).min(31))
        .collect();
    fields.skip(4)?;
    let mut fields = Fields::new(child(fields.rest(), b"avcC")?, "avcC");
    fields.skip(4)?;
    track.length_bytes = usize::from(fields.u8()? & 3) + 1;
    let sequences = fields.u8()? & 31;
    for kind in [Some(sequences), None] {
        let count = kind.map_or_else(|| fields.u8(), Ok)?;
        for _ in 0..count {
            let length = usize::from(fields.u16()?);
            track.parameters.push(fields.take(length)?.to_vec());
        }
    }
    Ok(())
}

fn foreign(name: &[u8; 4]) -> MediaError {
    let codec = match name {
        b"hvc1" | b"hev1" => "HEVC".into(),
        b"av01" => "AV1".into(),
        b"vp08" => "VP8".into(),
        b"vp09" => "VP9".into(),
        b"mp4v" => "MPEG-4 part 2".into(),
        b"encv" => "encrypted".into(),
        other => format!("{:?}", String::from_utf8_lossy(other)),
    };
    MediaError::Unsupported {
        what: format!("MP4 with {codec} video"),
        help: "build with --features ffmpeg, or convert it to H.264, e.g. ffmpeg -i in.mp4 -c:v libx264 -pix_fmt yuv420p out.mp4",
    }
}

/// Sizes, places and sync points of the frames of a plain file.
fn frames(table: &[u8], file_bytes: usize) -> Result<Vec<Frame>, MediaError> {
    let mut sizes = Fields::new(child(table, b"stsz")?, "stsz");
    sizes.skip(4)?;
    let same = sizes.u32()?;
    let count = sizes.u32()? as usize;
    // Each frame takes an entry, or at least a byte of the file.
    let most = if same == 0 {
        sizes.rest().len() / 4
    } else {
        file_bytes
    };
    if count > most {
        return Err(MediaError::mp4(format!(
            "the tables name {count} frames, but hold {most}"
        )));
    }
    let mut frames = Vec::with_capacity(count);
    if count == 0 {
        return Ok(frames);
    }
    let chunks = chunks(table)?;
    let mut runs = Fields::new(child(table, b"stsc")?, "stsc");
    runs.skip(8)?;
    let mut first = runs.u32()?;
    while frames.len() < count {
        let per_chunk = runs.u32()?;
        runs.skip(4)?;
        let next = if runs.rest().is_empty() {
            u32::MAX
        } else {
            runs.u32()?
        };
        if per_chunk == 0 || first == 0 || next <= first {
            return Err(MediaError::mp4(format!(
                "chunks {first}..{next} of {per_chunk} frames each"
            )));
        }
        for chunk in first..next {
            if frames.len() == count {
                break;
            }
            let mut offset = *chunks.get(chunk as usize - 1).ok_or_else(|| {
                MediaError::mp4(format!("chunk {chunk} of {} holds a frame", chunks.len()))
            })?;
            for _ in 0..per_chunk {
                if frames.len() == count {
                    break;
                }
                let size = if same == 0 { sizes.u32()? } else { same };
                frames.push(Frame {
                    offset,
                    size,
                    shown_at: 0,
                    length: 0,
                    sync: false,
                });
                offset = offset.saturating_add(u64::from(size));
            }
        }
        first = next;
    }
    match child(table, b"stss") {
        Err(_) => frames.iter_mut().for_each(|frame| frame.sync = true),
        Ok(body) => {
            let mut numbers = Fields::new(body, "stss");
            numbers.skip(8)?;
            while let Ok(number) = numbers.u32() {
                if let Some(frame) = frames.get_mut((number as usize).wrapping_sub(1)) {
                    frame.sync = true;
                }
            }
        }
    }
    Ok(frames)
}

fn chunks(table: &[u8]) -> Result<Vec<u64>, MediaError> {
    let (body, long) = match child(table, b"stco") {
        Ok(body) => (body, false),
        Err(_) => (child(table, b"co64")?, true),
    };
    let mut fields = Fields::new(body, "stco");
    fields.skip(8)?;
    let mut offsets = Vec::new();
    while !fields.rest().is_empty() {
        offsets.push(if long {
            fields.u64()?
        } else {
            u64::from(fields.u32()?)
        });
    }
    Ok(offsets)
}

/// Sets when each frame is shown, and returns the length of all.
fn time(table: &[u8], frames: &mut [Frame]) -> Result<u64, MediaError> {
    if frames.is_empty() {
        return Ok(0);
    }
    let mut durations = Fields::new(child(table, b"stts")?, "stts");
    durations.skip(8)?;
    let mut offsets = child(table, b"ctts")
        .ok()
        .map(|body| Fields::new(body, "ctts"));
    if let Some(offsets) = &mut offsets {
        offsets.skip(8)?;
    }
    let (mut clock, mut duration, mut offset) = (0u64, Run::default(), Run::default());
    for frame in frames {
        duration.step(&mut durations)?;
        let shift = match &mut offsets {
            Some(offsets) => i64::from(offset.step(offsets)? as i32),
            None => 0,
        };
        frame.shown_at = (clock as i64).saturating_add(shift);
        frame.length = duration.value;
        clock = clock.saturating_add(u64::from(duration.value));
    }
    Ok(clock)
}

/// A run of equal values in a table of (count, value).
#[derive(Default)]
struct Run {
    left: u32,
    value: u32,
}

impl Run {
    fn step(&mut self, table: &mut Fields<'_>) -> Result<u32, MediaError> {
        while self.left == 0 {
            (self.left, self.value) = (table.u32()?, table.u32()?);
        }
        self.left -= 1;
        Ok(self.value)
    }
}
