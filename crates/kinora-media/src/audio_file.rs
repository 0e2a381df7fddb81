//! Sound files of their own: WAV, FLAC, Ogg Vorbis and MP3.

use std::io::Cursor;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error;
use symphonia::core::formats::{FormatOptions, FormatReader, SeekMode, SeekTo, Track, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::units::{TimeBase, Timestamp};
use symphonia::default::formats::{FlacReader, MpaReader, OggReader, WavReader};

use crate::MediaError;
use crate::audio::{FileKind, Pcm, Span, reason};
use crate::info::AudioInfo;

impl FileKind {
    fn name(self) -> &'static str {
        match self {
            Self::Wav => "WAV",
            Self::Flac => "FLAC",
            Self::Ogg => "Ogg",
            Self::Mp3 => "MP3",
        }
    }
}

pub(crate) fn info(bytes: &[u8], kind: FileKind) -> Result<AudioInfo, MediaError> {
    let reader = open(bytes, kind)?;
    let sound = Sound::of(reader.as_ref(), kind)?;
    Ok(AudioInfo {
        codec: sound.codec,
        rate: sound.rate,
        channels: sound.channels as u16,
        duration: sound.duration.unwrap_or(0.0),
    })
}

pub(crate) fn decode(
    bytes: &[u8],
    kind: FileKind,
    start: f64,
    seconds: Option<f64>,
) -> Result<Pcm, MediaError> {
    let failed = |error| reason(kind.name(), error);
    let mut reader = open(bytes, kind)?;
    let sound = Sound::of(reader.as_ref(), kind)?;
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(
            sound.parameters.audio().ok_or_else(|| no_sound(kind))?,
            &AudioDecoderOptions::default(),
        )
        .map_err(failed)?;
    // A length that a header leaves out, or only guesses, does not end the sound.
    let end = match sound.duration {
        Some(duration) if kind != FileKind::Mp3 => duration,
        _ => start + seconds.unwrap_or(LONGEST),
    };
    let mut span = Span::new([sound.rate, sound.channels], start, seconds, end)?;
    if span.full() {
        return Ok(span.finish());
    }
    let early = start - PREROLL;
    if early > 0.0 {
        let to = SeekTo::Timestamp {
            ts: Timestamp::new(sound.ticks(early)),
            track_id: sound.id,
        };
        match reader.seek(SeekMode::Accurate, to) {
            Ok(_) => decoder.reset(),
            // Behind the end of the sound.
            Err(Error::SeekError(_)) => return Ok(span.finish()),
            Err(error) => return Err(failed(error)),
        }
    }
    let mut samples = Vec::new();
    while !span.full() {
        let packet = match reader.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(error) => return Err(failed(error)),
        };
        if packet.track_id != sound.id {
            continue;
        }
        let place = sound.place(
            packet
                .pts
                .get()
                .saturating_add(packet.trim_start.get() as i64),
        );
        match decoder.decode(&packet) {
            Ok(heard) => {
                let spec = heard.spec();
                let found = [spec.rate(), spec.channels().count() as u32];
                if found != [sound.rate, sound.channels] {
                    return Err(MediaError::damaged(
                        kind.name(),
                        format!(
                            "sound of {} channels at {} per second in a file of {} at {}",
                            found[1], found[0], sound.channels, sound.rate
                        ),
                    ));
                }
                heard.copy_to_vec_interleaved(&mut samples);
                span.put(place, &samples)?;
            }
            // Packets before the span may lean on some before them.
            Err(Error::DecodeError(_)) if place < span.from() => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(span.finish())
}

/// Seconds before a span that decoding begins, for codecs whose packets overlap or lean on others.
const PREROLL: f64 = 0.3;
/// Seconds that a file of unknown length is decoded for.
const LONGEST: f64 = 3600.0;

fn open(bytes: &[u8], kind: FileKind) -> Result<Box<dyn FormatReader + '_>, MediaError> {
    let bytes = match kind {
        FileKind::Mp3 => without_tags(bytes),
        _ => bytes,
    };
    let stream = MediaSourceStream::new(
        Box::new(Cursor::new(bytes)),
        MediaSourceStreamOptions::default(),
    );
    let options = FormatOptions::default();
    let reader: Result<Box<dyn FormatReader + '_>, Error> = match kind {
        FileKind::Wav => WavReader::try_new(stream, options).map(|reader| Box::new(reader) as _),
        FileKind::Flac => FlacReader::try_new(stream, options).map(|reader| Box::new(reader) as _),
        FileKind::Ogg => OggReader::try_new(stream, options).map(|reader| Box::new(reader) as _),
        FileKind::Mp3 => MpaReader::try_new(stream, options).map(|reader| Box::new(reader) as _),
    };
    reader.map_err(|error| reason(kind.name(), error))
}

