//! The sound track of an MP4: which codec it has, and its packets through a decoder.
//!
//! The packets are found by this crate's own reader, and not by Symphonia's, because that one knows
//! no edit lists, and sound without them is late by what the encoder put in front of it.

use symphonia::core::audio::{Channels, Position};
use symphonia::core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_FLAC, CODEC_ID_MP3};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::packet::PacketRef;
use symphonia::core::units::{Duration, Timestamp};

use crate::MediaError;
use crate::audio::{HELP, Pcm, Span, reason};
use crate::info::AudioInfo;
use crate::mp4_boxes::{Fields, child};
use crate::mp4_tracks::{self, Movie, Track};

pub(crate) fn info(bytes: &[u8]) -> Result<Option<AudioInfo>, MediaError> {
    let movie = mp4_tracks::read(bytes)?;
    let Some(track) = heard(&movie) else {
        return Ok(None);
    };
    let codec = Codec::of(track, bytes)?;
    Ok(Some(AudioInfo {
        codec: codec.name,
        rate: codec.rate,
        channels: codec.channels as u16,
        duration: (track.end() - movie.zero()).max(0.0),
    }))
}

pub(crate) fn decode(
    bytes: &[u8],
    start: f64,
    seconds: Option<f64>,
) -> Result<Option<Pcm>, MediaError> {
    let movie = mp4_tracks::read(bytes)?;
    let Some(track) = heard(&movie) else {
        return Ok(None);
    };
    let codec = Codec::of(track, bytes)?;
    let Some(parameters) = &codec.parameters else {
        return Err(MediaError::Unsupported {
            what: format!(
                "MP4 with {} sound of {} channels",
                codec.name, codec.channels
            ),
            help: HELP,
        });
    };
    let zero = movie.zero();
    let mut decoder = open(parameters)?;
    let mut span = Span::new(
        [codec.rate, codec.channels],
        start,
        seconds,
        track.end() - zero,
    )?;
    let place = |at: i64| ((track.seconds(at) - zero) * f64::from(codec.rate)).round() as i64;
    // What an edit list leaves out at the beginning is no sound.
    let begin = ((track.edit.gap - zero) * f64::from(codec.rate)).round() as i64;
    let first = track.samples.partition_point(|sample| {
        place(sample.at.saturating_add(sample.duration.into())) <= span.from()
    });
    let mut packet_samples = Vec::new();
    for sample in &track.samples[first.saturating_sub(codec.preroll)..] {
        if span.full() || place(sample.at) >= span.to() {
            break;
        }
        let packet = PacketRef::new(0, Timestamp::ZERO, Duration::ZERO, sample.bytes(bytes));
        let at = place(sample.at);
        match decoder.decode_ref(&packet) {
            Ok(heard) => {
                let spec = heard.spec();
                let found = [spec.rate(), spec.channels().count() as u32];
                if found != [codec.rate, codec.channels] {
                    return Err(MediaError::mp4(format!(
                        "sound of {} channels at {} per second in a track of {} at {}",
                        found[1], found[0], codec.channels, codec.rate
                    )));
                }
                heard.copy_to_vec_interleaved(&mut packet_samples);
                let channels = codec.channels as usize;
                let skip = (begin - at).clamp(0, (packet_samples.len() / channels) as i64);
                span.put(at + skip, &packet_samples[skip as usize * channels..])?;
            }
            // Packets before the span may lean on some before them.
            Err(_) if place(sample.at.saturating_add(sample.duration.into())) <= span.from() => {}
            Err(error) => return Err(reason("MP4", error)),
        }
    }
    Ok(Some(span.finish()))
}

/// The track, if there is anything in it.
fn heard<'a, 'b>(movie: &'b Movie<'a>) -> Option<&'b Track<'a>> {
    movie
        .sound
        .as_ref()
        .filter(|track| !track.samples.is_empty())
}

/// What the sample description says.
struct Codec {
    name: String,
    rate: u32,
    channels: u32,
    /// Packets before the first wanted one that the decoder must have seen.
    preroll: usize,
    /// What a decoder is opened with; `None` if there is none for it here.
    parameters: Option<AudioCodecParameters>,
}

