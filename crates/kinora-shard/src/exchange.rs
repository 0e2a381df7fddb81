//! Collectives on plain tensors: no graph, no adjoint. `dim` is a dimension of the tensor, which the
//! ranks of the group hold parts of, of the lengths `lens`, even or not.
//!
//! Each can be started, so that it travels while the rank computes, and waited for later. Tensors of a
//! device whose buffers the transport takes go as they are, all others through host memory.
//!
//! # Panics
//! All of them, with a [`CommError`] as payload, if the transport fails: they are called inside
//! graphs, which have no way to return an error. The launcher of the rank catches it.

use crate::Group;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_comm::{
    Buffer, Call, Collective, CommError, DeviceBuffer, Dtype, HostBuffer, Pending, Reduce,
};

/// A collective under way.
#[must_use = "its result is waited for"]
pub struct Flight<const D: usize> {
    // Of a group of one rank nothing travels.
    state: Result<Box<dyn Pending>, Tensor<1>>,
    device: Device,
    // Reductions of 16-bit floats add in 32 bits and come back as what was sent.
    dtype: DType,
    arrive: Box<dyn FnOnce(Tensor<1>) -> Tensor<D> + Send>,
}

impl<const D: usize> Flight<D> {
    /// Waits for the result.
    pub fn wait(self) -> Tensor<D> {
        let flat = match self.state {
            Ok(pending) => match pending.wait() {
                Ok(buffer) => {
                    from_buffer(buffer, &self.device, self.dtype).unwrap_or_else(|e| unwind(e))
                }
                Err(error) => unwind(error),
            },
            Err(flat) => flat,
        };
        (self.arrive)(flat)
    }
}

impl Group {
    /// The sum over the group, on every rank.
    pub fn sum_of<const D: usize>(&self, x: Tensor<D>, label: &'static str) -> Tensor<D> {
        let shape = x.dims();
        let reduce = Collective::AllReduce {
            reduce: Reduce::Sum,
        };
        self.start(reduce, label, x.reshape([-1]), move |flat| {
            flat.reshape(shape)
        })
        .wait()
    }

    /// The parts of all ranks along `dim`, on every rank.
    pub fn gather<const D: usize>(
        &self,
        x: Tensor<D>,
        dim: usize,
        lens: &[usize],
        label: &'static str,
    ) -> Tensor<D> {
        self.start_gather(x, dim, lens, label).wait()
    }

    /// Starts [`Group::gather`].
    pub fn start_gather<const D: usize>(
        &self,
        x: Tensor<D>,
        dim: usize,
        lens: &[usize],
        label: &'static str,
    ) -> Flight<D> {
        let shape = x.dims();
        self.expect(shape[dim], lens, label);
        let row = row(&shape, dim);
        let lens = lens.to_vec();
        let gather = Collective::AllGather {
            lens: lens.iter().map(|len| len * row).collect(),
        };
        self.start(gather, label, x.reshape([-1]), move |flat| {
            join(flat, shape, dim, &lens)
        })
    }

    /// This rank's part along `dim` of the sum over the group.
    pub fn scatter_sum<const D: usize>(
        &self,
        x: Tensor<D>,
        dim: usize,
        lens: &[usize],
        label: &'static str,
    ) -> Tensor<D> {
        let mut shape = x.dims();
        assert_eq!(
            shape[dim],
            lens.iter().sum::<usize>(),
            "{label}: parts of {lens:?} along dim {dim} of {shape:?}"
        );
        let row = row(&shape, dim);
        let scatter = Collective::ReduceScatter {
            reduce: Reduce::Sum,
            lens: lens.iter().map(|len| len * row).collect(),
        };
        shape[dim] = lens[self.rank()];
        self.start(scatter, label, parted(x, dim, lens), move |flat| {
            flat.reshape(shape)
        })
        .wait()
    }

