//! Writing MP4 from the packets of another: tables of any kind of track, in front of the packets,
//! which lie in chunks of about a second, so that a player finds sound and picture close together.

use crate::MediaError;
use crate::mp4_tracks::{Sample, Track};
use crate::mp4_write::{fixed, versioned, words};

/// The part of a track to copy.
pub(crate) struct Copied<'a, 'b> {
    pub(crate) track: &'b Track<'a>,
    /// In the order of decoding; at least one.
    pub(crate) samples: &'b [Sample],
    /// Seconds of nothing before the track begins.
    pub(crate) gap: f64,
    /// Where in the track, in its units, what is shown begins.
    pub(crate) from: i64,
    /// Seconds that are shown.
    pub(crate) length: f64,
}

/// Consecutive samples of one track.
struct Chunk {
    track: usize,
    samples: std::ops::Range<usize>,
    /// When it begins, in seconds, by which chunks are put in order.
    at: f64,
    /// Where it begins behind the first byte of packets.
    offset: u64,
}

/// The new file.
///
/// # Errors
/// If times are too far apart for the tables.
pub(crate) fn write(
    bytes: &[u8],
    brand: Option<&[u8]>,
    tracks: &[Copied<'_, '_>],
) -> Result<Vec<u8>, MediaError> {
    let mut chunks: Vec<Chunk> = (tracks.iter().enumerate())
        .flat_map(|(number, copied)| chunks(number, copied))
        .collect();
    chunks.sort_by(|a, b| a.at.total_cmp(&b.at));
    let mut body = 0;
    for chunk in &mut chunks {
        chunk.offset = body;
        let samples = &tracks[chunk.track].samples[chunk.samples.clone()];
        body += samples
            .iter()
            .map(|sample| u64::from(sample.size))
            .sum::<u64>();
    }
    // Each packet lies in the file, but a stranger's tables may name the same bytes again and again.
    if body > bytes.len() as u64 {
        return Err(MediaError::mp4(format!(
            "its packets overlap: they would take {body} bytes of a file of {}",
            bytes.len()
        )));
    }
    // QuickTime's own boxes are understood under its own name.
    let name = fixed(b"ftyp", |out| match brand {
        Some(brand) if brand.starts_with(b"qt  ") => out.extend(brand),
        _ => out.extend(b"isom\0\0\x02\0isomiso2avc1mp41"),
    });
    // The tables hold the place of the packets, which depends on the tables' length, but not on the
    // place itself: so they are written twice.
    let long = body > u64::from(u32::MAX) - (1 << 30);
    let head = if long { 16 } else { 8 };
    let start = name.len() + movie(tracks, &chunks, 0, long)?.len() + head;
    let mut out = Vec::with_capacity(start + body as usize);
    out.extend(name);
    out.extend(movie(tracks, &chunks, start as u64, long)?);
    if long {
        words(&mut out, &[1]);
        out.extend(b"mdat");
        out.extend((body + 16).to_be_bytes());
    } else {
        words(&mut out, &[body as u32 + 8]);
        out.extend(b"mdat");
    }
    for chunk in &chunks {
        for sample in &tracks[chunk.track].samples[chunk.samples.clone()] {
            out.extend(sample.bytes(bytes));
        }
    }
    Ok(out)
}

fn chunks(number: usize, copied: &Copied<'_, '_>) -> Vec<Chunk> {
    let seconds = |sample: &Sample| {
        sample.at.saturating_sub(copied.samples[0].at) as f64 / f64::from(copied.track.timescale)
    };
    let mut chunks: Vec<Chunk> = Vec::new();
    for (index, sample) in copied.samples.iter().enumerate() {
        let at = seconds(sample);
        match chunks.last_mut() {
            Some(chunk) if at < chunk.at + 1.0 => chunk.samples.end = index + 1,
            _ => chunks.push(Chunk {
                track: number,
                samples: index..index + 1,
                at,
                offset: 0,
            }),
        }
    }
    chunks
}

