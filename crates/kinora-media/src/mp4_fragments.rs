//! Fragmented MP4, as web players and screen recorders write it: the frames' tables are spread over
//! `moof` boxes (ISO/IEC 14496-12, 8.8).

use crate::MediaError;
use crate::mp4_boxes::{Boxes, Fields, Part, child};
use crate::mp4_read::{Frame, Track};

/// What a frame has where its run does not say.
#[derive(Clone, Copy, Default)]
struct Defaults {
    duration: u32,
    size: u32,
    flags: u32,
}

// The bit of a frame's flags that says that decoding cannot start at it.
const NOT_SYNC: u32 = 0x1_0000;

/// Adds the frames of all fragments to their track.
pub(crate) fn read(
    fragments: &[Part<'_>],
    movie: &[u8],
    file_bytes: usize,
    track: &mut Track,
) -> Result<(), MediaError> {
    if fragments.is_empty() {
        return Ok(());
    }
    let defaults = movie_defaults(movie, track.id)?;
    for fragment in fragments {
        // A run without an address goes on where the one before it ended.
        let mut at = fragment.start;
        for part in Boxes::new(fragment.body) {
            let part = part?;
            if &part.name == b"traf" {
                run_group(
                    part.body,
                    fragment.start,
                    &mut at,
                    defaults,
                    file_bytes,
                    track,
                )?;
            }
        }
    }
    Ok(())
}

fn movie_defaults(movie: &[u8], id: u32) -> Result<Defaults, MediaError> {
    let Ok(extends) = child(movie, b"mvex") else {
        return Ok(Defaults::default());
    };
    for part in Boxes::new(extends) {
        let part = part?;
        if &part.name == b"trex" {
            let mut fields = Fields::new(part.body, "trex");
            fields.skip(4)?;
            if fields.u32()? == id {
                fields.skip(4)?;
                return Ok(Defaults {
                    duration: fields.u32()?,
                    size: fields.u32()?,
                    flags: fields.u32()?,
                });
            }
        }
    }
    Ok(Defaults::default())
}

fn run_group(
    body: &[u8],
    fragment_start: u64,
    at: &mut u64,
    mut defaults: Defaults,
    file_bytes: usize,
    track: &mut Track,
) -> Result<(), MediaError> {
    let mut fields = Fields::new(child(body, b"tfhd")?, "tfhd");
    let flags = fields.u32()?;
    let ours = fields.u32()? == track.id;
    let base = match flags {
        _ if flags & 1 != 0 => fields.u64()?,
        _ if flags & 0x2_0000 != 0 => fragment_start,
        _ => *at,
    };
    if flags & 2 != 0 {
        fields.skip(4)?;
    }
    for (bit, value) in [
        (8, &mut defaults.duration),
        (16, &mut defaults.size),
        (32, &mut defaults.flags),
    ] {
        if flags & bit != 0 {
            *value = fields.u32()?;
        }
    }
    *at = base;
    if ours && let Ok(time) = child(body, b"tfdt") {
        // Where the writer dropped frames, or the file was cut out of a longer one, the frames
        // before this fragment do not tell when it begins.
        let mut time = Fields::new(time, "tfdt");
        let long = time.version()? == 1;
        track.ticks = if long {
            time.u64()?
        } else {
            time.u32()?.into()
        };
    }
    for part in Boxes::new(body) {
        let part = part?;
        if &part.name == b"trun" {
            run(
                part.body,
                base,
                at,
                defaults,
                file_bytes,
                ours.then_some(&mut *track),
            )?;
        }
    }
    Ok(())
}

fn run(
    body: &[u8],
    base: u64,
    at: &mut u64,
    defaults: Defaults,
    file_bytes: usize,
    mut track: Option<&mut Track>,
) -> Result<(), MediaError> {
    let mut fields = Fields::new(body, "trun");
    let flags = fields.u32()?;
    let count = fields.u32()? as usize;
    if count > file_bytes {
        return Err(MediaError::mp4(format!(
            "a run of {count} frames in {file_bytes} bytes"
        )));
    }
    if flags & 1 != 0 {
        *at = base.saturating_add_signed(i64::from(fields.u32()? as i32));
    }
    let first_flags = if flags & 4 != 0 {
        Some(fields.u32()?)
    } else {
        None
    };
    for index in 0..count {
        let mut field = |bit: u32, default: u32| {
            if flags & bit != 0 {
                fields.u32()
            } else {
                Ok(default)
            }
        };
        let duration = field(0x100, defaults.duration)?;
        let size = field(0x200, defaults.size)?;
        let own_flags = field(0x400, defaults.flags)?;
        let shift = field(0x800, 0)?;
        let frame_flags = first_flags.filter(|_| index == 0).unwrap_or(own_flags);
        if let Some(track) = &mut track {
            track.frames.push(Frame {
                offset: *at,
                size,
                length: duration,
                shown_at: (track.ticks as i64).saturating_add(i64::from(shift as i32)),
                sync: frame_flags & NOT_SYNC == 0,
            });
            track.ticks = track.ticks.saturating_add(u64::from(duration));
        }
        *at = at.saturating_add(u64::from(size));
    }
    Ok(())
}
