//! Who does what: a mesh, a plan, and how attention crosses the token cut.

use super::{Along, Anatomy, CostError, Guidance, Job, Weight};
use crate::{Axis, Mesh, MeshAxis, Plan, part};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How self-attention sees the tokens of the other ranks along `cp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Context {
    /// Keys and values travel round a ring, one chunk a hop.
    Ring,
    /// Keys and values are gathered.
    Gather,
    /// Heads are exchanged for tokens.
    Ulysses,
    /// Heads for tokens among this many neighbours, and a ring over those groups.
    Hybrid {
        /// Neighbours that exchange heads for tokens.
        ulysses: usize,
    },
}

impl Context {
    /// How many ranks of `cp` exchange heads, and how many groups of them make the ring.
    pub fn split(self, cp: usize) -> [usize; 2] {
        match self {
            Context::Ring | Context::Gather => [1, cp],
            Context::Ulysses => [cp, 1],
            Context::Hybrid { ulysses } => [ulysses, cp / ulysses],
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Context::Ring => f.write_str("ring"),
            Context::Gather => f.write_str("gather"),
            Context::Ulysses => f.write_str("ulysses"),
            Context::Hybrid { ulysses } => write!(f, "ulysses {ulysses} in a ring"),
        }
    }
}

/// A mesh with a plan and a context strategy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrangement {
    /// The ranks.
    pub mesh: Mesh,
    /// What they cut.
    pub plan: Plan,
    /// How attention crosses `cp`.
    pub context: Context,
}

impl Arrangement {
    /// Checks that the heads, the hidden units, the tokens and the samples can be cut so.
    ///
    /// # Errors
    /// The first that cannot, with the numbers.
    pub fn check(&self, anatomy: &Anatomy, job: &Job) -> Result<(), CostError> {
        let uneven = |what: &str, units: usize, parts: usize, help: &str| CostError::Uneven {
            what: what.into(),
            units,
            parts,
            help: help.into(),
        };
        if let Some(axis) = MeshAxis::ALL.into_iter().find(|&a| self.mesh.size(a) == 0) {
            return Err(uneven(&format!("mesh.{axis}"), 0, 1, "use at least 1"));
        }
        let tp = self.span(Axis::Heads);
        for (what, units) in [
            ("query heads", anatomy.heads),
            ("key heads", anatomy.kv_heads),
        ] {
            if !units.is_multiple_of(tp) {
                return Err(uneven(what, units, tp, "change mesh.tp"));
            }
        }
        let cp = self.mesh.cp;
        if cp > 1 && self.span(Axis::Seq) > 1 {
            let [ulysses, _] = self.context.split(cp);
            for units in [anatomy.heads / tp, anatomy.kv_heads / tp] {
                if ulysses == 0 || !cp.is_multiple_of(ulysses) || !units.is_multiple_of(ulysses) {
                    let help = "use the ring, or a divisor of both cp and the heads";
                    return Err(uneven("heads of a rank", units, ulysses, help));
                }
            }
        }
        let seq = self.mesh.span(&self.plan.cuts(Axis::Seq, &self.mesh));
        if job.tokens() < seq {
            return Err(uneven("tokens", job.tokens(), seq, "use fewer ranks"));
        }
        if anatomy.ffn < self.span(Axis::Hidden) {
            let parts = self.span(Axis::Hidden);
            return Err(uneven("hidden units", anatomy.ffn, parts, "change mesh.tp"));
        }
        match job {
            Job::Training(job) => {
                let each = self.span(Axis::Batch) * job.batch;
                if each == 0 || job.samples == 0 || !job.samples.is_multiple_of(each) {
                    let help = "samples must be a multiple of data groups times batch";
                    return Err(uneven("samples", job.samples, each, help));
                }
            }
            Job::Generation(job) => {
                let want = match job.guidance {
                    Guidance::CfgAxis => 2,
                    _ => 1,
                };
                if self.mesh.cfg != want {
                    let help = "guidance over cfg takes mesh.cfg = 2, any other takes 1";
                    return Err(uneven("guidance passes", want, self.mesh.cfg, help));
                }
            }
        }
        Ok(())
    }

    /// The ranks over which an axis is cut.
    pub fn span(&self, axis: Axis) -> usize {
        self.mesh.span(&self.plan.cuts(axis, &self.mesh))
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
        let Arrangement { mesh, plan, .. } = arrangement;
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

    /// Whether `tp` cuts a weight.
    pub(super) fn cut(&self, along: Along) -> bool {
        match along {
            Along::Whole => false,
            Along::Heads => self.heads_cut,
            Along::Hidden => self.hidden_cut,
        }
    }

    /// Elements of a weight that a tensor-parallel rank computes with.
    pub(super) fn used(&self, weight: &Weight) -> usize {
        match self.cut(weight.along) {
            true => part(weight.units, self.tp, self.tp_index).len() * weight.per_unit,
            false => weight.elements(),
        }
    }

    /// Elements of a weight that the rank at `shard` of those that cut parameters stores: each
    /// parameter is cut by itself, flat.
    pub(super) fn stored(&self, weight: &Weight, shard: usize) -> usize {
        part(self.used(weight), self.shards, shard).len()
    }

    /// Tokens of each chunk along `cp`.
    pub(super) fn chunk_of(&self, index: usize) -> usize {
        part(self.tokens, self.cp, index % self.cp).len()
    }
}
