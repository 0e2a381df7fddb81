//! The builder that modules are made with: it knows where in the model it stands, and how the plan
//! cuts what is made there.

use crate::params::Mark;
use crate::unit::Units;
use crate::{
    Adapters, Collective, Context, Group, ParamSpec, ParamTable, Precision, Recompute, Sharding,
    Storage, Weight,
};
use burn::module::{Param, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::{CkptError, Dtype, TensorSource};
use kinora_mesh::rng::Stream;
use kinora_mesh::{Axis, Extent, Layout, MeshAxis, parts};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f64),
    /// Normal with this standard deviation, keyed by (seed, path, element).
    Normal(f64),
}

/// A path-scoped builder: device, dtype, seed, plan and path.
///
/// `stream` is the axis that the values flowing through the module being built run along: the video
/// tokens (`Axis::Seq`, which a plan may cut) or the text (`Axis::Text`, whole everywhere). From it
/// and from the plan follow the entry and exit of layers, and where gradients are partial.
#[derive(Clone, Debug)]
pub struct Cx {
    device: Device,
    precision: Precision,
    seed: u64,
    path: String,
    stream: Axis,
    sharding: Arc<Sharding>,
    table: Arc<Mutex<ParamTable>>,
    recompute: Recompute,
    stacked: bool,
    dry: bool,
    values: Option<Values>,
    adapters: Option<Arc<Adapters>>,
}

