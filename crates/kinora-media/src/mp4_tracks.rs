//! Reading MP4: every sample of the first video and the first sound track, whatever their codecs,
//! with all that places them on one clock (ISO/IEC 14496-12).
//!
//! Every count and offset comes from a stranger: nothing is indexed before it is checked, and memory
//! is bounded by the file: a sample takes an entry of a table, or at least a byte of the file.

use crate::MediaError;
use crate::mp4_boxes::{Boxes, Fields, Part, child};
use crate::mp4_fragments;

/// The tracks of a file.
#[derive(Default)]
pub(crate) struct Movie<'a> {
    /// The inside of `ftyp`.
    pub(crate) brand: Option<&'a [u8]>,
    /// Units of time per second of edit lists.
    pub(crate) timescale: u32,
    pub(crate) video: Option<Track<'a>>,
    pub(crate) sound: Option<Track<'a>>,
}

/// One track. What is a slice is the inside of a box.
pub(crate) struct Track<'a> {
    pub(crate) id: u32,
    pub(crate) header: &'a [u8],
    /// The name and inside of `vmhd`, `smhd` or what stands for them.
    pub(crate) media_header: Option<([u8; 4], &'a [u8])>,
    pub(crate) handler: &'a [u8],
    pub(crate) language: u16,
    /// Units of time per second.
    pub(crate) timescale: u32,
    /// The sample descriptions (`stsd`).
    pub(crate) descriptions: &'a [u8],
    pub(crate) edit: Edit,
    /// In the order of decoding.
    pub(crate) samples: Vec<Sample>,
}

/// What an edit list says, as far as it is followed: a gap, and then one stretch of the media.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Edit {
    /// Seconds before the stretch begins.
    pub(crate) gap: f64,
    /// Where in the media the stretch begins, in the track's units.
    pub(crate) from: i64,
    /// Seconds that it takes; `None`: to the end.
    pub(crate) length: Option<f64>,
}

/// One coded frame, or packet of sound. Times are in the track's units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) offset: u64,
    pub(crate) size: u32,
    /// When it is decoded.
    pub(crate) at: i64,
    /// How much later it is shown.
    pub(crate) shift: i32,
    pub(crate) duration: u32,
    /// Whether decoding can start here.
    pub(crate) sync: bool,
    /// Which sample description it has, from 1 on.
    pub(crate) description: u32,
}

impl Sample {
    pub(crate) fn shown_at(&self) -> i64 {
        self.at.saturating_add(i64::from(self.shift))
    }

    pub(crate) fn shown_until(&self) -> i64 {
        self.shown_at().saturating_add(i64::from(self.duration))
    }

    /// The bytes, which [`read`] has found to lie in the file.
    pub(crate) fn bytes<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        &file[self.offset as usize..][..self.size as usize]
    }
}

impl<'a> Track<'a> {
    /// Seconds on the file's clock at which a time of the media comes.
    pub(crate) fn seconds(&self, at: i64) -> f64 {
        self.edit.gap + at.saturating_sub(self.edit.from) as f64 / f64::from(self.timescale)
    }

    /// When the first frame is shown, on the file's clock.
    pub(crate) fn begin(&self) -> f64 {
        self.seconds(self.samples.iter().map(Sample::shown_at).min().unwrap_or(0))
    }

    /// When the last frame ends, on the file's clock, or when the edit list ends it.
    pub(crate) fn end(&self) -> f64 {
        let last = self.samples.iter().map(Sample::shown_until).max();
        let end = self.seconds(last.unwrap_or(0));
        match self.edit.length {
            Some(length) => end.min(self.edit.gap + length),
            None => end,
        }
    }

    /// The first sample description: the codec's name and its inside.
    pub(crate) fn description(&self) -> Result<Part<'a>, MediaError> {
        let mut fields = Fields::new(self.descriptions, "stsd");
        fields.skip(8)?;
        Boxes::new(fields.rest())
            .next()
            .transpose()?
            .ok_or_else(|| MediaError::mp4("a track names no codec"))
    }
}

impl Movie<'_> {
    /// The moment on the file's clock that callers call 0: when the first frame of the video is
    /// shown. Frames that a player would hide by an edit list are decoded, so they count.
    pub(crate) fn zero(&self) -> f64 {
        self.video.as_ref().map_or(0.0, Track::begin)
    }
}

/// Reads the tables of both tracks.
///
/// # Errors
/// `Damaged` for broken or cut files.
pub(crate) fn read(bytes: &[u8]) -> Result<Movie<'_>, MediaError> {
    read_some(bytes, true)
}

