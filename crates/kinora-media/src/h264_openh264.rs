//! Decoding an H.264 track with OpenH264, which is built in.

use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use crate::MediaError;
use crate::h264_video::Video;
use crate::picture;
use crate::sink::Sink;
use crate::yuv::Planes;

/// Decodes the frames that a sink waits for, from frame `entry` of the stream, which is also the
/// `entry`th to be shown. `packet` is memory that is kept between clips.
pub(crate) fn run(
    bytes: &[u8],
    video: &Video,
    entry: usize,
    sink: &mut Sink<'_>,
    wanted: &[usize],
    packet: &mut Vec<u8>,
) -> Result<(), MediaError> {
    // A codec of its own for each stream: after streams with B-frames, even those that ended
    // well, OpenH264 keeps pictures and fails in the middle of a later one.
    let mut codec = open_codec()?;
    // To the end, because the last pictures are held back until others push them out.
    let fed = video.needed(bytes, entry, wanted, true);
    // Pictures come out in the order they are shown.
    let mut order: Vec<usize> = fed.iter().map(|&index| video.rank[index]).collect();
    order.sort_unstable();
    let mut order = order.into_iter();
    let mut take = |picture: &DecodedYUV<'_>, sink: &mut Sink<'_>| {
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
        picture::put(&planes, video.look(planes.size)?, sink)
    };
    for (count, &index) in fed.iter().enumerate() {
        video.annex_b(packet, video.coded(bytes, index), count == 0)?;
        let picture = codec
            .decode(packet)
            .map_err(|error| MediaError::mp4(format!("frame {index} does not decode: {error}")))?;
        if let Some(picture) = picture {
            take(&picture, sink)?;
        }
        if sink.next().is_none() && count + 1 < fed.len() {
            return Ok(());
        }
    }
    let held = codec
        .flush_remaining()
        .map_err(|error| MediaError::mp4(format!("the last frames do not decode: {error}")))?;
    for picture in &held {
        take(picture, sink)?;
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
