//! Encoding MP4: H.264, 4:2:0, BT.709.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use openh264::OpenH264API;
use openh264::encoder::{
    BitRate, Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod, QpRange,
    RateControlMode, VuiConfig,
};

use crate::decoder::{DOUBLED, SINGLE};
use crate::h264::nal_type;
use crate::mp4_write::Header;
use crate::yuv::Picture;
use crate::{Clip, MediaError};

/// Writes an MP4 file frame by frame: H.264, yuv420p, BT.709, with its tables in front.
///
/// Only the compressed stream is kept in memory. The file appears whole when [`Mp4Writer::finish`]
/// returns, or not at all.
///
/// Quality is constant (quantizer 12 up to 256x256, else 18: no visible loss). H.264's 4:2:0 stores
/// colour at half the resolution, which costs a 32x32 clip of saturated shapes everything above
/// 25 dB. So clips of at most 64x64 are coded at twice their size, which keeps a colour sample for
/// each pixel; the file notes this, [`crate::decode`] returns the true size, and other players show
/// it at twice the size. Odd and tiny sides are padded by repeating the edge, and cut again by
/// [`crate::decode`].
pub struct Mp4Writer {
    stream: Stream,
    path: PathBuf,
    partial: Partial,
}

impl Mp4Writer {
    /// Starts a file of frames of `width` x `height` at `fps` frames per second.
    ///
    /// # Errors
    /// If the folder cannot be written, or the size or rate cannot be encoded (at most 3840x2160,
    /// or 2160x3840).
    pub fn create(path: &Path, width: usize, height: usize, fps: f64) -> Result<Self, MediaError> {
        let stream = Stream::new(width, height, fps)?;
        let partial = Partial::create(path)?;
        Ok(Self {
            stream,
            path: path.to_path_buf(),
            partial,
        })
    }

    /// Adds one frame, `[H, W, 3]` RGB.
    ///
    /// # Errors
    /// If the bytes are not `height * width * 3`, or the encoder fails.
    pub fn push(&mut self, rgb: &[u8]) -> Result<(), MediaError> {
        self.stream.push(rgb)
    }

    /// Writes the file to disk under its name.
    ///
    /// # Errors
    /// If no frame was pushed, or writing fails.
    pub fn finish(self) -> Result<(), MediaError> {
        let head = self.stream.header()?;
        self.partial
            .publish(&self.path, &[&head, &self.stream.body])
    }
}

/// A clip as the bytes of an MP4 file; see [`Mp4Writer`].
///
/// # Errors
/// If the clip has no frames or no rate, or a size that cannot be encoded.
pub fn encode_mp4(clip: &Clip) -> Result<Vec<u8>, MediaError> {
    let mut stream = Stream::new(clip.width, clip.height, clip.fps)?;
    let bytes = clip.frames * clip.height * clip.width * 3;
    if clip.rgb.len() != bytes {
        return Err(MediaError::size(format!(
            "a clip of {} frames of {}x{} takes {bytes} bytes, but holds {}",
            clip.frames,
            clip.height,
            clip.width,
            clip.rgb.len()
        )));
    }
    for frame in 0..clip.frames {
        stream.push(clip.frame(frame))?;
    }
    Ok([stream.header()?, stream.body].concat())
}

/// The longest side up to which a clip is coded at twice its size.
const DOUBLE_TO: usize = 64;
/// The encoder refuses smaller pictures.
const LEAST_SIDE: usize = 16;

/// The compressed frames so far.
struct Stream {
    encoder: Encoder,
    /// Visible `[height, width]`.
    size: [usize; 2],
    coded: [usize; 2],
    doubled: bool,
    rate: [u32; 2],
    picture: Picture,
    parameters: [Vec<u8>; 2],
    body: Vec<u8>,
    frames: Vec<(u32, bool)>,
}

impl Stream {
    fn new(width: usize, height: usize, fps: f64) -> Result<Self, MediaError> {
        let (long, short) = (width.max(height), width.min(height));
        if short == 0 || long > 3840 || short > 2160 {
            return Err(MediaError::size(format!(
                "H.264 is encoded at sizes of 1x1 to 3840x2160, not {width}x{height}"
            )));
        }
        if !(0.01..=1000.0).contains(&fps) {
            return Err(MediaError::size(format!(
                "a video plays at 0.01 to 1000 frames per second, not {fps}"
            )));
        }
        let doubled = long <= DOUBLE_TO;
        let size = [height, width];
        let coded = size
            .map(|side| {
                if doubled {
                    2 * side
                } else {
                    side.next_multiple_of(2)
                }
            })
            .map(|side| side.max(LEAST_SIDE));
        // Equal bounds make the quantizer constant. The buffer mode obeys them and nothing else; the
        // others would drop frames, or warn on standard error that they cannot.
        let quantizer = if coded[0] * coded[1] <= 256 * 256 {
            12
        } else {
            18
        };
        let config = EncoderConfig::new()
            .rate_control_mode(RateControlMode::Bufferbased)
            .qp(QpRange::new(quantizer, quantizer))
            .bitrate(BitRate::from_bps(5_000_000))
            .skip_frames(false)
            .scene_change_detect(false)
            .adaptive_quantization(false)
            .background_detection(false)
            .num_threads(1)
            .max_frame_rate(FrameRate::from_hz(fps as f32))
            // Two seconds, so that a player can seek and a window need not be decoded from frame 0.
            .intra_frame_period(IntraFramePeriod::from_num_frames(
                ((2.0 * fps).round() as u32).clamp(16, 120),
            ))
            .vui(VuiConfig::bt709());
        let encoder = Encoder::with_api_config(OpenH264API::from_source(), config)
            .map_err(MediaError::codec)?;
        Ok(Self {
            encoder,
            size,
            coded,
            doubled,
            rate: rate(fps),
            picture: Picture::new(coded),
            parameters: [Vec::new(), Vec::new()],
            body: Vec::new(),
            frames: Vec::new(),
        })
    }