    /// Parts along `split` to their ranks, and the parts that come joined along `concat`: what was
    /// whole along `split` and cut along `concat` becomes cut along `split` and whole along `concat`.
    pub fn all_to_all<const D: usize>(
        &self,
        x: Tensor<D>,
        (split, split_lens): (usize, &[usize]),
        (concat, concat_lens): (usize, &[usize]),
        label: &'static str,
    ) -> Tensor<D> {
        let mut shape = x.dims();
        self.expect(shape[concat], concat_lens, label);
        let rest: usize = (0..D)
            .filter(|dim| *dim != split && *dim != concat)
            .map(|dim| shape[dim])
            .product();
        let all_to_all = Collective::AllToAll {
            lens: concat_lens
                .iter()
                .map(|from| split_lens.iter().map(|to| from * to * rest).collect())
                .collect(),
        };
        shape[split] = split_lens[self.rank()];
        let concat_lens = concat_lens.to_vec();
        self.start(
            all_to_all,
            label,
            parted(x, split, split_lens),
            move |flat| join(flat, shape, concat, &concat_lens),
        )
        .wait()
    }

    /// Sends a tensor to the next rank of the ring and receives one of shape `shape` from the one
    /// before.
    pub fn start_shift<const D: usize>(
        &self,
        x: Tensor<D>,
        shape: [usize; D],
        label: &'static str,
    ) -> Flight<D> {
        let (rank, size) = (self.rank(), self.size());
        self.start_exchange(x, (rank + 1) % size, (rank + size - 1) % size, shape, label)
    }

    /// Sends a tensor to the rank before and receives one of shape `shape` from the next of the ring.
    pub fn start_shift_back<const D: usize>(
        &self,
        x: Tensor<D>,
        shape: [usize; D],
        label: &'static str,
    ) -> Flight<D> {
        let (rank, size) = (self.rank(), self.size());
        self.start_exchange(x, (rank + size - 1) % size, (rank + 1) % size, shape, label)
    }

    fn start_exchange<const D: usize>(
        &self,
        x: Tensor<D>,
        to: usize,
        from: usize,
        shape: [usize; D],
        label: &'static str,
    ) -> Flight<D> {
        let exchange = Collective::Exchange {
            to: Some(to),
            from: Some(from),
            len: shape.iter().product(),
        };
        self.start(exchange, label, x.reshape([-1]), move |flat| {
            flat.reshape(shape)
        })
    }

    fn expect(&self, found: usize, lens: &[usize], label: &'static str) {
        let (rank, size) = (self.rank(), self.size());
        assert_eq!(lens.len(), size, "{label}: one length for each rank");
        assert_eq!(
            found, lens[rank],
            "{label}: rank {rank} of {size} holds {} of {lens:?}, but got {found}",
            lens[rank]
        );
    }

    fn start<const D: usize>(
        &self,
        collective: Collective,
        label: &'static str,
        flat: Tensor<1>,
        arrive: impl FnOnce(Tensor<1>) -> Tensor<D> + Send + 'static,
    ) -> Flight<D> {
        let (device, dtype) = (flat.device(), flat.dtype());
        let arrive = Box::new(arrive);
        let Some(transport) = self.transport() else {
            return Flight {
                state: Err(flat),
                device,
                dtype,
                arrive,
            };
        };
        let sums = matches!(
            collective,
            Collective::AllReduce { .. } | Collective::ReduceScatter { .. }
        );
        let wide = sums && matches!(dtype, DType::BF16 | DType::F16);
        let on_device = transport.device().filter(|&device| is_on(&flat, device));
        let (flat, accumulate) = match on_device {
            // NCCL sums in what it is given.
            Some(_) if wide => (flat.cast(DType::F32), None),
            _ => (flat, wide.then_some(Dtype::F32)),
        };
        let call = Call {
            collective,
            label: label.into(),
            accumulate,
        };
        let buffer = match on_device {
            Some(_) => device_buffer(flat),
            None => Ok(to_buffer(flat)),
        };
        match buffer.and_then(|buffer| transport.start(call, buffer)) {
            Ok(pending) => Flight {
                state: Ok(pending),
                device,
                dtype,
                arrive,
            },
            Err(error) => unwind(error),
        }
    }
}

/// The elements of each place along `dim`, also of a shape that has no place there.
fn row<const D: usize>(shape: &[usize; D], dim: usize) -> usize {
    (0..D).filter(|d| *d != dim).map(|d| shape[d]).product()
}

