//! Sound: what a file's sound track is, and the samples of a span of it.
//!
//! Second 0 is when the first frame of the picture is shown, so that sound and picture line up; in a
//! sound file of its own it is the first sample. What shifts the two against each other is honoured:
//! in MP4 the first gap and the first stretch of each track's edit list (which is where encoders say
//! how many samples of AAC come before the sound begins), start times of fragments, and gaps between
//! packets; in MP3 the delay and padding of LAME's header; in Ogg the positions of the pages. What
//! lies before second 0 is left out, and where the sound begins later there is silence. Not honoured
//! are later stretches of an edit list, and iTunes' `iTunSMPB` comment.

use std::panic::{AssertUnwindSafe, catch_unwind};

use symphonia::core::errors::Error;

use crate::info::AudioInfo;
use crate::{MediaError, audio_file, audio_mp4};

/// Samples of sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Pcm {
    /// Samples per second, of each channel.
    pub rate: u32,
    /// Channels.
    pub channels: u16,
    /// The samples, -1 to 1 (lossy codecs overshoot a little), the channels of one instant side by
    /// side: `[time, channel]`.
    pub samples: Vec<f32>,
}

/// What the first sound track of an MP4 is, or a WAV, FLAC, Ogg Vorbis, MP3 or M4A file on its own;
/// `None` if there is none. Its length is counted from second 0. Nothing is decoded.
///
/// # Errors
/// If the headers are damaged.
pub fn audio_info(bytes: &[u8]) -> Result<Option<AudioInfo>, MediaError> {
    guarded(|| match Container::of(bytes) {
        Some(Container::Mp4) => audio_mp4::info(bytes),
        Some(Container::File(kind)) => audio_file::info(bytes, kind).map(Some),
        None => Ok(None),
    })
}

/// Decodes the sound from second `start` on: `seconds` of it, or to its end. Only the packets of
/// the span, and a few before it that the codec leans on, are decoded. `None` if the file has no
/// sound; no samples if the sound ends before `start`.
///
/// # Errors
/// If the file is damaged, the codec is not decoded here (AAC with more than two channels, HE-AAC,
/// AC-3, Opus, ...), or the span takes more than 4 GiB.
pub fn audio(bytes: &[u8], start: f64, seconds: Option<f64>) -> Result<Option<Pcm>, MediaError> {
    if !(0.0..1e9).contains(&start) || seconds.is_some_and(|seconds| !(0.0..1e9).contains(&seconds))
    {
        return Err(MediaError::size(format!(
            "sound is taken from a second of 0 or later, for 0 seconds or more, not {seconds:?} from {start}"
        )));
    }
    guarded(|| match Container::of(bytes) {
        Some(Container::Mp4) => audio_mp4::decode(bytes, start, seconds),
        Some(Container::File(kind)) => audio_file::decode(bytes, kind, start, seconds).map(Some),
        None => Ok(None),
    })
}

// Symphonia indexes by numbers of damaged files here and there, and panics. What it held is lost with
// the call, so nothing half-changed is seen later.
fn guarded<T>(work: impl FnOnce() -> Result<T, MediaError>) -> Result<T, MediaError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(MediaError::damaged(
            "sound",
            "the decoder gave up at an impossible value",
        ))
    })
}

/// Where sound can lie.
enum Container {
    Mp4,
    File(FileKind),
}

/// A kind of sound file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FileKind {
    Wav,
    Flac,
    Ogg,
    Mp3,
}

impl Container {
    fn of(bytes: &[u8]) -> Option<Self> {
        let at = |from: usize, name: &[u8]| bytes.get(from..).is_some_and(|b| b.starts_with(name));
        if at(0, b"RIFF") && at(8, b"WAVE") {
            return Some(Self::File(FileKind::Wav));
        }
        if at(0, b"fLaC") {
            return Some(Self::File(FileKind::Flac));
        }
        if at(0, b"OggS") {
            return Some(Self::File(FileKind::Ogg));
        }
        // A frame of layer III: twelve bits of sync, of which MPEG 2.5 clears one.
        let frame = matches!(bytes, [0xFF, second, ..] if second & 0xE6 == 0xE2);
        if at(0, b"ID3") || frame {
            return Some(Self::File(FileKind::Mp3));
        }
        let names = [
            b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"styp",
        ];
        names.iter().any(|&name| at(4, name)).then_some(Self::Mp4)
    }
}

/// Bytes of samples that are returned at once.
const MEMORY: u64 = 4 << 30;
/// Longest silence between two packets, in seconds, before a file is taken to be damaged.
const HOLE: i64 = 60;

/// The samples of a span as they are gathered. Places are counted from second 0, in samples of each
/// channel.
pub(crate) struct Span {
    rate: u32,
    channels: u16,
    from: i64,
    to: i64,
    /// The place that is filled next.
    at: i64,
    /// Where the last packet ended.
    ended: Option<i64>,
    samples: Vec<f32>,
}