/// Reads the tables of the video alone: pictures are worth decoding where the sound is damaged.
///
/// # Errors
/// `Damaged` for broken or cut files, and if there is no video, or it has no frames.
pub(crate) fn read_video(bytes: &[u8]) -> Result<Track<'_>, MediaError> {
    let video = read_some(bytes, false)?.video;
    let video = video.ok_or_else(|| MediaError::mp4("no video track"))?;
    if video.samples.is_empty() {
        return Err(MediaError::mp4("the video track has no frames"));
    }
    Ok(video)
}

fn read_some(bytes: &[u8], sound: bool) -> Result<Movie<'_>, MediaError> {
    let mut movie = Movie::default();
    let mut inside = None;
    let mut fragments = Vec::new();
    for part in Boxes::new(bytes) {
        let part = match part {
            // A cut mdat is reported, with numbers, when the samples are checked.
            Err(_) if inside.is_some() => break,
            part => part?,
        };
        match &part.name {
            b"ftyp" => movie.brand = Some(part.body),
            b"moov" => inside = Some(part.body),
            b"moof" => fragments.push(part),
            _ => {}
        }
    }
    let inside = inside.ok_or_else(|| {
        MediaError::mp4("no moov box: the file is cut off, or was never finished by its writer")
    })?;
    let mut header = Fields::new(child(inside, b"mvhd")?, "mvhd");
    let long = header.version()? == 1;
    header.skip(if long { 16 } else { 8 })?;
    movie.timescale = header.u32()?;
    for part in Boxes::new(inside) {
        let part = part?;
        if &part.name != b"trak" {
            continue;
        }
        let media = child(part.body, b"mdia")?;
        let mut handler = Fields::new(child(media, b"hdlr")?, "hdlr");
        handler.skip(8)?;
        let place = match handler.take(4)? {
            b"vide" => &mut movie.video,
            b"soun" if sound => &mut movie.sound,
            _ => continue,
        };
        if place.is_none() {
            *place = Some(track(part.body, media, movie.timescale, bytes.len())?);
        }
    }
    for track in [&mut movie.video, &mut movie.sound].into_iter().flatten() {
        mp4_fragments::read(&fragments, inside, bytes.len(), track)?;
        check(track, bytes.len() as u64)?;
    }
    Ok(movie)
}

fn check(track: &Track<'_>, file_bytes: u64) -> Result<(), MediaError> {
    for (index, sample) in track.samples.iter().enumerate() {
        let end = sample.offset.saturating_add(u64::from(sample.size));
        if end > file_bytes {
            return Err(MediaError::mp4(format!(
                "sample {index} of {} ends at byte {end}, but there are {file_bytes} bytes",
                track.samples.len(),
            )));
        }
    }
    Ok(())
}

fn track<'a>(
    trak: &'a [u8],
    media: &'a [u8],
    movie_timescale: u32,
    file_bytes: usize,
) -> Result<Track<'a>, MediaError> {
    let header = child(trak, b"tkhd")?;
    let mut fields = Fields::new(header, "tkhd");
    let long = fields.version()? == 1;
    fields.skip(if long { 16 } else { 8 })?;
    let id = fields.u32()?;
    fields.skip(if long { 12 } else { 8 } + 60)?;
    let mut times = Fields::new(child(media, b"mdhd")?, "mdhd");
    let long = times.version()? == 1;
    times.skip(if long { 16 } else { 8 })?;
    let timescale = times.u32()?;
    if timescale == 0 {
        return Err(MediaError::mp4("a track whose clock stands still"));
    }
    times.skip(if long { 8 } else { 4 })?;
    let language = times.u16()?;
    let information = child(media, b"minf")?;
    let media_header = Boxes::new(information)
        .filter_map(Result::ok)
        .find(|part| matches!(&part.name, b"vmhd" | b"smhd" | b"nmhd" | b"gmhd"))
        .map(|part| (part.name, part.body));
    let table = child(information, b"stbl")?;
    let mut samples = places(table, file_bytes)?;
    times_of(table, &mut samples)?;
    Ok(Track {
        id,
        header,
        media_header,
        handler: child(media, b"hdlr")?,
        language,
        timescale,
        descriptions: child(table, b"stsd")?,
        edit: edit(trak, movie_timescale)?,
        samples,
    })
}

/// The gap and the first stretch of an edit list; later stretches are not followed.
fn edit(trak: &[u8], movie_timescale: u32) -> Result<Edit, MediaError> {
    let mut edit = Edit::default();
    let Ok(list) = child(trak, b"edts").and_then(|edits| child(edits, b"elst")) else {
        return Ok(edit);
    };
    let mut fields = Fields::new(list, "elst");
    let long = fields.version()? == 1;
    fields.skip(4)?;
    while !fields.rest().is_empty() {
        let (length, from) = if long {
            (fields.u64()?, fields.u64()? as i64)
        } else {
            (u64::from(fields.u32()?), i64::from(fields.u32()? as i32))
        };
        fields.skip(4)?;
        let seconds = length as f64 / f64::from(movie_timescale.max(1));
        if from < 0 {
            edit.gap += seconds;
        } else {
            edit.from = from;
            // Fragmented files leave the length open.
            edit.length = (length > 0).then_some(seconds);
            return Ok(edit);
        }
    }
    Ok(edit)
}

