//! What travels: typed host memory, or a region of a device.

use half::{bf16, f16};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The kind of a buffer's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 16-bit float with the exponent of a 32-bit one.
    BF16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// Byte.
    U8,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::U8 => 1,
        }
    }
}

/// A type that host buffers hold.
pub trait Element: Copy + Send + Sync + fmt::Debug + 'static {
    /// Its kind.
    const DTYPE: Dtype;
    /// A buffer of these elements.
    fn wrap(values: Vec<Self>) -> HostBuffer;
    /// The elements of a buffer, if it holds this type.
    fn take(buffer: HostBuffer) -> Option<Vec<Self>>;
    /// The elements of a buffer, if it holds this type.
    fn view(buffer: &HostBuffer) -> Option<&[Self]>;
}

macro_rules! host_buffer {
    ($($dtype:ident $type:ty),*) => {
        /// Typed elements in host memory.
        #[derive(Clone, Debug, PartialEq)]
        pub enum HostBuffer {
            $(#[doc = concat!("Elements of type `", stringify!($type), "`.")] $dtype(Vec<$type>)),*
        }

        impl HostBuffer {
            /// A buffer of no elements.
            pub fn empty(dtype: Dtype) -> Self {
                match dtype { $(Dtype::$dtype => Self::$dtype(vec![])),* }
            }

            /// The kind of its elements.
            pub fn dtype(&self) -> Dtype {
                match self { $(Self::$dtype(_) => Dtype::$dtype),* }
            }

            /// The number of elements.
            pub fn len(&self) -> usize {
                match self { $(Self::$dtype(values) => values.len()),* }
            }

            /// An empty buffer with room for `len` elements.
            pub(crate) fn with_capacity(dtype: Dtype, len: usize) -> Self {
                match dtype { $(Dtype::$dtype => Self::$dtype(Vec::with_capacity(len))),* }
            }

            /// A buffer of `len` zeros.
            pub(crate) fn zeros(dtype: Dtype, len: usize) -> Self {
                match dtype {
                    $(Dtype::$dtype => Self::$dtype(vec![<$type as bytemuck::Zeroable>::zeroed(); len])),*
                }
            }

            /// The memory of its elements, in this machine's order of bytes.
            pub(crate) fn as_bytes(&self) -> &[u8] {
                match self { $(Self::$dtype(values) => bytemuck::cast_slice(values)),* }
            }

            /// The memory of its elements, to be written to.
            pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
                match self { $(Self::$dtype(values) => bytemuck::cast_slice_mut(values)),* }
            }

            /// Appends elements `range` of another buffer of the same kind.
            pub(crate) fn extend(&mut self, other: &Self, range: std::ops::Range<usize>) {
                match (self, other) {
                    $((Self::$dtype(to), Self::$dtype(from)) => to.extend_from_slice(&from[range]),)*
                    _ => unreachable!("signatures with unlike dtypes do not meet"),
                }
            }
        }

        $(impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
            fn wrap(values: Vec<Self>) -> HostBuffer {
                HostBuffer::$dtype(values)
            }
            fn take(buffer: HostBuffer) -> Option<Vec<Self>> {
                match buffer { HostBuffer::$dtype(values) => Some(values), _ => None }
            }
            fn view(buffer: &HostBuffer) -> Option<&[Self]> {
                match buffer { HostBuffer::$dtype(values) => Some(values), _ => None }
            }
        })*
    };
}

host_buffer!(F64 f64, F32 f32, F16 f16, BF16 bf16, I64 i64, I32 i32, U8 u8);

impl HostBuffer {
    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype().size()
    }
}

impl<T: Element> From<Vec<T>> for HostBuffer {
    fn from(values: Vec<T>) -> Self {
        T::wrap(values)
    }
}

/// A region of a device's memory.
#[derive(Clone)]
pub struct DeviceBuffer {
    /// Address on the device.
    pub ptr: u64,
    /// Elements.
    pub len: usize,
    /// The kind of its elements.
    pub dtype: Dtype,
    /// The device's number.
    pub device: usize,
    /// The stream whose work so far must be done before the buffer is read.
    pub stream: u64,
    /// Keeps the allocation alive.
    pub keep: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} x {:?} on device {}",
            self.len, self.dtype, self.device
        )
    }
}

/// A buffer, wherever it lies.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// In host memory.
    Host(HostBuffer),
    /// On a device.
    Device(DeviceBuffer),
}

impl Buffer {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Buffer::Host(buffer) => buffer.len(),
            Buffer::Device(buffer) => buffer.len,
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kind of its elements.
    pub fn dtype(&self) -> Dtype {
        match self {
            Buffer::Host(buffer) => buffer.dtype(),
            Buffer::Device(buffer) => buffer.dtype,
        }
    }
}

impl From<HostBuffer> for Buffer {
    fn from(buffer: HostBuffer) -> Self {
        Buffer::Host(buffer)
    }
}

impl<T: Element> From<Vec<T>> for Buffer {
    fn from(values: Vec<T>) -> Self {
        Buffer::Host(values.into())
    }
}
