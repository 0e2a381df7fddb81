//! FFmpeg's readers of containers, made safe: bytes in memory in, packets of one stream out.

#![expect(unsafe_code, reason = "FFmpeg is a C library")]

use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;

use super::sys::{Codec, Packet, out_of_memory, reason, start};
use crate::MediaError;

/// Readers that take what is in the bytes and nothing else. Others, for playlists and lists of
/// files, open what their text names.
const FORMATS: &CStr = c"mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,\
ogg,h264,hevc,m4v,obu,av1,ivf,nut,wtv,mxf,gxf,dv,rm,swf,yuv4mpegpipe,mjpeg,apng,vc1,h263,h261,bink,smk,nsv,r3d,\
bmp_pipe,tiff_pipe,webp_pipe,j2k_pipe,jpegxl_pipe,qoi_pipe";

/// Bytes that are read at once.
const BUFFER: usize = 32 << 10;

/// The bytes, and how far they were read.
struct Reader {
    bytes: *const u8,
    length: usize,
    at: usize,
}

/// Called by FFmpeg for the next bytes.
///
/// # Safety
/// `opaque` must be a `Reader` whose bytes are alive, and `target` must hold `size` bytes.
unsafe extern "C" fn read(opaque: *mut c_void, target: *mut u8, size: c_int) -> c_int {
    // SAFETY: as promised by the caller; the count is within both.
    unsafe {
        let reader = &mut *opaque.cast::<Reader>();
        let count = (size.max(0) as usize).min(reader.length - reader.at);
        if count == 0 {
            return ffi::AVERROR_EOF;
        }
        ptr::copy_nonoverlapping(reader.bytes.add(reader.at), target, count);
        reader.at += count;
        count as c_int
    }
}

/// Called by FFmpeg to go elsewhere, or to ask for the length.
///
/// # Safety
/// `opaque` must be a `Reader`.
unsafe extern "C" fn seek(opaque: *mut c_void, offset: i64, whence: c_int) -> i64 {
    // SAFETY: as promised by the caller.
    let reader = unsafe { &mut *opaque.cast::<Reader>() };
    if whence & ffi::AVSEEK_SIZE != 0 {
        return reader.length as i64;
    }
    let base = match whence & !ffi::AVSEEK_FORCE {
        0 => 0,
        1 => reader.at as i64,
        2 => reader.length as i64,
        _ => return -1,
    };
    match base.checked_add(offset) {
        Some(at) if (0..=reader.length as i64).contains(&at) => {
            reader.at = at as usize;
            at
        }
        _ => -1,
    }
}

/// A file in memory, and its best video stream.
pub(super) struct Input<'a> {
    context: *mut ffi::AVFormatContext,
    io: *mut ffi::AVIOContext,
    reader: NonNull<Reader>,
    stream: NonNull<ffi::AVStream>,
    bytes: PhantomData<&'a [u8]>,
}

/// What a container says of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// Coded `[height, width]`.
    pub(super) size: [usize; 2],
    /// Seconds in a unit of time.
    pub(super) unit: f64,
    /// Clockwise quarter turns that make the picture upright.
    pub(super) turns: u8,
    /// Whether it is VP8, whose packets may hold a picture that is never shown.
    pub(super) vp8: bool,
    /// Whether the file is an image, which has no times.
    pub(super) image: bool,
}

