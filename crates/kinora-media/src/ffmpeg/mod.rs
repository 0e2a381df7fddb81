//! Decoding with FFmpeg (feature `ffmpeg`): H.264 in MP4 faster than with the built-in decoder, and
//! every other container and codec that FFmpeg reads.
//!
//! All unsafe code is in `sys` and `demux`. HDR is not mapped to standard range, alpha is dropped,
//! interlaced video is not deinterlaced, and pixels that are not square are left as they are.

mod container;
mod demux;
mod sys;
mod track;

pub(crate) use container::Container;
pub(crate) use track::run;
