//! Decoding: from the bytes of a file to the frames of a window.

use crate::clip::Fitter;
use crate::h264_openh264;
use crate::h264_video::Video;
use crate::info::sniff;
use crate::sink::Sink;
use crate::source::Source;
use crate::still;
use crate::window::Window;
use crate::{Clip, MediaError};

/// Decodes all frames of a video, or an image as one frame.
///
/// # Errors
/// If the kind is unknown or unsupported, the bytes are damaged or cut off, or the frames take more
/// than 4 GiB.
pub fn decode(bytes: &[u8]) -> Result<Clip, MediaError> {
    Decoder::new().decode(bytes)
}

/// Decodes clips, and keeps its scratch memory between them.
pub struct Decoder {
    fitter: Fitter,
    packet: Vec<u8>,
    h264: H264,
}

/// What decodes H.264 in MP4.
#[derive(Clone, Copy)]
enum H264 {
    OpenH264,
    #[cfg(feature = "ffmpeg")]
    Ffmpeg {
        threads: usize,
    },
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder that works on the caller's thread.
    pub fn new() -> Self {
        Self::with_threads(1)
    }

    /// A decoder whose video codecs may use so many threads. This holds for FFmpeg; without the
    /// feature `ffmpeg` it makes no difference.
    pub fn with_threads(threads: usize) -> Self {
        #[cfg(feature = "ffmpeg")]
        let h264 = H264::Ffmpeg { threads };
        #[cfg(not(feature = "ffmpeg"))]
        let (h264, _) = (H264::OpenH264, threads);
        Self {
            fitter: Fitter::new(),
            packet: Vec::new(),
            h264,
        }
    }

    /// A decoder that takes the built-in codec for H.264 in MP4, even where FFmpeg is there.
    pub fn built_in() -> Self {
        Self {
            h264: H264::OpenH264,
            ..Self::new()
        }
    }

    /// As [`decode`].
    ///
    /// # Errors
    /// As [`decode`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Clip, MediaError> {
        let source = Source::open(bytes, sniff(bytes)?)?;
        let window = Window::frames(0, source.timeline().frames());
        self.source(bytes, source, window)
    }

    /// Decodes some frames of a clip, resized as they come, so that a long or large one takes no
    /// more memory than what is returned. Of a video, decoding begins at the sync frame before the
    /// first wanted frame and ends at the last.
    ///
    /// # Errors
    /// As [`decode`], and if the window reaches past the end.
    pub fn window(&mut self, bytes: &[u8], window: Window) -> Result<Clip, MediaError> {
        let source = Source::open(bytes, sniff(bytes)?)?;
        self.source(bytes, source, window)
    }

    fn source(
        &mut self,
        bytes: &[u8],
        source: Source<'_>,
        window: Window,
    ) -> Result<Clip, MediaError> {
        let wanted = source.timeline().pick(&window)?;
        let fps = source.timeline().rate(&window);
        match &source {
            Source::Track(video) => {
                let size = source.size();
                let Self {
                    fitter,
                    packet,
                    h264,
                } = self;
                let mut from = |entry: usize| {
                    let mut sink = Sink::new(&wanted, &window, size, fitter)?;
                    h264.run(bytes, video, entry, &mut sink, &wanted, packet)?;
                    Ok(sink.finish(fps))
                };
                let entry = video.entry(wanted[0]);
                match from(entry) {
                    // Some writers mark frames as starting points that are none.
                    Err(_) if entry > 0 => from(0),
                    done => done,
                }
            }
            #[cfg(feature = "ffmpeg")]
            Source::Container(container) => {
                let H264::Ffmpeg { threads } = self.h264 else {
                    return Err(MediaError::Unsupported {
                        what: "video for FFmpeg".into(),
                        help: "use a decoder that may use it",
                    });
                };
                let mut sink = Sink::new(&wanted, &window, source.size(), &mut self.fitter)?;
                container.run(&mut sink, threads)?;
                Ok(sink.finish(fps))
            }
            Source::Animation(animation) => {
                let mut sink = Sink::new(&wanted, &window, source.size(), &mut self.fitter)?;
                animation.run(bytes, &mut sink)?;
                Ok(sink.finish(fps))
            }
            Source::Still { bytes, kind, .. } => {
                let mut sink = Sink::new(&wanted, &window, source.size(), &mut self.fitter)?;
                let clip = still::decode(bytes, *kind)?;
                let from = [clip.height, clip.width];
                sink.put(|fitter, window, to, out| {
                    fitter.fit(&clip.rgb, from, out, to, window.crop);
                    Ok(())
                })?;
                Ok(sink.finish(fps))
            }
        }
    }
}

impl H264 {
    fn run(
        self,
        bytes: &[u8],
        video: &Video,
        entry: usize,
        sink: &mut Sink<'_>,
        wanted: &[usize],
        packet: &mut Vec<u8>,
    ) -> Result<(), MediaError> {
        match self {
            Self::OpenH264 => h264_openh264::run(bytes, video, entry, sink, wanted, packet),
            #[cfg(feature = "ffmpeg")]
            Self::Ffmpeg { threads } => {
                crate::ffmpeg::run(bytes, video, entry, sink, wanted, packet, threads)
            }
        }
    }
}

// The encoder's name in files of this crate, which promises that the picture is the top left part of
// what is coded, of the size that is shown, or of twice that size.
pub(crate) const SINGLE: &[u8] = b"Kinora";
pub(crate) const DOUBLED: &[u8] = b"Kinora 2x";

/// Bytes of RGB that are returned at once.
const MEMORY: u64 = 4 << 30;

pub(crate) fn check_memory(frames: usize, [height, width]: [usize; 2]) -> Result<(), MediaError> {
    if height == 0 || width == 0 {
        return Err(MediaError::size(format!(
            "cannot resize to {height}x{width}"
        )));
    }
    let bytes = (frames as u64)
        .saturating_mul(height as u64)
        .saturating_mul(width as u64)
        .saturating_mul(3);
    if bytes > MEMORY {
        return Err(MediaError::TooLarge {
            frames,
            height,
            width,
            bytes,
            limit: MEMORY,
        });
    }
    Ok(())
}
