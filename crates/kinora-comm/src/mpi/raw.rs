//! The few functions of MPI that carry frames, with the buffers that they work on.

use crate::HostBuffer;
use crate::link::frame::{Body, Frame, PREFIX, follows};
use mpi::ffi;
use std::mem::{forget, take};
use std::os::raw::{c_int, c_void};
use std::ptr;

// What goes first of each frame, and the elements of those that are large.
const HEADERS: c_int = 0;
const BODIES: c_int = 1;
// Bodies up to so many bytes go with the header.
const SMALL: usize = 8 << 10;
// Larger ones go in pieces, whose arrival shows that the sender is alive; MPI counts in 32 bits.
const PIECE: usize = 16 << 20;
// The world that a frame belongs to follows the prefix.
const START: usize = PREFIX + 8;

/// MPI, on the one thread that may call it.
#[derive(Debug)]
pub(super) struct Mpi {
    pub(super) rank: usize,
    pub(super) size: usize,
    // MPI is bound to this thread.
    _here: std::marker::PhantomData<*const ()>,
}

/// An answer of MPI that is not "done".
#[derive(Clone, Copy, Debug)]
pub(super) struct Code(c_int);

fn check(code: c_int) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(Code(code)) }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MPI answers with error {}", self.0)
    }
}

/// A frame on its way out, with the memory that MPI reads.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) to: usize,
    requests: Vec<ffi::MPI_Request>,
    start: Vec<u8>,
    body: Option<Body>,
}

/// A frame that has begun to arrive, with the memory that MPI writes.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) epoch: u64,
    pub(super) header: Vec<u8>,
    body: HostBuffer,
    requests: Vec<ffi::MPI_Request>,
}

fn comm() -> ffi::MPI_Comm {
    // SAFETY: a constant that MPI's library defines.
    unsafe { ffi::RSMPI_COMM_WORLD }
}

fn byte() -> ffi::MPI_Datatype {
    // SAFETY: a constant that MPI's library defines.
    unsafe { ffi::RSMPI_UINT8_T }
}

/// Whether a request is done; it is void afterwards.
fn test(request: &mut ffi::MPI_Request) -> Result<bool, Code> {
    let mut done = 0;
    // SAFETY: the request is one that MPI gave, or void, which counts as done.
    check(unsafe { ffi::MPI_Test(request, &mut done, ffi::RSMPI_STATUS_IGNORE) })?;
    Ok(done != 0)
}

/// Whether all requests are done; those that are leave the list, in order.
fn test_all(requests: &mut Vec<ffi::MPI_Request>) -> Result<bool, Code> {
    while let Some(first) = requests.first_mut() {
        if !test(first)? {
            return Ok(false);
        }
        requests.remove(0);
    }
    Ok(true)
}

impl Mpi {
    /// Initializes MPI for calls from this thread alone.
    pub(super) fn init() -> Result<Self, String> {
        let (mut already, mut provided) = (0, 0);
        let (mut rank, mut size) = (0, 0);
        // SAFETY: these may be called at any time, and the pointers are to locals. That MPI has not
        // been initialized before is checked, and nobody else calls it.
        unsafe {
            ffi::MPI_Initialized(&mut already);
            if already != 0 {
                return Err(
                    "MPI has been initialized before\n  help: join once in a process".into(),
                );
            }
            let funneled = ffi::RSMPI_THREAD_FUNNELED;
            let code =
                ffi::MPI_Init_thread(ptr::null_mut(), ptr::null_mut(), funneled, &mut provided);
            check(code).map_err(|code| code.to_string())?;
            if provided < funneled {
                return Err("this MPI cannot be called from a thread of its own".into());
            }
            ffi::MPI_Comm_set_errhandler(comm(), ffi::RSMPI_ERRORS_RETURN);
            ffi::MPI_Comm_rank(comm(), &mut rank);
            ffi::MPI_Comm_size(comm(), &mut size);
        }
        Ok(Self {
            rank: rank as usize,
            size: size as usize,
            _here: std::marker::PhantomData,
        })
    }

    /// Begins to send a frame of a world.
    pub(super) fn send(&self, to: usize, epoch: u64, frame: Frame) -> Result<Sending, Code> {
        let mut start = frame.prefix().to_vec();
        start.extend(epoch.to_le_bytes());
        start.extend(&frame.header);
        let body = if frame.body.bytes().len() <= SMALL {
            start.extend(frame.body.bytes());
            None
        } else {
            Some(frame.body)
        };
        let mut sending = Sending {
            to,
            requests: vec![],
            start,
            body,
        };
        let pieces = sending.body.as_ref().map_or(&[][..], Body::bytes);
        let tagged = std::iter::once((HEADERS, &sending.start[..]))
            .chain(pieces.chunks(PIECE).map(|piece| (BODIES, piece)));
        let mut requests = vec![];
        let mut outcome = Ok(());
        for (tag, bytes) in tagged {
            // SAFETY: a value that MPI overwrites.
            let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
            let (data, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len() as c_int);
            // SAFETY: the bytes lie on the heap and belong to `sending`, which neither changes nor
            // frees them before MPI is done with them.
            let code = unsafe {
                ffi::MPI_Isend(data, len, byte(), to as c_int, tag, comm(), &mut request)
            };
            outcome = check(code);
            if outcome.is_err() {
                break;
            }
            requests.push(request);
        }
        sending.requests = requests;
        outcome.map(|()| sending)
    }

