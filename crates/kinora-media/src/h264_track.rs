//! The H.264 track of an MP4: its frames, and what its codec needs (ISO/IEC 14496-15).
//!
//! Edit lists are not followed: they shift time and trim, and a data set wants the frames that are
//! there.

use crate::MediaError;
use crate::mp4_boxes::{Fields, Part, child};
use crate::mp4_tracks::{self, Sample};

/// The first video track of a file.
#[derive(Debug)]
pub(crate) struct Track {
    /// Parameter sets, without start codes.
    pub(crate) parameters: Vec<Vec<u8>>,
    /// Bytes of the length in front of each NAL unit.
    pub(crate) length_bytes: usize,
    /// The frames, in the order of decoding.
    pub(crate) frames: Vec<Sample>,
    /// Units of time per second.
    pub(crate) timescale: u32,
    /// The size `[height, width]` that the track asks to be shown at.
    pub(crate) shown: [usize; 2],
    /// Clockwise quarter turns from the coded to the upright picture.
    pub(crate) turns: u8,
    /// The encoder's name for itself.
    pub(crate) encoder: Vec<u8>,
}

/// Reads the first video track.
///
/// # Errors
/// `Damaged` for broken or cut files, `Unsupported` for codecs other than H.264.
pub(crate) fn read(bytes: &[u8]) -> Result<Track, MediaError> {
    let video = mp4_tracks::read_video(bytes)?;
    let (turns, shown) = header(video.header)?;
    let description = video.description()?;
    let mut track = Track {
        parameters: Vec::new(),
        length_bytes: 4,
        frames: video.samples,
        timescale: video.timescale,
        shown,
        turns,
        encoder: Vec::new(),
    };
    self::description(&description, &mut track)?;
    Ok(track)
}

/// The track's quarter turns and the size it is shown at.
fn header(body: &[u8]) -> Result<(u8, [usize; 2]), MediaError> {
    let mut fields = Fields::new(body, "tkhd");
    let long = fields.version()? == 1;
    fields.skip(if long { 32 } else { 20 } + 16)?;
    let matrix: Vec<i32> = (0..9)
        .map(|_| Ok(fields.u32()? as i32))
        .collect::<Result<_, MediaError>>()?;
    let turns = match [matrix[0], matrix[1], matrix[3], matrix[4]].map(i32::signum) {
        [0, 1, -1, 0] => 1,
        [-1, 0, 0, -1] => 2,
        [0, -1, 1, 0] => 3,
        _ => 0,
    };
    let [width, height] = [fields.u32()?, fields.u32()?].map(|side| (side >> 16) as usize);
    Ok((turns, [height, width]))
}

/// The codec and its parameter sets.
fn description(entry: &Part<'_>, track: &mut Track) -> Result<(), MediaError> {
    if !matches!(&entry.name, b"avc1" | b"avc3") {
        return Err(foreign(&entry.name));
    }
    let mut fields = Fields::new(entry.body, "avc1");
    fields.skip(42)?;
    let name = fields.take(32)?;
    track.encoder = name[1..]
        .iter()
        .copied()
        .take(usize::from(name[0]).min(31))
        .collect();
    fields.skip(4)?;
    let mut fields = Fields::new(child(fields.rest(), b"avcC")?, "avcC");
    fields.skip(4)?;
    track.length_bytes = usize::from(fields.u8()? & 3) + 1;
    let sequences = fields.u8()? & 31;
    for kind in [Some(sequences), None] {
        let count = kind.map_or_else(|| fields.u8(), Ok)?;
        for _ in 0..count {
            let length = usize::from(fields.u16()?);
            track.parameters.push(fields.take(length)?.to_vec());
        }
    }
    Ok(())
}

fn foreign(name: &[u8; 4]) -> MediaError {
    let codec = match name {
        b"hvc1" | b"hev1" => "HEVC".into(),
        b"av01" => "AV1".into(),
        b"vp08" => "VP8".into(),
        b"vp09" => "VP9".into(),
        b"mp4v" => "MPEG-4 part 2".into(),
        b"encv" => "encrypted".into(),
        other => format!("{:?}", String::from_utf8_lossy(other)),
    };
    MediaError::Unsupported {
        what: format!("MP4 with {codec} video"),
        help: "build with --features ffmpeg, or convert it to H.264, e.g. ffmpeg -i in.mp4 -c:v libx264 -pix_fmt yuv420p out.mp4",
    }
}
