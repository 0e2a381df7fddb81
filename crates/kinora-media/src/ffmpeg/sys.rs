//! FFmpeg's codecs and pictures, made safe: packets in, planes or RGB out.

#![expect(unsafe_code, reason = "FFmpeg is a C library")]

use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Once;

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::ffi;

use crate::MediaError;
use crate::yuv::Planes;

/// Pixels of the largest picture that is decoded: 8192 x 4352, the largest of H.264's level 6.2.
const PIXELS: i64 = 8192 * 4352;
/// Bytes that FFmpeg may take at once.
const ALLOCATION: usize = 512 << 20;

/// Makes FFmpeg silent, and bounds its memory. Before anything else.
pub(super) fn start() {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: both only set a number of the library's own.
        unsafe {
            ffi::av_log_set_level(ffi::AV_LOG_QUIET);
            ffi::av_max_alloc(ALLOCATION);
        }
    });
}

/// What an error code means.
pub(super) fn reason(code: c_int) -> String {
    let mut text = [0 as c_char; 128];
    // SAFETY: the buffer has the length that is given, and begins as an empty C string.
    unsafe {
        ffi::av_strerror(code, text.as_mut_ptr(), text.len());
        CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
    }
}

pub(super) fn out_of_memory() -> MediaError {
    MediaError::Codec {
        what: "FFmpeg got no memory".into(),
    }
}

/// One coded frame.
pub(super) struct Packet {
    packet: NonNull<ffi::AVPacket>,
}

impl Packet {
    pub(super) fn new() -> Result<Self, MediaError> {
        // SAFETY: it takes nothing, and null is checked for.
        let packet = NonNull::new(unsafe { ffi::av_packet_alloc() }).ok_or_else(out_of_memory)?;
        Ok(Self { packet })
    }

    /// Holds a copy of some bytes, to be shown at `time`.
    pub(super) fn fill(&mut self, bytes: &[u8], time: i64) -> Result<(), MediaError> {
        let size = c_int::try_from(bytes.len()).map_err(|_| out_of_memory())?;
        // SAFETY: the packet is valid; a packet of a size is only written to where the library
        // said that it has got the memory.
        unsafe {
            let packet = self.packet.as_ptr();
            ffi::av_packet_unref(packet);
            if ffi::av_new_packet(packet, size) < 0 {
                return Err(out_of_memory());
            }
            ptr::copy_nonoverlapping(bytes.as_ptr(), (*packet).data, bytes.len());
            (*packet).pts = time;
            (*packet).dts = ffi::AV_NOPTS_VALUE;
        }
        Ok(())
    }

    pub(super) fn as_ptr(&mut self) -> *mut ffi::AVPacket {
        self.packet.as_ptr()
    }

    /// Its stream, when it is shown and when decoded, where that is known, and for how long.
    pub(super) fn head(&self) -> Head {
        // SAFETY: the packet is valid as long as `self`.
        let packet = unsafe { self.packet.as_ref() };
        let known = |time: i64| (time != ffi::AV_NOPTS_VALUE).then_some(time);
        Head {
            stream: packet.stream_index,
            shown_at: known(packet.pts),
            decoded_at: known(packet.dts),
            length: packet.duration.max(0),
            key: packet.flags & ffi::AV_PKT_FLAG_KEY != 0,
        }
    }

    /// Its first byte.
    pub(super) fn first_byte(&self) -> Option<u8> {
        // SAFETY: the packet is valid, and its data is read only where it holds a byte.
        unsafe {
            let packet = self.packet.as_ref();
            (packet.size > 0 && !packet.data.is_null()).then(|| *packet.data)
        }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        let mut packet = self.packet.as_ptr();
        // SAFETY: the packet was allocated by the library, and is not used again.
        unsafe { ffi::av_packet_free(&mut packet) }
    }
}

/// What a packet says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) stream: c_int,
    pub(super) shown_at: Option<i64>,
    pub(super) decoded_at: Option<i64>,
    pub(super) length: i64,
    pub(super) key: bool,
}

/// A decoder of one stream.
pub(super) struct Codec {
    context: NonNull<ffi::AVCodecContext>,
    frame: NonNull<ffi::AVFrame>,
}

impl Codec {
    /// For H.264 with start codes, whose pictures are shown up to `reorder` later than decoded.
    pub(super) fn h264(threads: usize, reorder: usize) -> Result<Self, MediaError> {
        Self::open(ffi::AVCodecID::AV_CODEC_ID_H264, threads, |context| {
            // SAFETY: `open` gives a valid context.
            unsafe { (*context).has_b_frames = reorder.min(16) as c_int };
            0
        })
    }

    /// For a stream with these parameters.
    ///
    /// # Safety
    /// The parameters must be valid.
    pub(super) unsafe fn with_parameters(
        parameters: *const ffi::AVCodecParameters,
        threads: usize,
    ) -> Result<Self, MediaError> {
        // SAFETY: the caller promises valid parameters, and `open` gives a valid context.
        let id = unsafe { (*parameters).codec_id };
        Self::open(id, threads, |context| unsafe {
            ffi::avcodec_parameters_to_context(context, parameters)
        })
    }

