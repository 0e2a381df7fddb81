//! Cutting: a span of an MP4 as a file of its own, its packets copied and not encoded again.

use crate::MediaError;
use crate::audio_mp4;
use crate::mp4_boxes::{Boxes, Fields};
use crate::mp4_remux::{self, Copied};
use crate::mp4_tracks::{self, Sample, Track};

/// A piece of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// The new file: MP4 with its tables in front.
    pub bytes: Vec<u8>,
    /// Seconds into the new file where the wanted part begins: decoding starts at a sync frame, and
    /// what lies before the wanted part comes along.
    pub start: f64,
}

/// Copies the packets of seconds `start` to `end` of an MP4 into a new one. Second 0 is when the
/// first frame is shown, in the new file as well.
///
/// The piece begins with the last sync frame at or before `start` from which decoding can start, and
/// ends with the last frame that is shown before `end`; where frames are stored out of order, a few
/// after `end` come along, so that nothing is missing between the first and the last. Frames keep
/// their bytes, lengths and distances; the sample descriptions, the picture's matrix and size and
/// the language are copied. The sound of the same seconds comes along, with the packets before it
/// that its decoder leans on, which an edit list hides, so that it lines up as it did. Whatever
/// codecs the tracks have, since nothing is decoded; tracks other than the first video and the first
/// sound are left out.
///
/// # Errors
/// If the file is damaged, the span is empty or lies behind the end, or the file changes its sample
/// description on the way.
pub fn cut(bytes: &[u8], start: f64, end: f64) -> Result<Cut, MediaError> {
    if !(start >= 0.0 && end > start && end < 1e9) {
        return Err(MediaError::size(format!(
            "a piece begins at second 0 or later and ends after that, not from {start} to {end}"
        )));
    }
    let movie = mp4_tracks::read(bytes)?;
    let zero = movie.zero();
    let Some(video) = movie
        .video
        .as_ref()
        .filter(|video| !video.samples.is_empty())
    else {
        return Err(MediaError::mp4("no video to cut"));
    };
    let place = |seconds: f64| {
        let units = (seconds + zero - video.edit.gap) * f64::from(video.timescale);
        (units.round() as i64).saturating_add(video.edit.from)
    };
    let coded = Coded::of(video)?;
    let first = entry(video, &coded, bytes, place(start));
    let last = last(&video.samples[first..], place(end)).ok_or_else(|| {
        MediaError::size(format!(
            "a piece from second {start} of a video of {:.3} seconds",
            video.end() - zero
        ))
    })?;
    let frames = &video.samples[first..=first + last];
    if frames
        .iter()
        .all(|frame| frame.shown_until() <= place(start))
    {
        return Err(MediaError::size(format!(
            "a piece from second {start} of a video of {:.3} seconds",
            video.end() - zero
        )));
    }
    one_description(frames)?;
    let begins = frames.iter().map(Sample::shown_at).min().unwrap_or(0);
    let ends = frames.iter().map(Sample::shown_until).max().unwrap_or(0);
    let mut tracks = vec![Copied {
        track: video,
        samples: frames,
        gap: 0.0,
        from: begins,
        length: ends.saturating_sub(begins) as f64 / f64::from(video.timescale),
    }];
    let (begins, ends) = (video.seconds(begins), video.seconds(ends));
    if let Some(sound) = &movie.sound {
        tracks.extend(sound_of(sound, bytes, begins, ends)?);
    }
    Ok(Cut {
        bytes: mp4_remux::write(bytes, movie.brand, &tracks)?,
        start: start - (begins - zero),
    })
}

/// How frames say that decoding can start at them.
enum Coded {
    /// H.264, with the bytes of the length in front of each NAL unit.
    H264(usize),
    Other,
}