    /// Begins to receive a frame from a rank, if one has come.
    ///
    /// # Errors
    /// `None` within for a frame that no rank would send.
    pub(super) fn receive(&self, from: usize) -> Result<Option<Receiving>, Option<Code>> {
        let mut found = 0;
        let mut len = 0;
        let source = from as c_int;
        // SAFETY: the pointers are to locals; a status of zeros is one that MPI fills.
        let status = unsafe {
            let mut status: ffi::MPI_Status = std::mem::zeroed();
            check(ffi::MPI_Iprobe(
                source,
                HEADERS,
                comm(),
                &mut found,
                &mut status,
            ))?;
            if found == 0 {
                return Ok(None);
            }
            check(ffi::MPI_Get_count(&status, byte(), &mut len))?;
            status
        };
        let _ = status;
        let mut bytes = vec![0_u8; len as usize];
        // SAFETY: the memory is as large as the message that was found, which nobody else takes.
        check(unsafe {
            ffi::MPI_Recv(
                bytes.as_mut_ptr().cast(),
                len,
                byte(),
                source,
                HEADERS,
                comm(),
                ffi::RSMPI_STATUS_IGNORE,
            )
        })?;
        let (start, rest) = bytes.split_at_checked(START).ok_or(None)?;
        let (prefix, epoch) = start.split_at(PREFIX);
        let prefix: [u8; PREFIX] = prefix.try_into().map_err(|_| None)?;
        let epoch = u64::from_le_bytes(epoch.try_into().map_err(|_| None)?);
        let (header, dtype, elements) = follows(&prefix).ok_or(None)?;
        let (header, inline) = rest.split_at_checked(header).ok_or(None)?;
        let mut receiving = Receiving {
            epoch,
            header: header.to_vec(),
            body: HostBuffer::zeros(dtype, elements),
            requests: vec![],
        };
        let body = receiving.body.as_bytes_mut();
        if body.len() <= SMALL {
            if inline.len() != body.len() {
                return Err(None);
            }
            body.copy_from_slice(inline);
            return Ok(Some(receiving));
        }
        let mut requests = vec![];
        let mut outcome = Ok(());
        for piece in body.chunks_mut(PIECE) {
            // SAFETY: a value that MPI overwrites.
            let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
            let (data, len) = (piece.as_mut_ptr().cast(), piece.len() as c_int);
            // SAFETY: the memory lies on the heap and belongs to `receiving`, which neither reads
            // nor frees it before MPI is done with it.
            let code =
                unsafe { ffi::MPI_Irecv(data, len, byte(), source, BODIES, comm(), &mut request) };
            outcome = check(code);
            if outcome.is_err() {
                break;
            }
            requests.push(request);
        }
        receiving.requests = requests;
        outcome?;
        Ok(Some(receiving))
    }

    /// Ends MPI; returns when all processes do.
    pub(super) fn finalize(self) {
        // SAFETY: this thread has initialized MPI, and calls nothing of it afterwards.
        unsafe { ffi::MPI_Finalize() };
    }

    /// Ends all processes.
    pub(super) fn abort(&self, code: i32) {
        // SAFETY: MPI is initialized; this does not return where MPI can end processes.
        unsafe { ffi::MPI_Abort(comm(), code) };
    }
}

impl Sending {
    /// Whether MPI is done with it.
    pub(super) fn done(&mut self) -> Result<bool, Code> {
        test_all(&mut self.requests)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.requests.is_empty() {
            // MPI may still read this memory, so it must never be used for anything else.
            forget((take(&mut self.start), self.body.take()));
        }
    }
}

impl Receiving {
    /// Whether all has arrived, and whether a piece has since the last time.
    pub(super) fn done(&mut self) -> Result<(bool, bool), Code> {
        let before = self.requests.len();
        let done = test_all(&mut self.requests)?;
        Ok((done, self.requests.len() < before))
    }

    /// The elements, once all have arrived.
    pub(super) fn into_body(mut self) -> HostBuffer {
        assert!(self.requests.is_empty(), "all has arrived");
        let dtype = self.body.dtype();
        std::mem::replace(&mut self.body, HostBuffer::empty(dtype))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.requests.is_empty() {
            // MPI may still write this memory, so it must never be used for anything else.
            let empty = HostBuffer::empty(self.body.dtype());
            forget(std::mem::replace(&mut self.body, empty));
        }
    }
}
