//! Decoding an H.264 track of an MP4, whose tables are read here, with FFmpeg's codec.

use super::sys::{Codec, Packet};
use crate::MediaError;
use crate::h264_video::Video;
use crate::picture;
use crate::sink::Sink;

/// Decodes the frames that a sink waits for, from frame `entry` of the stream on. `scratch` is
/// memory that is kept between clips.
pub(crate) fn run(
    bytes: &[u8],
    video: &Video,
    entry: usize,
    sink: &mut Sink<'_>,
    wanted: &[usize],
    scratch: &mut Vec<u8>,
    threads: usize,
) -> Result<(), MediaError> {
    let fed = video.needed(bytes, entry, wanted, false);
    let mut codec = Codec::h264(threads, video.reorder())?;
    let mut packet = Packet::new()?;
    let (mut damaged, mut deep) = (false, Vec::new());
    for count in 0..=fed.len() {
        let next = match fed.get(count) {
            Some(&index) => {
                video.annex_b(scratch, video.coded(bytes, index), count == 0)?;
                // Times are places in the order of showing, so that each is a frame's own.
                packet.fill(scratch, video.rank[index] as i64)?;
                Some(&mut packet)
            }
            None => None,
        };
        let decoded = codec.decode(next, |picture| {
            damaged |= picture.damaged();
            let rank = picture.time().map(|time| time as usize);
            if rank.is_none() || rank != sink.next() {
                return Ok(());
            }
            if damaged {
                return Err(MediaError::mp4("its slices do not decode"));
            }
            let planes = picture.planes(&mut deep).ok_or_else(|| {
                MediaError::mp4("a picture of another format than the stream's parameters promise")
            })?;
            picture::put(&planes, video.look(planes.size)?, sink)
        });
        decoded.map_err(|error| match fed.get(count) {
            Some(index) => MediaError::mp4(format!("frame {index} does not decode: {error}")),
            None => MediaError::mp4(format!("the last frames do not decode: {error}")),
        })?;
        if sink.next().is_none() {
            return Ok(());
        }
    }
    Err(MediaError::mp4(format!(
        "frame {} of {} did not come out of the decoder",
        sink.next().unwrap_or(0),
        video.track.frames.len()
    )))
}