/// The parts along `dim`, one after the other.
fn parted<const D: usize>(x: Tensor<D>, dim: usize, lens: &[usize]) -> Tensor<1> {
    if dim == 0 {
        return x.reshape([-1]);
    }
    let parts = x.split_with_sizes(lens.to_vec(), dim);
    Tensor::cat(
        parts.into_iter().map(|part| part.reshape([-1])).collect(),
        0,
    )
}

/// Parts that follow each other, joined along `dim`; the other sizes are those of `shape`.
fn join<const D: usize>(
    flat: Tensor<1>,
    mut shape: [usize; D],
    dim: usize,
    lens: &[usize],
) -> Tensor<D> {
    let row = row(&shape, dim);
    if shape[..dim].iter().product::<usize>() == 1 {
        shape[dim] = lens.iter().sum();
        return flat.reshape(shape);
    }
    let flat_lens = lens.iter().map(|len| len * row).collect();
    let parts = flat.split_with_sizes(flat_lens, 0);
    let parts = parts.into_iter().zip(lens).map(|(part, &len)| {
        shape[dim] = len;
        part.reshape(shape)
    });
    Tensor::cat(parts.collect(), dim)
}

fn unwind(error: CommError) -> ! {
    std::panic::resume_unwind(Box::new(error))
}

/// A flat tensor as what transports move.
fn to_buffer(flat: Tensor<1>) -> Buffer {
    let data = flat.into_data();
    let dtype = data.dtype();
    let taken = match dtype {
        DType::F32 => data.try_into_vec().map(HostBuffer::F32),
        DType::F64 => data.try_into_vec().map(HostBuffer::F64),
        DType::BF16 => data.try_into_vec().map(HostBuffer::BF16),
        DType::F16 => data.try_into_vec().map(HostBuffer::F16),
        dtype => panic!("collectives take floats, not {dtype:?}"),
    };
    Buffer::Host(taken.expect("the element type was matched"))
}

fn from_buffer(buffer: Buffer, device: &Device, dtype: DType) -> Result<Tensor<1>, CommError> {
    let buffer = match buffer {
        Buffer::Host(buffer) => buffer,
        Buffer::Device(buffer) => return from_device(buffer, device, dtype),
    };
    let len = [buffer.len()];
    let data = match buffer {
        HostBuffer::F32(values) => TensorData::new(values, len),
        HostBuffer::F64(values) => TensorData::new(values, len),
        HostBuffer::BF16(values) => TensorData::new(values, len),
        HostBuffer::F16(values) => TensorData::new(values, len),
        other => unreachable!("{:?} was not sent", other.dtype()),
    };
    let data = data.convert_dtype(dtype);
    Ok(Tensor::from_data(data, (device, dtype)))
}

#[cfg(feature = "cuda")]
fn is_on(flat: &Tensor<1>, device: usize) -> bool {
    crate::cuda::number(&flat.device()) == Some(device)
}

#[cfg(not(feature = "cuda"))]
fn is_on(_flat: &Tensor<1>, _device: usize) -> bool {
    false
}

/// A flat tensor on a device as what transports move.
#[cfg(feature = "cuda")]
fn device_buffer(flat: Tensor<1>) -> Result<Buffer, CommError> {
    let dtype = match flat.dtype() {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        dtype => panic!("collectives take floats, not {dtype:?}"),
    };
    crate::cuda::to_buffer(flat, dtype).map(Buffer::Device)
}

#[cfg(not(feature = "cuda"))]
fn device_buffer(_flat: Tensor<1>) -> Result<Buffer, CommError> {
    unreachable!("no tensor is on a device that was not built")
}

#[cfg(feature = "cuda")]
fn from_device(
    buffer: DeviceBuffer,
    device: &Device,
    dtype: DType,
) -> Result<Tensor<1>, CommError> {
    if buffer.len == 0 {
        return Ok(Tensor::empty([0], (device, dtype)));
    }
    let sent = match buffer.dtype {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        other => unreachable!("{other:?} was not sent"),
    };
    let tensor = crate::cuda::from_buffer(buffer, sent)?;
    Ok(if sent == dtype {
        tensor
    } else {
        tensor.cast(dtype)
    })
}

#[cfg(not(feature = "cuda"))]
fn from_device(
    buffer: DeviceBuffer,
    _device: &Device,
    _dtype: DType,
) -> Result<Tensor<1>, CommError> {
    unreachable!("{buffer:?} came back, but none was sent")
}