    fn push(&mut self, rgb: &[u8]) -> Result<(), MediaError> {
        let [height, width] = self.size;
        if rgb.len() != height * width * 3 {
            return Err(MediaError::size(format!(
                "a frame of {height}x{width} takes {} bytes, but {} were given",
                height * width * 3,
                rgb.len()
            )));
        }
        if self.doubled {
            self.picture.fill_doubled(rgb, self.size);
        } else {
            self.picture.fill(rgb, self.size);
        }
        let coded = self
            .encoder
            .encode(&self.picture.slices())
            .map_err(MediaError::codec)?;
        let sync = matches!(coded.frame_type(), FrameType::IDR);
        let start = self.body.len();
        for layer in (0..coded.num_layers()).filter_map(|i| coded.layer(i)) {
            for nal in (0..layer.nal_count()).filter_map(|i| layer.nal_unit(i)) {
                let nal = without_start_code(nal);
                match nal_type(nal) {
                    7 => self.parameters[0] = nal.to_vec(),
                    8 => self.parameters[1] = nal.to_vec(),
                    _ => {
                        self.body.extend((nal.len() as u32).to_be_bytes());
                        self.body.extend(nal);
                    }
                }
            }
        }
        let size = self.body.len() - start;
        if size == 0 {
            return Err(MediaError::Codec {
                what: format!("frame {} came out of the encoder empty", self.frames.len()),
            });
        }
        self.frames.push((size as u32, sync));
        Ok(())
    }

    fn header(&self) -> Result<Vec<u8>, MediaError> {
        let [sequence, picture] = &self.parameters;
        if self.frames.is_empty() {
            return Err(MediaError::size("a video needs at least one frame"));
        }
        if sequence.len() < 4 || picture.is_empty() {
            return Err(MediaError::Codec {
                what: "the encoder gave no parameter sets".into(),
            });
        }
        let header = Header {
            coded: self.coded,
            shown: self.size,
            rate: self.rate,
            parameters: [sequence, picture],
            frames: &self.frames,
            encoder: if self.doubled { DOUBLED } else { SINGLE },
        };
        Ok(header.bytes())
    }
}

/// Units of time per second, and a frame's length in them, exact for whole and for NTSC's rates.
fn rate(fps: f64) -> [u32; 2] {
    let ntsc = fps * 1.001;
    if (ntsc - ntsc.round()).abs() < 1e-4 && (fps - fps.round()).abs() > 1e-4 {
        return [ntsc.round() as u32 * 1000, 1001];
    }
    if fps < 1.0 {
        [10_000, (10_000.0 / fps).round() as u32]
    } else {
        [(fps * 1000.0).round() as u32, 1000]
    }
}

fn without_start_code(nal: &[u8]) -> &[u8] {
    let zeros = nal.iter().take_while(|&&byte| byte == 0).count();
    &nal[(zeros + 1).min(nal.len())..]
}

/// A file under a temporary name, which is removed unless it is published.
struct Partial {
    path: PathBuf,
    file: Option<File>,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, MediaError> {
        let name = target.file_name().ok_or_else(|| MediaError::Size {
            what: format!("{} names no file", target.display()),
        })?;
        let name = format!(".{}.partial-{}", name.to_string_lossy(), std::process::id());
        let path = target.with_file_name(name);
        match File::create(&path) {
            Ok(file) => Ok(Self {
                path,
                file: Some(file),
            }),
            Err(source) => Err(MediaError::Io {
                path: target.to_path_buf(),
                source,
            }),
        }
    }

    fn publish(mut self, target: &Path, parts: &[&[u8]]) -> Result<(), MediaError> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let mut out = BufWriter::new(file);
        parts
            .iter()
            .try_for_each(|part| out.write_all(part))
            .and_then(|()| out.into_inner().map_err(|error| error.into_error()))
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.path, target))
            .map_err(|source| MediaError::Io {
                path: target.to_path_buf(),
                source,
            })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After publishing there is no such file, which is as good.
        _ = fs::remove_file(&self.path);
    }
}