impl Span {
    /// The span of `seconds` from `start`, in sound that ends at second `end`.
    ///
    /// # Errors
    /// If it would take too much memory.
    pub(crate) fn new(
        [rate, channels]: [u32; 2],
        start: f64,
        seconds: Option<f64>,
        end: f64,
    ) -> Result<Self, MediaError> {
        if !(1..=64).contains(&channels) || !(100..=1_000_000).contains(&rate) {
            return Err(MediaError::damaged(
                "sound",
                format!("{channels} channels at {rate} samples per second"),
            ));
        }
        let end = seconds.map_or(end, |seconds| end.min(start + seconds));
        let place = |seconds: f64| (seconds * f64::from(rate)).round() as i64;
        let (from, to) = (place(start), place(end).max(place(start)));
        let bytes = (to.saturating_sub(from) as u64)
            .saturating_mul(u64::from(channels))
            .saturating_mul(4);
        if bytes > MEMORY {
            return Err(MediaError::size(format!(
                "{:.0} seconds of sound with {channels} channels at {rate} per second take {bytes} bytes, but at most {MEMORY} are decoded at once\n  help: ask for shorter spans",
                end - start
            )));
        }
        Ok(Self {
            rate,
            channels: channels as u16,
            from,
            to,
            at: from,
            ended: None,
            samples: Vec::new(),
        })
    }

    pub(crate) fn from(&self) -> i64 {
        self.from
    }

    pub(crate) fn to(&self) -> i64 {
        self.to
    }

    pub(crate) fn full(&self) -> bool {
        self.at >= self.to
    }

    /// Takes a packet's samples, whose first one belongs at `place`.
    ///
    /// # Errors
    /// If a minute or more is missing before it.
    pub(crate) fn put(&mut self, place: i64, packet: &[f32]) -> Result<(), MediaError> {
        let channels = usize::from(self.channels);
        let count = (packet.len() / channels) as i64;
        // A sample more or less between packets comes from rounding between two clocks.
        let place = match self.ended {
            Some(ended) if place.abs_diff(ended) <= 2 => ended,
            _ => place,
        };
        self.ended = Some(place.saturating_add(count));
        let first = place.max(self.at);
        let last = place.saturating_add(count).min(self.to);
        if first >= last {
            return Ok(());
        }
        let missing = first - self.at;
        if !self.samples.is_empty() && missing / i64::from(self.rate) >= HOLE {
            return Err(MediaError::damaged(
                "sound",
                format!("{} seconds are missing", missing / i64::from(self.rate)),
            ));
        }
        let silence = self.samples.len() + missing as usize * channels;
        self.samples.resize(silence, 0.0);
        let wanted = (first - place) as usize * channels..(last - place) as usize * channels;
        self.samples.extend_from_slice(&packet[wanted]);
        self.at = last;
        Ok(())
    }

    pub(crate) fn finish(self) -> Pcm {
        Pcm {
            rate: self.rate,
            channels: self.channels,
            samples: self.samples,
        }
    }
}

/// What Symphonia says of a file.
pub(crate) fn reason(kind: &'static str, error: Error) -> MediaError {
    match error {
        Error::Unsupported(what) => MediaError::Unsupported {
            what: format!("{kind} sound: {what}"),
            help: HELP,
        },
        Error::IoError(_) => MediaError::damaged(kind, "the sound ends too early"),
        other => MediaError::damaged(kind, format!("its sound: {other}")),
    }
}

pub(crate) const HELP: &str = "convert the sound to AAC-LC with one or two channels, e.g. ffmpeg -i in.mp4 -c:v copy -c:a aac -ac 2 out.mp4";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_takes_its_part_of_each_packet_and_silence_for_what_is_missing() {
        // Samples 10 to 30 of two channels at 100 per second.
        let mut span = Span::new([100, 2], 0.1, Some(0.2), 9.0).unwrap();
        let packet = |from: i64, count: i64| -> Vec<f32> {
            (from..from + count)
                .flat_map(|at| [at as f32, -at as f32])
                .collect()
        };
        span.put(0, &packet(0, 8)).unwrap();
        span.put(8, &packet(8, 8)).unwrap();
        assert!(!span.full());
        span.put(20, &packet(20, 16)).unwrap();
        assert!(span.full());
        let sound = span.finish();
        let wanted: Vec<f32> = (10..30)
            .map(|at| {
                if (16..20).contains(&at) {
                    0.0
                } else {
                    at as f32
                }
            })
            .flat_map(|at| [at, -at])
            .collect();
        assert_eq!(sound.samples, wanted);
    }

    #[test]
    fn the_end_of_the_sound_ends_the_span() {
        let mut span = Span::new([100, 1], 0.0, Some(1.0), 0.05).unwrap();
        span.put(-3, &[1.0; 20]).unwrap();
        assert_eq!(span.finish().samples, [1.0; 5]);
        let mut span = Span::new([100, 1], 3.0, None, 0.05).unwrap();
        assert!(span.full());
        span.put(0, &[1.0; 20]).unwrap();
        assert!(span.finish().samples.is_empty());
    }

    #[test]
    fn too_much_sound_is_refused() {
        let error = Span::new([48_000, 2], 0.0, None, 1e6).err().unwrap();
        assert!(error.to_string().contains("shorter spans"), "{error}");
    }
}