/// The frames of an MP3 file, without the title and so on in front (ID3v2) and behind (ID3v1).
fn without_tags(mut bytes: &[u8]) -> &[u8] {
    while let Some(head) = bytes.strip_prefix(b"ID3") {
        let Some(&[_, _, flags, a, b, c, d]) = head.first_chunk::<7>() else {
            return &[];
        };
        let size = [a, b, c, d]
            .iter()
            .fold(0, |sum, &byte| sum << 7 | usize::from(byte & 0x7F));
        let footer = if flags & 0x10 != 0 { 10 } else { 0 };
        bytes = bytes.get(10 + size + footer..).unwrap_or_default();
    }
    match bytes.len().checked_sub(128) {
        Some(at) if bytes[at..].starts_with(b"TAG") => &bytes[..at],
        _ => bytes,
    }
}

/// What a file says of its sound.
struct Sound {
    id: u32,
    codec: String,
    rate: u32,
    channels: u32,
    /// Seconds.
    duration: Option<f64>,
    base: TimeBase,
    parameters: CodecParameters,
}

impl Sound {
    fn of(reader: &dyn FormatReader, kind: FileKind) -> Result<Self, MediaError> {
        let track: &Track = reader
            .default_track(TrackType::Audio)
            .ok_or_else(|| no_sound(kind))?;
        let parameters = track.codec_params.clone().ok_or_else(|| no_sound(kind))?;
        let audio = parameters.audio().ok_or_else(|| no_sound(kind))?;
        let registered = symphonia::default::get_codecs().get_audio_decoder(audio.codec);
        let (Some(codec), Some(rate), Some(channels)) =
            (registered, audio.sample_rate, &audio.channels)
        else {
            return Err(no_sound(kind));
        };
        let base = track
            .time_base
            .or_else(|| TimeBase::try_from_recip(rate))
            .ok_or_else(|| no_sound(kind))?;
        let seconds =
            |ticks: u64| ticks as f64 * f64::from(base.numer.get()) / f64::from(base.denom.get());
        Ok(Self {
            id: track.id,
            codec: codec.codec.info.short_name.into(),
            rate,
            channels: channels.count() as u32,
            duration: track.duration.map(|duration| seconds(duration.get())),
            base,
            parameters: parameters.clone(),
        })
    }

    /// The place, in samples of each channel, of a time in the file's units.
    fn place(&self, ticks: i64) -> i64 {
        let samples = i128::from(ticks) * i128::from(self.base.numer.get()) * i128::from(self.rate)
            / i128::from(self.base.denom.get());
        samples.clamp(-(1 << 60), 1 << 60) as i64
    }

    fn ticks(&self, seconds: f64) -> i64 {
        (seconds * f64::from(self.base.denom.get()) / f64::from(self.base.numer.get())) as i64
    }
}

fn no_sound(kind: FileKind) -> MediaError {
    MediaError::Unsupported {
        what: format!("a file of {} with sound of an unknown codec", kind.name()),
        help: "convert it to WAV, FLAC, Ogg Vorbis or MP3",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_cut_off() {
        let mut file = b"ID3\x04\0\0\0\0\x01\x02".to_vec();
        file.extend([0; 130]);
        file.extend([0xFF, 0xFB, 1, 2]);
        assert_eq!(without_tags(&file), [0xFF, 0xFB, 1, 2]);
        let mut end = b"TAG".to_vec();
        end.resize(128, 0);
        file.extend(end);
        assert_eq!(without_tags(&file), [0xFF, 0xFB, 1, 2]);
        assert_eq!(without_tags(b"ID3\x04\0"), b"");
        assert_eq!(without_tags(b"ID3\x04\0\0\x7f\x7f\x7f\x7fabc"), b"");
    }
}