impl Codec {
    fn of(track: &Track<'_>, bytes: &[u8]) -> Result<Self, MediaError> {
        let entry = track.description()?;
        let mut fields = Fields::new(entry.body, "sound description");
        fields.skip(8)?;
        let version = fields.u16()?;
        fields.skip(6)?;
        let channels = u32::from(fields.u16()?);
        fields.skip(6)?;
        let mut rate = fields.u32()? >> 16;
        // QuickTime's longer descriptions.
        fields.skip(match version {
            1 => 16,
            2 => 36,
            _ => 0,
        })?;
        if rate == 0 {
            rate = track.timescale;
        }
        let first = track.samples.first();
        let first = first.map_or(&[][..], |sample| sample.bytes(bytes));
        let mut codec = Self {
            name: String::from_utf8_lossy(&entry.name)
                .trim()
                .to_ascii_lowercase(),
            rate,
            channels,
            preroll: 2,
            parameters: None,
        };
        match &entry.name {
            b"mp4a" => {
                let inside = fields.rest();
                let stream = child(inside, b"esds")
                    .or_else(|_| child(inside, b"wave").and_then(|wave| child(wave, b"esds")))?;
                codec.stream(stream)?;
                if codec.name == "mp3" {
                    codec.mp3(first);
                }
            }
            b".mp3" => codec.mp3(first),
            b"fLaC" => {
                let boxed = child(fields.rest(), b"dfLa")?;
                // The version of the box, then the header of a block: the stream's information.
                if let Some(block) = boxed.get(8..42) {
                    codec.name = "flac".into();
                    // Twenty bits of rate, and three of channels, less one.
                    codec.rate = u32::from(block[10]) << 12
                        | u32::from(block[11]) << 4
                        | u32::from(block[12]) >> 4;
                    codec.channels = u32::from(block[12] >> 1 & 7) + 1;
                    let mut parameters = AudioCodecParameters::new();
                    parameters
                        .for_codec(CODEC_ID_FLAC)
                        .with_extra_data(block.into());
                    codec.parameters = Some(parameters);
                }
            }
            _ => {}
        }
        Ok(codec)
    }

    /// Reads an elementary stream descriptor (ISO/IEC 14496-1, 7.2.6.5).
    fn stream(&mut self, body: &[u8]) -> Result<(), MediaError> {
        let mut fields = Fields::new(body, "esds");
        fields.skip(4)?;
        let mut stream = Fields::new(descriptor(&mut fields, 3)?, "esds");
        stream.skip(2)?;
        let flags = stream.u8()?;
        if flags & 0x80 != 0 {
            stream.skip(2)?;
        }
        if flags & 0x40 != 0 {
            let length = usize::from(stream.u8()?);
            stream.skip(length)?;
        }
        if flags & 0x20 != 0 {
            stream.skip(2)?;
        }
        let mut config = Fields::new(descriptor(&mut stream, 4)?, "esds");
        let kind = config.u8()?;
        config.skip(12)?;
        match kind {
            0x40 | 0x66..=0x68 => self.aac(descriptor(&mut config, 5)?),
            0x69 | 0x6B => {
                self.name = "mp3".into();
                Ok(())
            }
            other => {
                self.name = format!("mp4a.{other:02x}");
                Ok(())
            }
        }
    }

    /// Reads AAC's own configuration (ISO/IEC 14496-3, 1.6.2.1).
    fn aac(&mut self, config: &[u8]) -> Result<(), MediaError> {
        const RATES: [u32; 13] = [
            96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
            8_000, 7_350,
        ];
        let bits = config
            .iter()
            .take(12)
            .fold(0u128, |sum, &byte| sum << 8 | u128::from(byte))
            << (8 * (12 - config.len().min(12)));
        let mut left = 96;
        let mut read = |count: u32| {
            left -= count;
            (bits >> left) as u32 & ((1 << count) - 1)
        };
        let object = match read(5) {
            31 => 32 + read(6),
            object => object,
        };
        let known = |index: u32| {
            RATES
                .get(index as usize)
                .copied()
                .ok_or_else(|| MediaError::mp4(format!("AAC with a rate of index {index}")))
        };
        let mut rate = match read(4) {
            15 => read(24),
            index => known(index)?,
        };
        let channels = read(4);
        // HE-AAC has a second rate, for the upper band. It stands in front, or behind a sync word
        // where decoders of old overlook it.
        let upper = match (object, config.get(2..5)) {
            (5 | 29, _) => Some(read(4)),
            (_, Some(&[0x56, 0xE5, tail])) if tail & 0x80 != 0 => Some(u32::from(tail >> 3 & 15)),
            _ => None,
        };
        if let Some(index) = upper {
            rate = known(index)?;
        }
        self.rate = rate;
        self.channels = match channels {
            0 => self.channels,
            7 => 8,
            channels => channels,
        };
        self.name = match (object, upper) {
            (_, Some(_)) => "he-aac".into(),
            (2, None) => "aac".into(),
            (other, None) => format!("aac object {other}"),
        };
        if self.name == "aac" && matches!(channels, 1 | 2) {
            let mut parameters = AudioCodecParameters::new();
            parameters
                .for_codec(CODEC_ID_AAC)
                .with_extra_data(config.into());
            self.parameters = Some(parameters);
        }
        Ok(())
    }

