//! Decoding and encoding of images and video to and from RGB bytes: MP4 with H.264, PNG, JPEG, GIF and
//! WebP; with the feature `ffmpeg`, every other video that FFmpeg reads.
//!
//! Separate because it knows no tensors, no data sets and no models: bytes in, pixels out. It holds
//! its own MP4 reader and writer, because files from strangers must end in an error and never in a
//! panic, and because H.264 halves the resolution of colour, which ruins a clip of 32x32 pixels
//! unless the writer and the reader agree on what to do about it (see [`Mp4Writer`]).
//!
//! Beside pixels it gives what is needed to make a data set of footage: sound ([`audio`]), scenes
//! ([`analyse`]) and pieces without encoding again ([`cut`]).
//!
//! Without `ffmpeg` it deliberately does no HEVC, AV1, 4:4:4, 10-bit or interlaced video: these are
//! refused by name. Transparent parts are shown on white.

mod analyse;
mod animation;
mod audio;
mod audio_file;
mod audio_mp4;
mod clip;
mod decoder;
mod error;
#[cfg(feature = "ffmpeg")]
mod ffmpeg;
mod font;
mod h264;
mod h264_openh264;
mod h264_track;
mod h264_video;
mod info;
mod look;
mod mp4_boxes;
mod mp4_cut;
mod mp4_fragments;
mod mp4_remux;
mod mp4_tracks;
mod mp4_write;
mod picture;
mod plane_fit;
mod resample;
mod scenes;
mod sheet;
mod sink;
mod source;
mod still;
mod window;
mod writer;
mod yuv;

pub use analyse::{Analysis, Footage, Scene, analyse};
pub use audio::{Pcm, audio, audio_info};
pub use clip::Clip;
pub use decoder::{Decoder, decode};
pub use error::MediaError;
pub use info::{AudioInfo, Info, Kind, probe};
pub use mp4_cut::{Cut, cut};
pub use sheet::contact_sheet;
pub use still::{encode_jpeg, encode_png};
pub use window::{Crop, Pick, Window};
pub use writer::{Mp4Writer, encode_mp4};
