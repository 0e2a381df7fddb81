//! Fragments: samples whose tables lie in pieces through the file, each before its samples (ISO/IEC
//! 14496-12, section 8.8).

use crate::MediaError;
use crate::mp4_boxes::{Boxes, Fields, Part, child};
use crate::mp4_tracks::{Sample, Track};

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
pub(crate) fn read(
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