/// Where parameters are read from, instead of being drawn.
#[derive(Clone)]
struct Values {
    source: Arc<dyn TensorSource + Send + Sync>,
    /// The path of the model that is read; its parameters' names are relative to it.
    base: String,
    /// The first failure. Building goes on without the values: every rank has to come to the end.
    failed: Arc<Mutex<Option<CkptError>>>,
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Cx {
    /// A builder for one rank of a sharded model.
    pub fn new(
        device: &Device,
        precision: impl Into<Precision>,
        seed: u64,
        sharding: &Arc<Sharding>,
    ) -> Self {
        Self {
            device: device.clone(),
            precision: precision.into(),
            seed,
            path: String::new(),
            stream: Axis::Seq,
            sharding: sharding.clone(),
            table: Arc::default(),
            recompute: Recompute::None,
            stacked: false,
            dry: false,
            values: None,
            adapters: None,
        }
    }

    /// The same builder of models whose blocks are recomputed in the backward pass, or not.
    pub fn recomputing(self, recompute: Recompute) -> Self {
        Self { recompute, ..self }
    }

    /// The same builder of models whose own parameters are frozen, and whose adapters are trained.
    pub fn adapting(self, adapters: Adapters) -> Self {
        Self {
            adapters: Some(Arc::new(adapters)),
            ..self
        }
    }

    /// What is trained beside the linear layer that is built here, if anything is.
    pub fn adapters(&self) -> Option<&Adapters> {
        let adapters = self.adapters.as_deref();
        adapters.filter(|adapters| adapters.target(&self.path).is_some())
    }

    /// A builder for an ordinary model on one device, in f32.
    pub fn single(device: &Device) -> Self {
        Self::new(device, DType::F32, 0, &Sharding::single())
    }

    /// A builder of modules whose parameters are known but never allocated, at any size.
    pub fn dry(device: &Device, precision: impl Into<Precision>, sharding: &Arc<Sharding>) -> Self {
        Self {
            dry: true,
            ..Self::new(device, precision, 0, sharding)
        }
    }

    /// The same builder of modules that are only looked at.
    pub(crate) fn looking(&self) -> Self {
        Self {
            dry: true,
            table: Arc::default(),
            ..self.clone()
        }
    }

    /// The same builder of modules whose parameters are read; and where it says what went wrong.
    pub(crate) fn reading(
        &self,
        source: Arc<dyn TensorSource + Send + Sync>,
    ) -> (Self, Arc<Mutex<Option<CkptError>>>) {
        let failed = Arc::new(Mutex::new(None));
        let values = Values {
            source,
            base: self.path.clone(),
            failed: failed.clone(),
        };
        let values = Some(values);
        let cx = Self {
            values,
            ..self.clone()
        };
        (cx, failed)
    }

    /// The path of what is built here.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The builder of the field `name`.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        let path = if self.path.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.path)
        };
        Self {
            path,
            ..self.clone()
        }
    }

    /// The same builder for values that run along `stream`.
    pub fn on(&self, stream: Axis) -> Self {
        Self {
            stream,
            ..self.clone()
        }
    }

    /// The same builder for the blocks of a stack, which gathers their weights.
    pub(crate) fn in_stack(&self) -> Self {
        Self {
            stacked: true,
            ..self.clone()
        }
    }

    pub(crate) fn recompute(&self) -> Recompute {
        self.recompute
    }

    /// How the parameters since there were `first` are gathered together.
    pub(crate) fn units(&self, first: Mark) -> Units {
        let group = self.sharding.group(&self.sharding.cuts(Axis::Params));
        Units::new(group, self.precision.computed, &self.table(), first)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What weights are stored in, and what is computed in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The mesh axes that cut the stream.
    fn stream_cuts(&self) -> Vec<MeshAxis> {
        self.sharding.cuts(self.stream)
    }

    /// The mesh axes over which the gradient of a parameter that is not cut itself is partial: those
    /// whose ranks saw other samples, or another part of the tokens.
    fn partial(&self) -> Vec<MeshAxis> {
        let mut axes = self.sharding.cuts(Axis::Batch);
        let heads = self.sharding.cuts(Axis::Heads);
        // Text is whole everywhere, but each rank's queries, a part of the tokens, saw it. Where the
        // heads are cut, the entry of the layer has already summed its gradient.
        let text = self.stream == Axis::Text;
        axes.extend(
            self.sharding
                .cuts(Axis::Seq)
                .into_iter()
                .filter(|axis| !(text && heads.contains(axis))),
        );
        axes
    }

    /// Creates a parameter, already cut: no rank ever holds the whole.
    pub fn param<const D: usize>(&self, name: &str, dims: [Extent; D], init: Init) -> Weight<D> {
        self.create(name, dims, init, (self.adapters.is_none(), &[]))
    }

    /// Creates a parameter of an adapter beside a layer from one axis to another, which is trained
    /// whatever is frozen. Where one of the axes is cut, each rank's share of the layer's sums goes
    /// through it, so that its gradient is partial over these ranks too.
    pub fn adapter<const D: usize>(
        &self,
        name: &str,
        dims: [Extent; D],
        init: Init,
        beside: [Axis; 2],
    ) -> Weight<D> {
        self.create(name, dims, init, (true, &beside))
    }

    fn create<const D: usize>(
        &self,
        name: &str,
        dims: [Extent; D],
        init: Init,
        (trained, beside): (bool, &[Axis]),
    ) -> Weight<D> {
        let path = self.at(name).path;
        let (plan, mesh) = (self.sharding.plan(), self.sharding.mesh());
        let rank = self.sharding.rank();
        let computed = Layout::new(&dims, plan, mesh, rank);
        let id = ParamId::new();
        let cut = computed.cut_axes();
        let mut partial = self.partial();
        partial.extend(beside.iter().flat_map(|&axis| self.sharding.cuts(axis)));
        partial.sort_unstable();
        partial.dedup();
        partial.retain(|axis| !cut.contains(axis));

        let copies = self.sharding.cuts(Axis::Params);
        let stored = computed.stored(&copies, mesh, rank);
        let stored = stored.filter(|_| !copies.is_empty());
        let (layout, storage) = match stored {
            Some((dim, layout)) => {
                let whole = computed.local_shape()[dim];
                let lens = parts(whole, mesh.span(&copies));
                // The gather's adjoint sums over these.
                partial.retain(|axis| !copies.contains(axis));
                (layout, Some(Storage { dim, lens }))
            }
            None => (computed, None),
        };
        self.table().add(
            id,
            ParamSpec {
                path: path.clone(),
                layout: layout.clone(),
                storage: storage.clone(),
                partial,
            },
            trained,
        );
        let gather = storage.filter(|_| !self.stacked);
        let gather = gather.map(|storage| (self.sharding.group(&copies), storage));
        let stored = self.stored((id, trained), &path, &layout, init);
        Weight::new(stored, gather, self.precision.computed)
    }

    fn stored<const D: usize>(
        &self,
        (id, trained): (ParamId, bool),
        path: &str,
        layout: &Layout,
        init: Init,
    ) -> Param<Tensor<D>> {
        let tracked = trained && self.device.is_autodiff();
        let dtype = match &self.adapters {
            Some(adapters) if !trained => adapters.frozen,
            _ => self.precision.stored,
        };
        // Adapters are not part of the model that is read.
        let values = self
            .values
            .as_ref()
            .filter(|_| !trained || self.adapters.is_none());
        if self.dry {
            let shape = layout.local_shape();
            return Param::uninitialized(
                id,
                |_, _| panic!("a dry model is looked at, not computed with"),
                self.device.clone(),
                tracked,
                shape.into(),
            );
        }
        let data = match values {
            Some(values) => values.read(path, layout, dtype),
            None => self.drawn(path, layout, init),
        };
        let tensor = Tensor::from_data(data, (&self.device, dtype));
        // Tracked-ness is a property of the device alone, so that it is the same on every rank.
        Param::initialized(
            id,
            if tracked {
                tensor.require_grad()
            } else {
                tensor
            },
        )
    }

    /// Initial values, keyed by (seed, path, element).
    fn drawn(&self, path: &str, layout: &Layout, init: Init) -> TensorData {
        let len = layout.local_shape().iter().product();
        let values: Vec<f64> = match init {
            Init::Constant(value) => vec![value; len],
            Init::Normal(std) => {
                let stream = Stream::new(self.seed, &format!("weights/{path}"));
                let mut values = Vec::with_capacity(len);
                layout.runs(|start, len| {
                    let (start, end) = (start as u64, (start + len) as u64);
                    values.extend(stream.normals(start..end).into_iter().map(|x| x * std));
                });
                values
            }
        };
        TensorData::new(values, layout.local_shape())
    }

    /// What a value must pass before layers cut along `axis` read it, and over which group: `Copy`,
    /// or a gather of the tokens where the same ranks hold parts of them.
    pub fn entry(&self, axis: Axis) -> (Edge, Group) {
        self.edge(axis, Edge::Copy, Edge::Gather)
    }

    /// What the output of a layer that contracted a cut `axis` must pass: a sum, scattered over the
    /// tokens where the same ranks hold parts of them.
    pub fn exit(&self, axis: Axis) -> (Edge, Group) {
        self.edge(axis, Edge::Reduce, Edge::Scatter)
    }

    fn edge(&self, axis: Axis, whole: Edge, parts: Edge) -> (Edge, Group) {
        let cuts = self.sharding.cuts(axis);
        let shared = cuts.iter().any(|axis| self.stream_cuts().contains(axis));
        (
            if shared { parts } else { whole },
            self.sharding.group(&cuts),
        )
    }

    /// The groups that cut the stream one inside the other, outermost first.
    pub fn stream_groups(&self) -> Vec<Group> {
        self.groups(self.stream_cuts())
    }

    /// The groups that cut the stream, outermost first, but for those whose ranks also cut `axis`: what
    /// a value still is a part of behind the entry of a layer cut along `axis`.
    pub fn groups_outside(&self, axis: Axis) -> Vec<Group> {
        let mut axes = self.stream_cuts();
        let cuts = self.sharding.cuts(axis);
        axes.retain(|axis| !cuts.contains(axis));
        self.groups(axes)
    }

    fn groups(&self, axes: Vec<MeshAxis>) -> Vec<Group> {
        let group = |axis| self.sharding.group(&[axis]);
        axes.into_iter().map(group).collect()
    }

    /// The group whose ranks hold parts of `axis`.
    pub fn group_of(&self, axis: Axis) -> Group {
        self.sharding.group(&self.sharding.cuts(axis))
    }

    /// How attention along the stream reaches the tokens of other ranks, if they hold any.
    pub fn context(&self) -> Option<Context> {
        let cut = self.stream_cuts().contains(&MeshAxis::Cp);
        self.sharding.context().filter(|_| cut).cloned()
    }

    /// The parameters created so far, by this builder and all that came of the same one.
    pub fn table(&self) -> MutexGuard<'_, ParamTable> {
        self.table
            .lock()
            .expect("no code panics while it holds the table")
    }
}

