//! The routines of GPUs for matrix products, and which of them is taken.

use burn::backend::{Cuda, DispatchDevice};
use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, FloatKind};
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy;
use cubek::matmul::multi_level::components::tile::TileMatmulKind::{Cmma, Mma};
use cubek::matmul::multi_level::routines::batch::double_buffering::DoubleBufferingArgs;
use cubek::matmul::multi_level::routines::batch::ordered_double_buffering::OrderedSelectionArgs;
use cubek::matmul::multi_level::routines::batch::simple::SimpleArgs;
use cubek::matmul::routine::BlueprintStrategy::Inferred;
use cubek::std::InputBinding;

// Below this a routine's tiles are mostly empty, and Burn's own choice is as good.
const LEAST: usize = 64;
// Multiplications: smaller ones are over before the next is launched, whatever the routine.
const WORK: usize = 1 << 28;
// Of elements, so that rows begin where 16 bytes do.
const MULTIPLE: usize = 8;

/// A routine by its name.
#[derive(Clone)]
pub struct Routine {
    /// What it is called.
    pub name: &'static str,
    strategy: Strategy,
}

/// All that are worth a comparison.
pub fn all() -> Vec<Routine> {
    let routine = |name, strategy| Routine { name, strategy };
    let args = |multi_rows, tile_matmul| SimpleArgs {
        multi_rows,
        tile_matmul,
    };
    let simple = |multi_rows, tile_matmul| Inferred(args(multi_rows, tile_matmul));
    let ordered = |rows, tile_matmul| {
        Inferred(OrderedSelectionArgs {
            partition_k: Some(2),
            row_count: Some(rows),
            rows_per_plane: Some(2),
            tile_matmul,
        })
    };
    let double = |specialized, tile_matmul| {
        Inferred(DoubleBufferingArgs {
            specialized,
            tile_matmul,
        })
    };
    vec![
        routine(
            "simple cyclic cmma",
            Strategy::SimpleCyclicCmma(simple(false, Cmma)),
        ),
        routine(
            "simple rows mma",
            Strategy::SimpleCyclicMma(simple(true, Mma)),
        ),
        routine("ordered 4 mma", Strategy::OrderedDoubleMma(ordered(4, Mma))),
        routine(
            "ordered 8 cmma",
            Strategy::OrderedDoubleCmma(ordered(8, Cmma)),
        ),
        routine("ordered 8 mma", Strategy::OrderedDoubleMma(ordered(8, Mma))),
        routine("double mma", Strategy::DoubleCyclicMma(double(false, Mma))),
        routine(
            "double specialized mma",
            Strategy::DoubleCyclicMma(double(true, Mma)),
        ),
        routine(
            "specialized mma",
            Strategy::SpecializedCyclicMma(Inferred(().into())),
        ),
        routine(
            "simple tma mma",
            Strategy::SimpleTmaMma(Inferred(args(true, Mma))),
        ),
    ]
}

/// The product by one routine, in the type `dtype`; or why the routine cannot make it.
///
/// # Errors
/// The routine's own words.
pub fn by<const D: usize>(
    routine: &Routine,
    a: Tensor<D>,
    b: Tensor<D>,
    dtype: DType,
) -> Result<Tensor<D>, String> {
    let [a, b] = [a, b].map(|x| {
        x.try_into_primitive::<Cuda>()
            .expect("a plain tensor of a GPU")
    });
    let mut shape = a.meta.shape().clone();
    shape[D - 1] = b.meta.shape()[D - 1];
    let out = empty_device_dtype(a.client.clone(), a.device.clone(), shape, dtype);
    launch(&routine.strategy, a, b, out.clone())?;
    Ok(Tensor::from_primitive::<Cuda>(out))
}

fn launch(
    strategy: &Strategy,
    a: CubeTensor,
    b: CubeTensor,
    out: CubeTensor,
) -> Result<(), String> {
    let client = out.client.clone();
    let (lhs, rhs) = (element(a.dtype), element(b.dtype));
    let mut elements = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs,
        rhs,
        out: element(out.dtype),
    });
    let (a, b) = (
        InputBinding::new(a.binding(), lhs),
        InputBinding::new(b.binding(), rhs),
    );
    let strategy = strategy.clone().into();
    launch_ref(&strategy, &client, a, b, out.binding(), &mut elements)
        .map_err(|error| format!("{error:?}"))
}

fn element(dtype: DType) -> ElemType {
    ElemType::Float(match dtype {
        DType::BF16 => FloatKind::BF16,
        DType::F16 => FloatKind::F16,
        DType::F32 => FloatKind::F32,
        other => panic!("products of {other:?} are the backend's own"),
    })
}

/// The one that was fastest, or nearly, at all shapes of `examples/products.rs` on an H100: 1.1 to 2
/// times as fast as the one that Burn takes without autotuning, whatever is transposed.
fn fastest() -> Strategy {
    Strategy::OrderedDoubleMma(Inferred(OrderedSelectionArgs {
        partition_k: Some(2),
        row_count: Some(8),
        rows_per_plane: Some(2),
        tile_matmul: Mma,
    }))
}

// An autodiff device names the one that it computes on.
pub(super) fn on_gpu(device: &Device) -> bool {
    let device = device.clone().inner();
    matches!(device.as_dispatch(), DispatchDevice::Cube(_))
}

/// Whether the product `[.., M, K]` and `[.., K, N]` is large and even enough for the fast routine.
pub(super) fn fits<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> bool {
    let (of_a, of_b) = (a.dims(), b.dims());
    let sides = [of_a[D - 2], of_a[D - 1], of_b[D - 1]];
    let even = |side: &usize| *side >= LEAST && side.is_multiple_of(MULTIPLE);
    let work: usize = of_a.iter().product::<usize>() * of_b[D - 1];
    sides.iter().all(even) && work >= WORK && of_a[..D - 2] == of_b[..D - 2]
}

/// The product in the type `dtype`, or nothing if the fast routine cannot make it.
pub(super) fn product<const D: usize>(
    a: &Tensor<D>,
    b: &Tensor<D>,
    dtype: DType,
) -> Option<Tensor<D>> {
    let routine = Routine {
        name: "fastest",
        strategy: fastest(),
    };
    by(&routine, a.clone(), b.clone(), dtype).ok()
}