fn movie(
    tracks: &[Copied<'_, '_>],
    chunks: &[Chunk],
    start: u64,
    long: bool,
) -> Result<Vec<u8>, MediaError> {
    // Edit lists count in the movie's units: those of the last track, the sound if there is any, so
    // that its place is exact to a sample.
    let timescale = tracks.last().map_or(1, |copied| copied.track.timescale);
    let units = |seconds: f64| (seconds * f64::from(timescale)).ceil() as u64;
    let length = tracks
        .iter()
        .map(|copied| units(copied.gap + copied.length))
        .max()
        .unwrap_or(0);
    let mut inside = versioned(b"mvhd", 1 << 24, |out| {
        out.extend([0; 16]);
        words(out, &[timescale]);
        out.extend(length.to_be_bytes());
        // Rate 1, volume 1, the unit matrix.
        words(out, &[1 << 16, 1 << 24, 0, 0]);
        words(out, &[1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]);
        out.extend([0; 24]);
        words(out, &[tracks.len() as u32 + 1]);
    });
    for (number, copied) in tracks.iter().enumerate() {
        let own = chunks.iter().filter(|chunk| chunk.track == number);
        let own: Vec<&Chunk> = own.collect();
        let first = copied.samples[0].at;
        let edits = [
            (units(copied.gap), None),
            (
                units(copied.length),
                Some(copied.from.saturating_sub(first)),
            ),
        ];
        inside.extend(trak(copied, number as u32 + 1, &edits, &own, start, long)?);
    }
    Ok(fixed(b"moov", |out| out.extend(inside)))
}

fn trak(
    copied: &Copied<'_, '_>,
    id: u32,
    edits: &[(u64, Option<i64>); 2],
    chunks: &[&Chunk],
    start: u64,
    long: bool,
) -> Result<Vec<u8>, MediaError> {
    let track = copied.track;
    let shifts = shifts(copied.samples)?;
    let total: u64 = copied
        .samples
        .iter()
        .map(|sample| u64::from(sample.duration))
        .sum();
    let edits: Vec<_> = (edits.iter())
        .filter(|(length, from)| *length > 0 || from.is_some())
        .map(|&(length, from)| {
            (
                length,
                from.map_or(-1, |from| from.saturating_add(shifts.1).max(0)),
            )
        })
        .collect();
    let shown = edits.iter().map(|edit| edit.0).sum();
    let table = table(copied.samples, &shifts.0, track, chunks, start, long)?;
    Ok(fixed(b"trak", |out| {
        out.extend(header(track.header, id, shown));
        out.extend(fixed(b"edts", |out| {
            out.extend(versioned(b"elst", 1 << 24, |out| {
                words(out, &[edits.len() as u32]);
                for &(length, from) in &edits {
                    out.extend(length.to_be_bytes());
                    out.extend(from.to_be_bytes());
                    words(out, &[1 << 16]);
                }
            }));
        }));
        out.extend(fixed(b"mdia", |out| {
            out.extend(versioned(b"mdhd", 1 << 24, |out| {
                out.extend([0; 16]);
                words(out, &[track.timescale]);
                out.extend(total.to_be_bytes());
                out.extend(track.language.to_be_bytes());
                out.extend([0; 2]);
            }));
            out.extend(fixed(b"hdlr", |out| out.extend(track.handler)));
            out.extend(fixed(b"minf", |out| {
                if let Some((name, body)) = &track.media_header {
                    out.extend(fixed(name, |out| out.extend(*body)));
                }
                out.extend(fixed(b"dinf", |out| {
                    out.extend(versioned(b"dref", 0, |out| {
                        words(out, &[1]);
                        out.extend(versioned(b"url ", 1, |_| {}));
                    }));
                }));
                out.extend(fixed(b"stbl", |out| out.extend(table)));
            }));
        }));
    }))
}

