//! Where the results of device collectives are put.

use crate::{CommError, DeviceBuffer, Dtype};
use std::fmt;

/// Allocates the memory of results. [`Device`](super::Device) does so by the driver; a tensor
/// library's own allocator spares the copy into its memory.
pub trait Memory: Send + Sync + fmt::Debug {
    /// Memory for `len` elements, which may be none. The buffer's `stream` is the one whose work so
    /// far must be done before the memory is written.
    ///
    /// # Errors
    /// [`CommError::Native`], above all if memory runs out.
    fn allocate(&self, len: usize, dtype: Dtype) -> Result<DeviceBuffer, CommError>;
}