impl Coded {
    fn of(track: &Track<'_>) -> Result<Self, MediaError> {
        let entry = track.description()?;
        if !matches!(&entry.name, b"avc1" | b"avc3") {
            return Ok(Self::Other);
        }
        let mut fields = Fields::new(entry.body, "avc1");
        fields.skip(78)?;
        let Some(config) = Boxes::new(fields.rest())
            .filter_map(Result::ok)
            .find(|part| &part.name == b"avcC")
        else {
            return Err(MediaError::mp4("no avcC box"));
        };
        let mut fields = Fields::new(config.body, "avcC");
        fields.skip(4)?;
        Ok(Self::H264(usize::from(fields.u8()? & 3) + 1))
    }

    /// Whether a frame that is marked as a starting point is one: some writers mark all.
    fn starts(&self, mut frame: &[u8]) -> bool {
        let &Self::H264(length_bytes) = self else {
            return true;
        };
        while let Some((length, tail)) = frame.split_at_checked(length_bytes) {
            let length = length
                .iter()
                .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
            match tail.first().map(|head| head & 31) {
                Some(5) => return true,
                Some(1..=4) => return false,
                _ => {}
            }
            frame = tail.get(length..).unwrap_or_default();
        }
        false
    }
}

/// The last frame, at or before a time, from which decoding can start: no frame after it in the file
/// is shown before it, and none before it is shown after it.
fn entry(track: &Track<'_>, coded: &Coded, bytes: &[u8], from: i64) -> usize {
    let samples = &track.samples;
    let mut after = vec![i64::MAX; samples.len()];
    for index in (1..samples.len()).rev() {
        after[index - 1] = after[index].min(samples[index].shown_at());
    }
    let (mut before, mut entry) = (i64::MIN, 0);
    for (index, sample) in samples.iter().enumerate() {
        let shown = sample.shown_at();
        if shown > from {
            // Of frames that are not in order, a later one can still be shown by then.
            if after[index] > from {
                break;
            }
        } else if sample.sync
            && before < shown
            && shown < after[index]
            && coded.starts(sample.bytes(bytes))
        {
            entry = index;
        }
        before = before.max(shown);
    }
    entry
}

/// The last frame to copy: all that are shown before `end`, and then all that are shown before the
/// last of these, in a stream whose frames are stored out of order.
fn last(samples: &[Sample], end: i64) -> Option<usize> {
    let mut last = samples.iter().rposition(|sample| sample.shown_at() < end)?;
    loop {
        let shown = samples[..=last].iter().map(Sample::shown_at).max()?;
        let next = samples
            .iter()
            .rposition(|sample| sample.shown_at() < shown)
            .map_or(last, |next| next.max(last));
        if next == last {
            return Some(last);
        }
        last = next;
    }
}

fn one_description(samples: &[Sample]) -> Result<(), MediaError> {
    match samples.iter().find(|sample| sample.description != 1) {
        None => Ok(()),
        Some(sample) => Err(MediaError::Unsupported {
            what: format!("MP4 with sample description {}", sample.description),
            help: "write it anew with one description, e.g. ffmpeg -i in.mp4 -c:v libx264 out.mp4",
        }),
    }
}

/// The packets of sound from `begins` to `ends`, on the file's clock, and those before that the
/// decoder leans on.
fn sound_of<'a, 'b>(
    track: &'b Track<'a>,
    bytes: &[u8],
    begins: f64,
    ends: f64,
) -> Result<Option<Copied<'a, 'b>>, MediaError> {
    let end = ends.min(track.end());
    let until = |sample: &Sample| track.seconds(sample.shown_until());
    let heard = track
        .samples
        .partition_point(|sample| until(sample) <= begins);
    let stop = track
        .samples
        .partition_point(|sample| track.seconds(sample.shown_at()) < end);
    if heard >= stop {
        return Ok(None);
    }
    let first = heard.saturating_sub(audio_mp4::preroll(track, bytes));
    let samples = &track.samples[first..stop];
    one_description(samples)?;
    // What the file's own edit list hides stays hidden.
    let sounds = begins
        .max(track.edit.gap)
        .max(track.seconds(samples[0].shown_at()));
    let from = (sounds - track.edit.gap) * f64::from(track.timescale);
    Ok(Some(Copied {
        track,
        samples,
        gap: sounds - begins,
        from: (from.round() as i64).saturating_add(track.edit.from),
        length: end - sounds,
    }))
}