/// Sizes, places and sync points of the samples in the movie box's tables.
fn places(table: &[u8], file_bytes: usize) -> Result<Vec<Sample>, MediaError> {
    let mut sizes = Fields::new(child(table, b"stsz")?, "stsz");
    sizes.skip(4)?;
    let same = sizes.u32()?;
    let count = sizes.u32()? as usize;
    let most = match same {
        0 => sizes.rest().len() / 4,
        same => file_bytes / same as usize,
    };
    if count > most {
        return Err(MediaError::mp4(format!(
            "the tables name {count} samples, but there is place for {most}"
        )));
    }
    let mut samples: Vec<Sample> = Vec::with_capacity(count);
    if count == 0 {
        return Ok(samples);
    }
    let (chunks, wide) = match child(table, b"stco") {
        Ok(body) => (body, 4),
        Err(_) => (child(table, b"co64")?, 8),
    };
    let chunks = chunks.get(8..).unwrap_or_default();
    let chunk = |number: u32| {
        (number as usize - 1)
            .checked_mul(wide)
            .and_then(|at| chunks.get(at..)?.get(..wide))
            .map(|bytes| {
                bytes
                    .iter()
                    .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
            })
            .ok_or_else(|| {
                MediaError::mp4(format!(
                    "chunk {number} of {} holds a sample",
                    chunks.len() / wide
                ))
            })
    };
    let mut runs = Fields::new(child(table, b"stsc")?, "stsc");
    runs.skip(8)?;
    let mut first = runs.u32()?;
    while samples.len() < count {
        let (per_chunk, description) = (runs.u32()?, runs.u32()?);
        let next = if runs.rest().is_empty() {
            u32::MAX
        } else {
            runs.u32()?
        };
        if per_chunk == 0 || first == 0 || next <= first {
            return Err(MediaError::mp4(format!(
                "chunks {first}..{next} of {per_chunk} samples each"
            )));
        }
        for number in first..next {
            if samples.len() == count {
                break;
            }
            let mut offset = chunk(number)?;
            for _ in 0..per_chunk {
                if samples.len() == count {
                    break;
                }
                let size = if same == 0 { sizes.u32()? } else { same };
                samples.push(Sample {
                    offset,
                    size,
                    at: 0,
                    shift: 0,
                    duration: 0,
                    sync: false,
                    description,
                });
                offset = offset.saturating_add(u64::from(size));
            }
        }
        first = next;
    }
    match child(table, b"stss") {
        Err(_) => samples.iter_mut().for_each(|sample| sample.sync = true),
        Ok(body) => {
            let mut numbers = Fields::new(body, "stss");
            numbers.skip(8)?;
            while let Ok(number) = numbers.u32() {
                if let Some(sample) = samples.get_mut((number as usize).wrapping_sub(1)) {
                    sample.sync = true;
                }
            }
        }
    }
    Ok(samples)
}

/// Sets when each sample is decoded and shown.
fn times_of(table: &[u8], samples: &mut [Sample]) -> Result<(), MediaError> {
    if samples.is_empty() {
        return Ok(());
    }
    let mut durations = Runs::new(child(table, b"stts")?, "stts")?;
    let mut shifts = match child(table, b"ctts") {
        Ok(body) => Some(Runs::new(body, "ctts")?),
        Err(_) => None,
    };
    let mut clock = 0i64;
    for sample in samples {
        sample.at = clock;
        sample.duration = durations.next()?;
        if let Some(shifts) = &mut shifts {
            sample.shift = shifts.next()? as i32;
        }
        clock = clock.saturating_add(i64::from(sample.duration));
    }
    Ok(())
}

/// A table of (count, value).
struct Runs<'a> {
    table: Fields<'a>,
    left: u32,
    value: u32,
}

impl<'a> Runs<'a> {
    fn new(body: &'a [u8], name: &'static str) -> Result<Self, MediaError> {
        let mut table = Fields::new(body, name);
        table.skip(8)?;
        Ok(Self {
            table,
            left: 0,
            value: 0,
        })
    }

    fn next(&mut self) -> Result<u32, MediaError> {
        while self.left == 0 {
            (self.left, self.value) = (self.table.u32()?, self.table.u32()?);
        }
        self.left -= 1;
        Ok(self.value)
    }
}