impl<'a> Input<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, MediaError> {
        start();
        let reader = Box::new(Reader {
            bytes: bytes.as_ptr(),
            length: bytes.len(),
            at: 0,
        });
        let mut input = Self {
            context: ptr::null_mut(),
            io: ptr::null_mut(),
            reader: NonNull::from(Box::leak(reader)),
            stream: NonNull::dangling(),
            bytes: PhantomData,
        };
        // SAFETY: all pointers are checked before they are used; what was made is freed by `Drop`,
        // however this ends; the reader outlives the context that calls it, and the bytes outlive
        // both, as `Self` borrows them.
        unsafe {
            let buffer = ffi::av_malloc(BUFFER);
            if buffer.is_null() {
                return Err(out_of_memory());
            }
            input.io = ffi::avio_alloc_context(
                buffer.cast(),
                BUFFER as c_int,
                0,
                input.reader.as_ptr().cast(),
                Some(read),
                None,
                Some(seek),
            );
            if input.io.is_null() {
                ffi::av_free(buffer);
                return Err(out_of_memory());
            }
            input.context = ffi::avformat_alloc_context();
            if input.context.is_null() {
                return Err(out_of_memory());
            }
            (*input.context).pb = input.io;
            let mut options = ptr::null_mut();
            for (name, value) in [
                (c"format_whitelist", FORMATS),
                // No file and no address is opened, whatever the bytes name.
                (c"protocol_whitelist", c"none"),
                (c"max_streams", c"64"),
                // As the reader of MP4 here: the frames that are there, not those of a cut list.
                (c"ignore_editlist", c"1"),
            ] {
                ffi::av_dict_set(&mut options, name.as_ptr(), value.as_ptr(), 0);
            }
            let code = ffi::avformat_open_input(
                &mut input.context,
                ptr::null(),
                ptr::null(),
                &mut options,
            );
            ffi::av_dict_free(&mut options);
            if code < 0 {
                return Err(not_read(bytes, code));
            }
            let code = ffi::avformat_find_stream_info(input.context, ptr::null_mut());
            if code < 0 {
                return Err(not_read(bytes, code));
            }
            let best = ffi::av_find_best_stream(
                input.context,
                ffi::AVMediaType::AVMEDIA_TYPE_VIDEO,
                -1,
                -1,
                ptr::null_mut(),
                0,
            );
            let streams = (*input.context).nb_streams as usize;
            if best < 0 || best as usize >= streams {
                return Err(MediaError::damaged("video", "no video track"));
            }
            for index in 0..streams {
                let stream = *(*input.context).streams.add(index);
                if index == best as usize {
                    input.stream = NonNull::new(stream).ok_or_else(out_of_memory)?;
                } else {
                    (*stream).discard = ffi::AVDiscard::AVDISCARD_ALL;
                }
            }
            if input.stream.as_ref().disposition & ffi::AV_DISPOSITION_ATTACHED_PIC != 0 {
                return Err(MediaError::damaged(
                    "video",
                    "no video track, but a cover picture",
                ));
            }
        }
        Ok(input)
    }

    pub(super) fn stream(&self) -> Result<Stream, MediaError> {
        // SAFETY: the stream and its parameters belong to the context, which is open; a display
        // matrix holds nine numbers, which is checked.
        unsafe {
            let stream = self.stream.as_ref();
            let parameters = &*stream.codecpar;
            let size = [parameters.height, parameters.width].map(|side| side.max(0) as usize);
            if size.contains(&0) {
                return Err(MediaError::damaged("video", "a picture without a size"));
            }
            let base = stream.time_base;
            let mut bytes = 0;
            let matrix = ffi::av_stream_get_side_data(
                stream,
                ffi::AVPacketSideDataType::AV_PKT_DATA_DISPLAYMATRIX,
                &mut bytes,
            );
            let mut turns = 0;
            if !matrix.is_null() && bytes >= 36 {
                let entry =
                    |index: usize| matrix.cast::<i32>().add(index).read_unaligned().signum();
                turns = match [0, 1, 3, 4].map(entry) {
                    [0, 1, -1, 0] => 1,
                    [-1, 0, 0, -1] => 2,
                    [0, -1, 1, 0] => 3,
                    _ => 0,
                };
            }
            let name = CStr::from_ptr((*(*self.context).iformat).name).to_bytes();
            Ok(Stream {
                size,
                unit: if base.num > 0 && base.den > 0 {
                    f64::from(base.num) / f64::from(base.den)
                } else {
                    0.0
                },
                turns,
                vp8: parameters.codec_id == ffi::AVCodecID::AV_CODEC_ID_VP8,
                image: name.ends_with(b"_pipe"),
            })
        }
    }

    /// Reads the stream's next packet, until there is none.
    pub(super) fn next(&mut self, packet: &mut Packet) -> Result<bool, MediaError> {
        // SAFETY: the context is open and the stream belongs to it; the packet is valid, and
        // whatever it held is given back first.
        unsafe {
            loop {
                ffi::av_packet_unref(packet.as_ptr());
                let code = ffi::av_read_frame(self.context, packet.as_ptr());
                if code == ffi::AVERROR_EOF {
                    return Ok(false);
                }
                if code < 0 {
                    return Err(MediaError::damaged("video", reason(code)));
                }
                if packet.head().stream == self.stream.as_ref().index {
                    return Ok(true);
                }
            }
        }
    }

    /// Goes to a packet at or before a time, as far as the container can; it may end up elsewhere.
    pub(super) fn seek(&mut self, time: i64) -> bool {
        // SAFETY: the context is open and the stream belongs to it.
        unsafe {
            let index = self.stream.as_ref().index;
            ffi::av_seek_frame(self.context, index, time, ffi::AVSEEK_FLAG_BACKWARD) >= 0
        }
    }

    pub(super) fn codec(&self, threads: usize) -> Result<Codec, MediaError> {
        // SAFETY: the parameters belong to the stream, which is valid as long as the context.
        unsafe { Codec::with_parameters(self.stream.as_ref().codecpar, threads) }
    }
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        // SAFETY: each was made by the library, or is null, which all of these take; the buffer is
        // the context's present one, which need not be the first; the reader was leaked from a box,
        // and nothing calls it any more.
        unsafe {
            ffi::avformat_close_input(&mut self.context);
            if !self.io.is_null() {
                ffi::av_freep((&raw mut (*self.io).buffer).cast());
                ffi::avio_context_free(&mut self.io);
            }
            drop(Box::from_raw(self.reader.as_ptr()));
        }
    }
}

fn not_read(bytes: &[u8], code: c_int) -> MediaError {
    MediaError::damaged(
        "video",
        format!(
            "FFmpeg reads nothing in {} bytes that begin with {:02x?}: {}",
            bytes.len(),
            &bytes[..bytes.len().min(8)],
            reason(code)
        ),
    )
}
