//! Decoding an H.264 track with OpenH264, which is built in.

use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use crate::MediaError;
use crate::h264_video::{Video, nal_units};
use crate::picture;
use crate::sink::Sink;
use crate::yuv::Planes;

/// Memory that is kept between clips.
#[derive(Default)]
pub(crate) struct Scratch {
    packet: Vec<u8>,
    frame: Vec<u8>,
}

/// Decodes the frames that a sink waits for, from frame `entry` of the stream, which is also the
/// `entry`th to be shown.
pub(crate) fn run(
    bytes: &[u8],
    video: &Video,
    entry: usize,
    sink: &mut Sink<'_>,
    wanted: &[usize],
    scratch: &mut Scratch,
) -> Result<(), MediaError> {
    // A codec of its own for each stream: after streams with B-frames, even those that ended
    // well, OpenH264 keeps pictures and fails in the middle of a later one.
    let mut codec = open_codec()?;
    let fed: Vec<usize> = (entry..video.track.frames.len())
        .filter(|&index| {
            wanted.binary_search(&video.rank[index]).is_ok()
                || !video.disposable(video.coded(bytes, index))
        })
        .collect();
    // Pictures come out in the order they are shown.
    let mut order: Vec<usize> = fed.iter().map(|&index| video.rank[index]).collect();
    order.sort_unstable();
    let mut order = order.into_iter();
    let mut take = |picture: &DecodedYUV<'_>, sink: &mut Sink<'_>, frame: &mut Vec<u8>| {
        let rank = order.next();
        if rank.is_none() || rank != sink.next() {
            return Ok(());
        }
        let (width, height) = picture.dimensions();
        let (luma, chroma, _) = picture.strides();
        let planes = Planes {
            y: picture.y(),
            u: picture.u(),
            v: picture.v(),
            strides: [luma, chroma],
            size: [height, width],
        };
        picture::put(&planes, video, sink, frame)
    };
    for (count, &index) in fed.iter().enumerate() {
        let parameters = if count == 0 {
            &video.track.parameters[..]
        } else {
            &[]
        };
        let coded = video.coded(bytes, index);
        annex_b(
            &mut scratch.packet,
            parameters,
            coded,
            video.track.length_bytes,
        )?;
        let picture = codec
            .decode(&scratch.packet)
            .map_err(|error| MediaError::mp4(format!("frame {index} does not decode: {error}")))?;
        if let Some(picture) = picture {
            take(&picture, sink, &mut scratch.frame)?;
        }
        if sink.next().is_none() && count + 1 < fed.len() {
            return Ok(());
        }
    }
    let held = codec
        .flush_remaining()
        .map_err(|error| MediaError::mp4(format!("the last frames do not decode: {error}")))?;
    for picture in &held {
        take(picture, sink, &mut scratch.frame)?;
    }
    match sink.next() {
        None => Ok(()),
        Some(missing) => Err(MediaError::mp4(format!(
            "frame {missing} of {} did not come out of the decoder",
            video.track.frames.len()
        ))),
    }
}

fn open_codec() -> Result<openh264::decoder::Decoder, MediaError> {
    // Flushing after each packet would show frames before those that B-frames put in front.
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    openh264::decoder::Decoder::with_api_config(OpenH264API::from_source(), config)
        .map_err(MediaError::codec)
}

/// Turns a frame of an MP4 into what the codec takes: start codes instead of lengths.
fn annex_b(
    packet: &mut Vec<u8>,
    parameters: &[Vec<u8>],
    coded: &[u8],
    length_bytes: usize,
) -> Result<(), MediaError> {
    packet.clear();
    let units = nal_units(coded, length_bytes);
    for nal in parameters.iter().map(|nal| Ok(nal.as_slice())).chain(units) {
        packet.extend([0, 0, 0, 1]);
        packet.extend(nal?);
    }
    Ok(())
}