    /// Takes rate and channels from a frame of MP3, since writers fill the description with others.
    fn mp3(&mut self, frame: &[u8]) {
        self.name = "mp3".into();
        // A frame may keep its bits in up to nine frames before it.
        self.preroll = 11;
        let Some(&[0xFF, version, rate, mode, ..]) = frame.first_chunk::<4>() else {
            return;
        };
        let halved = match version >> 3 & 3 {
            3 => 0,
            2 => 1,
            _ => 2,
        };
        let Some(rate) = [44_100, 48_000, 32_000].get(usize::from(rate >> 2 & 3)) else {
            return;
        };
        self.rate = rate >> halved;
        self.channels = if mode >> 6 == 3 { 1 } else { 2 };
        let channels = match self.channels {
            1 => Channels::from(Position::FRONT_CENTER),
            _ => Channels::from(Position::FRONT_LEFT | Position::FRONT_RIGHT),
        };
        let mut parameters = AudioCodecParameters::new();
        parameters
            .for_codec(CODEC_ID_MP3)
            .with_sample_rate(self.rate)
            .with_channels(channels);
        self.parameters = Some(parameters);
    }
}

/// The inside of the next descriptor, which must have the tag `tag`.
fn descriptor<'a>(fields: &mut Fields<'a>, tag: u8) -> Result<&'a [u8], MediaError> {
    let found = fields.u8()?;
    let mut length = 0;
    for _ in 0..4 {
        let byte = fields.u8()?;
        length = length << 7 | usize::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            break;
        }
    }
    if found != tag {
        return Err(MediaError::mp4(format!(
            "a sound description with tag {found} in place of {tag}"
        )));
    }
    fields.take(length)
}

fn open(parameters: &AudioCodecParameters) -> Result<Box<dyn AudioDecoder>, MediaError> {
    symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(|error| reason("MP4", error))
}

/// How many packets before a place a decoder must have seen to be right from that place on.
pub(crate) fn preroll(track: &Track<'_>, bytes: &[u8]) -> usize {
    Codec::of(track, bytes).map_or(2, |codec| codec.preroll)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec() -> Codec {
        Codec {
            name: String::new(),
            rate: 0,
            channels: 0,
            preroll: 0,
            parameters: None,
        }
    }

    #[test]
    fn the_configuration_of_aac_is_read() {
        for (config, name, rate, channels, decoded) in [
            (&[0x12, 0x10][..], "aac", 44_100, 2, true),
            (&[0x11, 0x88], "aac", 48_000, 1, true),
            // 5.1.
            (&[0x11, 0xB0], "aac", 48_000, 6, false),
            // HE-AAC, said in front and said behind.
            (&[0x2B, 0x11, 0x88, 0x00], "he-aac", 48_000, 2, false),
            (&[0x13, 0x10, 0x56, 0xE5, 0x98], "he-aac", 48_000, 2, false),
            // The sync word, and no upper band behind it, as FFmpeg writes it.
            (&[0x12, 0x10, 0x56, 0xE5, 0x00], "aac", 44_100, 2, true),
        ] {
            let mut codec = codec();
            codec.aac(config).unwrap();
            assert_eq!(
                (codec.name.as_str(), codec.rate, codec.channels),
                (name, rate, channels),
                "{config:02x?}"
            );
            assert_eq!(codec.parameters.is_some(), decoded, "{config:02x?}");
        }
        assert!(codec().aac(&[0x16, 0xFF]).is_err());
    }

    #[test]
    fn descriptors_are_checked() {
        let mut long = Fields::new(&[5, 0x80, 0x80, 0x80, 2, 7, 8], "test");
        assert_eq!(descriptor(&mut long, 5).unwrap(), [7, 8]);
        assert!(descriptor(&mut Fields::new(&[5, 9, 1], "test"), 5).is_err());
        assert!(descriptor(&mut Fields::new(&[4, 1, 1], "test"), 5).is_err());
    }
}