/// The track's header, with another number and length, and all else as it was.
fn header(body: &[u8], id: u32, shown: u64) -> Vec<u8> {
    // Both versions end with 60 bytes behind the length; the reader has found them to be there.
    let tail = &body[body.len().saturating_sub(60)..];
    versioned(b"tkhd", 1 << 24 | 3, |out| {
        out.extend([0; 16]);
        words(out, &[id, 0]);
        out.extend(shown.to_be_bytes());
        out.extend(tail);
    })
}

/// By how much later each sample is shown than decoded, made positive for players that read no
/// other, and what was added for that.
fn shifts(samples: &[Sample]) -> Result<(Vec<u32>, i64), MediaError> {
    let least = samples
        .iter()
        .map(|sample| i64::from(sample.shift))
        .min()
        .unwrap_or(0)
        .min(0);
    let shifts = samples
        .iter()
        .map(|sample| u32::try_from(i64::from(sample.shift) - least).ok())
        .collect::<Option<Vec<u32>>>()
        .filter(|shifts| shifts.iter().all(|&shift| i32::try_from(shift).is_ok()))
        .ok_or_else(|| MediaError::mp4("frames are shown too long after they are decoded"))?;
    Ok((shifts, -least))
}

fn table(
    samples: &[Sample],
    shifts: &[u32],
    track: &Track<'_>,
    chunks: &[&Chunk],
    start: u64,
    long: bool,
) -> Result<Vec<u8>, MediaError> {
    let mut out = fixed(b"stsd", |out| out.extend(track.descriptions));
    out.extend(runs(b"stts", durations(samples)?.into_iter()));
    if shifts.iter().any(|&shift| shift != 0) {
        out.extend(runs(b"ctts", shifts.iter().copied()));
    }
    if samples.iter().any(|sample| !sample.sync) {
        out.extend(versioned(b"stss", 0, |out| {
            let sync: Vec<u32> = (1..)
                .zip(samples)
                .filter(|(_, sample)| sample.sync)
                .map(|(number, _)| number)
                .collect();
            words(out, &[sync.len() as u32]);
            words(out, &sync);
        }));
    }
    out.extend(versioned(b"stsc", 0, |out| {
        let mut entries: Vec<[u32; 3]> = Vec::new();
        for (number, chunk) in (1..).zip(chunks) {
            let count = chunk.samples.len() as u32;
            if entries.last().is_none_or(|entry| entry[1] != count) {
                entries.push([number, count, 1]);
            }
        }
        words(out, &[entries.len() as u32]);
        words(out, entries.as_flattened());
    }));
    out.extend(versioned(b"stsz", 0, |out| {
        words(out, &[0, samples.len() as u32]);
        samples.iter().for_each(|sample| words(out, &[sample.size]));
    }));
    out.extend(versioned(if long { b"co64" } else { b"stco" }, 0, |out| {
        words(out, &[chunks.len() as u32]);
        for chunk in chunks {
            let at = start + chunk.offset;
            if long {
                out.extend(at.to_be_bytes());
            } else {
                words(out, &[at as u32]);
            }
        }
    }));
    Ok(out)
}

/// The time from each sample's decoding to the next one's: their lengths, and where fragments leave
/// a gap in between, that as well.
fn durations(samples: &[Sample]) -> Result<Vec<u32>, MediaError> {
    let next = samples.iter().skip(1).map(|sample| Some(sample.at));
    samples
        .iter()
        .zip(next.chain([None]))
        .map(|(sample, next)| match next {
            None => Ok(sample.duration),
            Some(next) => u32::try_from(next.saturating_sub(sample.at))
                .map_err(|_| MediaError::mp4("fragments that go back in time")),
        })
        .collect()
}

/// A table of (count, value).
fn runs(name: &[u8; 4], values: impl Iterator<Item = u32>) -> Vec<u8> {
    let mut entries: Vec<[u32; 2]> = Vec::new();
    for value in values {
        match entries.last_mut() {
            Some(entry) if entry[1] == value => entry[0] += 1,
            _ => entries.push([1, value]),
        }
    }
    versioned(name, 0, |out| {
        words(out, &[entries.len() as u32]);
        words(out, entries.as_flattened());
    })
}