    fn open(
        id: ffi::AVCodecID,
        threads: usize,
        set: impl FnOnce(*mut ffi::AVCodecContext) -> c_int,
    ) -> Result<Self, MediaError> {
        start();
        // SAFETY: codecs are static; contexts and frames are checked for null before they are
        // used, and freed by `Drop` whatever happens after that.
        unsafe {
            let codec = ffi::avcodec_find_decoder(id);
            if codec.is_null() {
                let name = CStr::from_ptr(ffi::avcodec_get_name(id)).to_string_lossy();
                return Err(MediaError::Unsupported {
                    what: format!("{name} video, which this FFmpeg was built without"),
                    help: "install an FFmpeg that decodes it, or convert it to H.264",
                });
            }
            let context =
                NonNull::new(ffi::avcodec_alloc_context3(codec)).ok_or_else(out_of_memory)?;
            let Some(frame) = NonNull::new(ffi::av_frame_alloc()) else {
                let mut context = context.as_ptr();
                ffi::avcodec_free_context(&mut context);
                return Err(out_of_memory());
            };
            let codec_context = Self { context, frame };
            let at = context.as_ptr();
            let mut code = set(at);
            (*at).max_pixels = PIXELS;
            (*at).thread_count = threads.clamp(1, 64) as c_int;
            (*at).thread_type = ffi::FF_THREAD_FRAME | ffi::FF_THREAD_SLICE;
            if code >= 0 {
                code = ffi::avcodec_open2(at, codec, ptr::null_mut());
            }
            if code < 0 {
                return Err(MediaError::damaged("video", reason(code)));
            }
            Ok(codec_context)
        }
    }

    /// Takes a packet, or `None` for the end, and hands out the pictures that are ready.
    pub(super) fn decode(
        &mut self,
        mut packet: Option<&mut Packet>,
        mut take: impl FnMut(&Picture<'_>) -> Result<(), MediaError>,
    ) -> Result<(), MediaError> {
        let raw = packet.as_mut().map_or(ptr::null_mut(), |it| it.as_ptr());
        loop {
            // SAFETY: the context is open, and the packet valid or null, which is the end.
            let code = unsafe { ffi::avcodec_send_packet(self.context.as_ptr(), raw) };
            let full = code == ffi::AVERROR(EAGAIN);
            if code < 0 && !full && code != ffi::AVERROR_EOF {
                return Err(MediaError::damaged("video", reason(code)));
            }
            let mut came = false;
            while self.receive()? {
                came = true;
                take(&Picture {
                    // SAFETY: a frame that was received stays valid until the next call.
                    frame: unsafe { self.frame.as_ref() },
                    // SAFETY: the context is open.
                    format: unsafe { self.context.as_ref() }.pix_fmt,
                    decoder: PhantomData,
                })?;
            }
            if !full {
                return Ok(());
            }
            if !came {
                return Err(MediaError::Codec {
                    what: "FFmpeg neither takes a packet nor gives a picture".into(),
                });
            }
        }
    }

    fn receive(&mut self) -> Result<bool, MediaError> {
        // SAFETY: the context is open, and the frame valid.
        let code =
            unsafe { ffi::avcodec_receive_frame(self.context.as_ptr(), self.frame.as_ptr()) };
        match code {
            0.. => Ok(true),
            _ if code == ffi::AVERROR(EAGAIN) || code == ffi::AVERROR_EOF => Ok(false),
            _ => Err(MediaError::damaged("video", reason(code))),
        }
    }
}

impl Drop for Codec {
    fn drop(&mut self) {
        let (mut context, mut frame) = (self.context.as_ptr(), self.frame.as_ptr());
        // SAFETY: both were allocated by the library, and are not used again.
        unsafe {
            ffi::av_frame_free(&mut frame);
            ffi::avcodec_free_context(&mut context);
        }
    }
}

/// A decoded picture, until the decoder goes on.
pub(super) struct Picture<'a> {
    frame: &'a ffi::AVFrame,
    format: ffi::AVPixelFormat,
    decoder: PhantomData<&'a mut Codec>,
}

/// How a picture codes colour, as H.264 numbers it.
pub(super) struct Signal {
    pub(super) matrix: u32,
    pub(super) full_range: bool,
}

