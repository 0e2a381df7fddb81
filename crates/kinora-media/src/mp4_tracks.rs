//! Reading MP4 for its timing: every sample of the first video and the first sound track, whatever
//! their codecs, with all that places them on one clock (ISO/IEC 14496-12).
//!
//! Beside [`crate::mp4_read`], which reads what decoding a picture needs: sound and cutting need the
//! length of each sample, both tracks on one clock, and the boxes that describe a track as bytes.
//! Memory is bounded by the file: a sample takes an entry of a table, or at least a byte of the file.

use crate::MediaError;
use crate::mp4_boxes::{Boxes, Fields, Part, child};

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

/// Reads the tables.
///
/// # Errors
/// `Damaged` for broken or cut files.
pub(crate) fn read(bytes: &[u8]) -> Result<Movie<'_>, MediaError> {
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
            b"soun" => &mut movie.sound,
            _ => continue,
        };
        if place.is_none() {
            *place = Some(track(part.body, media, movie.timescale, bytes.len())?);
        }
    }
    for track in [&mut movie.video, &mut movie.sound].into_iter().flatten() {
        fragmented(&fragments, inside, bytes.len(), track)?;
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

/// What a sample has where its run does not say.
#[derive(Clone, Copy, Default)]
struct Defaults {
    description: u32,
    duration: u32,
    size: u32,
    flags: u32,
}

// The bit of a sample's flags that says that decoding cannot start at it.
const NOT_SYNC: u32 = 0x1_0000;

/// Adds the samples of all fragments to their track.
fn fragmented(
    fragments: &[Part<'_>],
    movie: &[u8],
    file_bytes: usize,
    track: &mut Track<'_>,
) -> Result<(), MediaError> {
    if fragments.is_empty() {
        return Ok(());
    }
    let defaults = defaults(movie, track.id)?;
    let mut clock = track
        .samples
        .last()
        .map_or(0, |last| last.at.saturating_add(i64::from(last.duration)));
    for fragment in fragments {
        // A run without an address goes on where the one before it ended.
        let mut at = fragment.start;
        for part in Boxes::new(fragment.body) {
            let part = part?;
            if &part.name != b"traf" {
                continue;
            }
            let mut group = Group {
                base: fragment.start,
                file_bytes,
                defaults,
                ours: false,
            };
            group.open(part.body, fragment.start, &mut at, track.id)?;
            if let (true, Ok(start)) = (group.ours, child(part.body, b"tfdt")) {
                let mut start = Fields::new(start, "tfdt");
                clock = match start.version()? {
                    1 => start.u64()? as i64,
                    _ => i64::from(start.u32()?),
                };
            }
            for run in Boxes::new(part.body) {
                let run = run?;
                if &run.name == b"trun" {
                    group.run(run.body, &mut at, &mut clock, &mut track.samples)?;
                }
            }
        }
    }
    Ok(())
}

fn defaults(movie: &[u8], id: u32) -> Result<Defaults, MediaError> {
    let Ok(extends) = child(movie, b"mvex") else {
        return Ok(Defaults::default());
    };
    for part in Boxes::new(extends) {
        let part = part?;
        if &part.name == b"trex" {
            let mut fields = Fields::new(part.body, "trex");
            fields.skip(4)?;
            if fields.u32()? == id {
                return Ok(Defaults {
                    description: fields.u32()?,
                    duration: fields.u32()?,
                    size: fields.u32()?,
                    flags: fields.u32()?,
                });
            }
        }
    }
    Ok(Defaults::default())
}

/// The runs of one track in one fragment.
struct Group {
    base: u64,
    file_bytes: usize,
    defaults: Defaults,
    ours: bool,
}

impl Group {
    fn open(
        &mut self,
        body: &[u8],
        fragment_start: u64,
        at: &mut u64,
        id: u32,
    ) -> Result<(), MediaError> {
        let mut fields = Fields::new(child(body, b"tfhd")?, "tfhd");
        let flags = fields.u32()?;
        self.ours = fields.u32()? == id;
        self.base = match flags {
            _ if flags & 1 != 0 => fields.u64()?,
            _ if flags & 0x2_0000 != 0 => fragment_start,
            _ => *at,
        };
        let Defaults {
            description,
            duration,
            size,
            flags: frame,
        } = &mut self.defaults;
        for (bit, value) in [(2, description), (8, duration), (16, size), (32, frame)] {
            if flags & bit != 0 {
                *value = fields.u32()?;
            }
        }
        *at = self.base;
        Ok(())
    }

    fn run(
        &self,
        body: &[u8],
        at: &mut u64,
        clock: &mut i64,
        samples: &mut Vec<Sample>,
    ) -> Result<(), MediaError> {
        let mut fields = Fields::new(body, "trun");
        let flags = fields.u32()?;
        let count = fields.u32()? as usize;
        if flags & 1 != 0 {
            *at = self
                .base
                .saturating_add_signed(i64::from(fields.u32()? as i32));
        }
        let first_flags = match flags & 4 {
            0 => None,
            _ => Some(fields.u32()?),
        };
        let entry = 4 * (flags & 0xF00).count_ones() as usize;
        // Without entries the samples are all of one size, and lie one behind the other.
        let most = match entry {
            0 => self.file_bytes / self.defaults.size.max(1) as usize,
            entry => fields.rest().len() / entry,
        };
        if count > most || samples.len().saturating_add(count) > self.file_bytes {
            return Err(MediaError::mp4(format!(
                "a run of {count} samples, but there is place for {most}"
            )));
        }
        for index in 0..count {
            let mut field = |bit: u32, default: u32| match flags & bit {
                0 => Ok(default),
                _ => fields.u32(),
            };
            let duration = field(0x100, self.defaults.duration)?;
            let size = field(0x200, self.defaults.size)?;
            let own_flags = field(0x400, self.defaults.flags)?;
            let shift = field(0x800, 0)? as i32;
            if self.ours {
                let flags = first_flags.filter(|_| index == 0).unwrap_or(own_flags);
                samples.push(Sample {
                    offset: *at,
                    size,
                    at: *clock,
                    shift,
                    duration,
                    sync: flags & NOT_SYNC == 0,
                    description: self.defaults.description.max(1),
                });
                *clock = clock.saturating_add(i64::from(duration));
            }
            *at = at.saturating_add(u64::from(size));
        }
        Ok(())
    }
}
