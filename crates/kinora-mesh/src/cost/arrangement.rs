//! Who does what: a mesh and a plan, checked against a model and a job.

use super::{Anatomy, CostError, Guidance, Job, Weight};
use crate::{Axis, ContextAttention, Extent, Mesh, MeshAxis, Plan, part};
use serde::{Deserialize, Serialize};

/// A mesh with a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrangement {
    /// The ranks.
    pub mesh: Mesh,
    /// What they cut.
    pub plan: Plan,
}

impl Arrangement {
    /// Checks the plan, and that the heads, the hidden units, the tokens and the samples can be cut so.
    ///
    /// # Errors
    /// The first that cannot, with the numbers.
    pub fn check(&self, anatomy: &Anatomy, job: &Job) -> Result<(), CostError> {
        let Self { mesh, plan } = self;
        plan.check(mesh)?;
        for (what, of) in [
            ("", Some(anatomy)),
            ("encoder ", anatomy.encoder.as_deref()),
        ] {
            let Some(anatomy) = of else { continue };
            for (name, heads) in [
                ("query heads", anatomy.heads),
                ("key heads", anatomy.kv_heads),
            ] {
                let heads = Axis::Heads
                    .of(heads * anatomy.head_dim)
                    .by(anatomy.head_dim);
                let name = format!("{what}{name}");
                plan.check_even(&name, heads, mesh)?;
                // Text is whole on every rank, so that its heads are not exchanged for tokens.
                if what.is_empty() {
                    plan.check_heads(&name, heads, mesh)?;
                }
            }
            let hidden = Axis::Hidden.of(anatomy.ffn);
            plan.check_parts(&format!("{what}hidden units"), hidden, mesh)?;
        }
        plan.check_parts("tokens", Axis::Seq.of(job.tokens()), mesh)?;
        match job {
            Job::Training(job) => {
                let each = self.span(Axis::Batch) * job.batch;
                if each == 0 || job.samples == 0 || !job.samples.is_multiple_of(each) {
                    return Err(CostError::Uneven {
                        what: "samples".into(),
                        units: job.samples,
                        parts: each,
                        help: "samples must be a multiple of data groups times batch".into(),
                    });
                }
            }
            Job::Generation(job) => {
                let want = match job.guidance {
                    Guidance::CfgAxis => 2,
                    _ => 1,
                };
                if mesh.cfg != want {
                    return Err(CostError::Uneven {
                        what: "guidance passes".into(),
                        units: want,
                        parts: mesh.cfg,
                        help: "guidance over cfg takes mesh.cfg = 2, any other takes 1".into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// The ranks over which an axis is cut.
    pub fn span(&self, axis: Axis) -> usize {
        self.mesh.span(&self.plan.cuts(axis, &self.mesh))
    }

    /// How many ranks exchange heads for tokens, and how many groups of them hold the other tokens.
    pub(super) fn degrees(&self) -> [usize; 2] {
        match self.plan.context(&self.mesh) {
            None => [1, 1],
            Some(attention) => match attention.degrees(self.mesh.cp) {
                Some((ulysses, ring)) => [ulysses, ring],
                None => [1, self.mesh.cp],
            },
        }
    }

    /// Whether keys and values are gathered.
    pub(super) fn gathers(&self) -> bool {
        self.plan.context(&self.mesh) == Some(ContextAttention::Gather)
    }
}

/// What one rank holds and sees in one pass.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub rank: usize,
    /// Samples of a pass.
    pub batch: usize,
    /// Tokens of the whole sequence.
    pub tokens: usize,
    /// Tokens of the `cp` chunk, which the ranks of `tp` share.
    pub chunk: usize,
    /// Tokens of this rank alone.
    pub own: usize,
    /// Tokens of text.
    pub text: usize,
    pub width: usize,
    /// This rank's width of queries, of keys, and of hidden units.
    pub query: usize,
    pub key: usize,
    pub hidden: usize,
    /// Ranks that cut tokens outermost, and this rank's place among them.
    pub cp: usize,
    pub cp_index: usize,
    /// Ranks along `tp`, this rank's place, and what is cut there.
    pub tp: usize,
    pub tp_index: usize,
    pub sequence_parallel: bool,
    pub heads_cut: bool,
    pub hidden_cut: bool,
    /// Ranks that cut stored parameters, and this rank's place among them.
    pub shards: usize,
    pub shard: usize,
    pub params: Vec<MeshAxis>,
}

impl Local {
    pub(super) fn new(
        anatomy: &Anatomy,
        job: &Job,
        arrangement: &Arrangement,
        rank: usize,
    ) -> Self {
        let Arrangement { mesh, plan } = arrangement;
        let cuts = |axis| plan.cuts(axis, mesh);
        let (seq, heads, hidden) = (cuts(Axis::Seq), cuts(Axis::Heads), cuts(Axis::Hidden));
        let has = |list: &[MeshAxis], axis| list.contains(&axis);
        let cp = if has(&seq, MeshAxis::Cp) { mesh.cp } else { 1 };
        let cp_index = if cp > 1 {
            mesh.coordinate(rank, MeshAxis::Cp)
        } else {
            0
        };
        let tp_index = mesh.coordinate(rank, MeshAxis::Tp);
        let tokens = anatomy.sequence(job.tokens());
        let chunk = part(tokens, cp, cp_index).len();
        let sequence_parallel = has(&seq, MeshAxis::Tp);
        let own = if sequence_parallel {
            part(chunk, mesh.tp, tp_index).len()
        } else {
            chunk
        };
        let (heads_cut, hidden_cut) = (has(&heads, MeshAxis::Tp), has(&hidden, MeshAxis::Tp));
        let over = |cut: bool| if cut { mesh.tp } else { 1 };
        let params = cuts(Axis::Params);
        Self {
            rank,
            batch: job.batch(),
            tokens,
            chunk,
            own,
            text: anatomy.text_tokens + anatomy.image_tokens,
            width: anatomy.width,
            query: anatomy.heads / over(heads_cut) * anatomy.head_dim,
            key: anatomy.kv_heads / over(heads_cut) * anatomy.head_dim,
            hidden: part(
                anatomy.ffn,
                over(hidden_cut),
                tp_index * usize::from(hidden_cut),
            )
            .len(),
            cp,
            cp_index,
            tp: mesh.tp,
            tp_index,
            sequence_parallel,
            heads_cut,
            hidden_cut,
            shards: mesh.span(&params),
            shard: mesh.index(rank, &params),
            params,
        }
    }

    /// The same rank as the encoder of its text sees it: all tokens are here, and those are the text's.
    pub(super) fn reading(&self, encoder: &Anatomy) -> Self {
        let cut = |heads: usize| {
            if self.heads_cut {
                heads / self.tp
            } else {
                heads
            }
        };
        Self {
            tokens: self.text,
            chunk: self.text,
            own: self.text,
            text: 0,
            width: encoder.width,
            query: cut(encoder.heads) * encoder.head_dim,
            key: cut(encoder.kv_heads) * encoder.head_dim,
            hidden: self.len(&Axis::Hidden.of(encoder.ffn)),
            cp: 1,
            cp_index: 0,
            sequence_parallel: false,
            ..self.clone()
        }
    }

    /// The length of a dimension of what this rank computes with.
    fn len(&self, dim: &Extent) -> usize {
        match self.cuts(dim.axis) {
            true => part(dim.len / dim.unit, self.tp, self.tp_index).len() * dim.unit,
            false => dim.len,
        }
    }

    fn cuts(&self, axis: Axis) -> bool {
        match axis {
            Axis::Heads => self.heads_cut,
            Axis::Hidden => self.hidden_cut,
            _ => false,
        }
    }

    /// Whether `tp` cuts a weight.
    pub(super) fn cut(&self, weight: &Weight) -> bool {
        weight.dims.iter().any(|dim| self.cuts(dim.axis))
    }

    /// Elements of a weight that this rank computes with.
    pub(super) fn used(&self, weight: &Weight) -> usize {
        weight.dims.iter().map(|dim| self.len(dim)).product()
    }

    /// The length of the dimension along which a weight is stored cut: the first that leaves each rank
    /// a part. What is too small for that is stored whole.
    fn stored_along(&self, weight: &Weight) -> Option<usize> {
        if self.shards < 2 {
            return None;
        }
        let mut lens = weight.dims.iter().map(|dim| self.len(dim));
        lens.find(|len| *len >= self.shards)
    }

    /// Whether a weight is cut where it is stored.
    pub(super) fn sharded(&self, weight: &Weight) -> bool {
        self.stored_along(weight).is_some()
    }

    /// Elements of a weight that the rank at `shard` of those that cut parameters stores.
    pub(super) fn stored(&self, weight: &Weight, shard: usize) -> usize {
        let used = self.used(weight);
        match self.stored_along(weight) {
            Some(len) => used / len * part(len, self.shards, shard % self.shards).len(),
            None => used,
        }
    }

    /// Tokens of each chunk along `cp`.
    pub(super) fn chunk_of(&self, index: usize) -> usize {
        part(self.tokens, self.cp, index % self.cp).len()
    }
}