impl Picture<'_> {
    /// When it is shown.
    pub(super) fn time(&self) -> Option<i64> {
        [self.frame.pts, self.frame.best_effort_timestamp]
            .into_iter()
            .find(|&time| time != ffi::AV_NOPTS_VALUE)
    }

    /// Whether parts of it were made up.
    pub(super) fn damaged(&self) -> bool {
        self.frame.decode_error_flags != 0 || self.frame.flags & ffi::AV_FRAME_FLAG_CORRUPT != 0
    }

    /// `[height, width]`.
    pub(super) fn size(&self) -> [usize; 2] {
        [self.frame.height, self.frame.width].map(|side| side.max(0) as usize)
    }

    pub(super) fn signal(&self) -> Signal {
        Signal {
            matrix: self.frame.colorspace as u32,
            full_range: self.format == ffi::AVPixelFormat::AV_PIX_FMT_YUVJ420P
                || self.frame.color_range == ffi::AVColorRange::AVCOL_RANGE_JPEG,
        }
    }

    /// Its planes, if they are 4:2:0; those of more than 8 bits are rounded to 8, in `scratch`.
    pub(super) fn planes<'b>(&'b self, scratch: &'b mut Vec<u8>) -> Option<Planes<'b>> {
        use ffi::AVPixelFormat as Format;
        let (bytes, shift) = match self.format {
            Format::AV_PIX_FMT_YUV420P | Format::AV_PIX_FMT_YUVJ420P => (1, 0),
            Format::AV_PIX_FMT_YUV420P10LE => (2, 2),
            Format::AV_PIX_FMT_YUV420P12LE => (2, 4),
            _ => return None,
        };
        let size = self.size();
        let half = size.map(|side| side.div_ceil(2));
        let strides = [0, 1, 2].map(|plane| self.frame.linesize[plane]);
        if self.frame.format != self.format as c_int
            || size.contains(&0)
            || strides[1] != strides[2]
            || strides.iter().any(|&stride| stride <= 0)
            || self.frame.data[..3].iter().any(|data| data.is_null())
        {
            return None;
        }
        let raw = |index: usize| {
            let [rows, columns] = if index == 0 { size } else { half };
            let length = strides[index] as usize * (rows - 1) + columns * bytes;
            // SAFETY: a picture of these formats has three planes of so many rows and columns,
            // whose rows lie a stride apart; they live as long as the frame.
            unsafe { std::slice::from_raw_parts(self.frame.data[index].cast_const(), length) }
        };
        if bytes == 1 {
            return Some(Planes {
                y: raw(0),
                u: raw(1),
                v: raw(2),
                strides: [strides[0] as usize, strides[1] as usize],
                size,
            });
        }
        scratch.clear();
        for (index, stride) in strides.into_iter().enumerate() {
            let columns = if index == 0 { size[1] } else { half[1] };
            for row in raw(index).chunks(stride as usize) {
                scratch.extend(row[..2 * columns].chunks_exact(2).map(|sample| {
                    let sample = u32::from(u16::from_le_bytes([sample[0], sample[1]]));
                    ((sample + (1 << (shift - 1))) >> shift).min(255) as u8
                }));
            }
        }
        let (y, chroma) = scratch.split_at(size[0] * size[1]);
        let (u, v) = chroma.split_at(half[0] * half[1]);
        Some(Planes {
            y,
            u,
            v,
            strides: [size[1], half[1]],
            size,
        })
    }
}

/// Converts pictures of all other formats to RGB, of the same size.
pub(super) struct Converter {
    context: *mut ffi::SwsContext,
}

impl Converter {
    pub(super) fn new() -> Self {
        Self {
            context: ptr::null_mut(),
        }
    }

    /// The pixels, `[H, W, 3]`. `matrix` is as in [`Signal`].
    pub(super) fn rgb(
        &mut self,
        picture: &Picture<'_>,
        matrix: u32,
        full_range: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), MediaError> {
        let [height, width] = picture.size();
        if height == 0 || width == 0 || picture.frame.format != picture.format as c_int {
            return Err(MediaError::damaged("video", "a picture without pixels"));
        }
        out.resize(height * width * 3, 0);
        let (rows, columns) = (height as c_int, width as c_int);
        // SAFETY: the frame is valid and of the format and size that the context is made for; the
        // target holds `height` rows of `3 * width` bytes, which is the stride that is given.
        unsafe {
            self.context = ffi::sws_getCachedContext(
                self.context,
                columns,
                rows,
                picture.format,
                columns,
                rows,
                ffi::AVPixelFormat::AV_PIX_FMT_RGB24,
                (ffi::SWS_BICUBIC | ffi::SWS_ACCURATE_RND | ffi::SWS_FULL_CHR_H_INT) as _,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null(),
            );
            if self.context.is_null() {
                return Err(MediaError::Unsupported {
                    what: format!("video of FFmpeg's pixel format {}", picture.frame.format),
                    help: "convert it, e.g. ffmpeg -i in -c:v libx264 -pix_fmt yuv420p out.mp4",
                });
            }
            let table = ffi::sws_getCoefficients(matrix as c_int);
            let same = ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT);
            let range = c_int::from(full_range);
            ffi::sws_setColorspaceDetails(self.context, table, range, same, 1, 0, 1 << 16, 1 << 16);
            let target = [
                out.as_mut_ptr(),
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            ];
            let strides = [3 * columns, 0, 0, 0];
            let done = ffi::sws_scale(
                self.context,
                picture.frame.data.as_ptr().cast(),
                picture.frame.linesize.as_ptr(),
                0,
                rows,
                target.as_ptr(),
                strides.as_ptr(),
            );
            if done != rows {
                return Err(MediaError::damaged(
                    "video",
                    "a picture that does not convert",
                ));
            }
        }
        Ok(())
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        // SAFETY: it is null or was made by the library, and is not used again.
        unsafe { ffi::sws_freeContext(self.context) }
    }
}