impl Values {
    /// This rank's box of a parameter, in the dtype in which it is stored.
    fn read(&self, path: &str, layout: &Layout, dtype: DType) -> TensorData {
        let name = path.strip_prefix(&self.base).unwrap_or(path);
        let name = name.strip_prefix('.').unwrap_or(name);
        let (offset, extent) = (layout.offset(), layout.local_shape());
        let found = self.source.dtype(name).and_then(|dtype| {
            let bytes = self.source.read(name, &offset, &extent)?;
            Ok((bytes, dtype))
        });
        match found {
            Ok((bytes, found)) => {
                let found = match found {
                    Dtype::F64 => DType::F64,
                    Dtype::F32 => DType::F32,
                    Dtype::BF16 => DType::BF16,
                    Dtype::F16 => DType::F16,
                    other => unreachable!("{name} holds {other}, which names refuse"),
                };
                TensorData::from_bytes_vec(bytes, extent, found).convert_dtype(dtype)
            }
            Err(error) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
                TensorData::zeros::<f32, _>(extent)
            }
        }
    }
}

/// One side of a cut layer, on values `[B, tokens, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The tokens are whole: gradients are summed on the way back.
    Copy,
    /// The tokens are cut over the same ranks: they are gathered.
    Gather,
    /// The tokens stay whole: partial sums are added.
    Reduce,
    /// The tokens are cut over the same ranks: partial sums are added and scattered.
    Scatter,
}

impl Edge {
    /// The collective for a sequence of `tokens` tokens in all.
    pub fn collective(self, tokens: usize) -> Collective {
        let (dim, whole) = (1, tokens);
        match self {
            Edge::Copy => Collective::Copy,
            Edge::Gather => Collective::AllGather { dim, whole },
            Edge::Reduce => Collective::AllReduce,
            Edge::Scatter => Collective::ReduceScatter { dim, whole },
        }
    }
}
