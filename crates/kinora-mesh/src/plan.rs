//! The plan: which logical axes are cut on which mesh axes. Data, in the config, printable.

use crate::{Axis, ContextAttention, Extent, Mesh, MeshAxis};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where each logical axis is cut. An axis that is not named is whole on every rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Mesh axes whose ranks hold different samples.
    pub batch: Vec<MeshAxis>,
    /// Mesh axes that cut the tokens of a sample; `tp` here is Megatron's sequence parallelism.
    pub seq: Vec<MeshAxis>,
    /// Mesh axes that cut attention heads.
    pub heads: Vec<MeshAxis>,
    /// Mesh axes that cut the hidden units of feed-forward networks.
    pub hidden: Vec<MeshAxis>,
    /// Mesh axes that cut stored weights, gradients, optimizer state and averages.
    pub params: Vec<MeshAxis>,
    /// How attention spans the ranks of `cp`; a ring if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<ContextAttention>,
}

/// A plan that does not fit its mesh or its model.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// A mesh axis of size zero.
    #[error(
        "mesh.{axis} = 0: every axis holds at least one rank\n  help: set mesh.{axis} = 1, or leave it out"
    )]
    Empty {
        /// The axis.
        axis: MeshAxis,
    },
    /// A mesh axis that cuts nothing, so that its ranks would repeat each other's work.
    #[error(
        "mesh.{axis} = {size}, but no entry of [plan] names {axis}: its ranks would all do the same work\n  help: {help}"
    )]
    Unused {
        /// The axis.
        axis: MeshAxis,
        /// Its size.
        size: usize,
        /// What to do.
        help: &'static str,
    },
    /// A mesh axis where it has no meaning.
    #[error("plan.{key} names {axis}, which {why}\n  help: {help}")]
    Misplaced {
        /// The entry of the plan.
        key: Axis,
        /// The mesh axis.
        axis: MeshAxis,
        /// Why it does not belong there.
        why: &'static str,
        /// What to do.
        help: &'static str,
    },
    /// Degrees of attention that do not fill the axis.
    #[error(
        "plan.attention = {{ ulysses = {ulysses}, ring = {ring} }} does not span mesh.cp = {cp} ranks\n  help: make their product mesh.cp"
    )]
    Degrees {
        /// Ranks that exchange tokens for heads.
        ulysses: usize,
        /// Groups in a ring.
        ring: usize,
        /// The ranks of the axis.
        cp: usize,
    },
    /// An entry that changes nothing.
    #[error("plan.{key} has no effect: {why}\n  help: remove it")]
    Ineffective {
        /// The entry.
        key: &'static str,
        /// Why.
        why: &'static str,
    },
    /// Guidance over ranks where there is none, or over too many.
    #[error("mesh.cfg = {size}: {why}\n  help: {help}")]
    Guidance {
        /// The size of the axis.
        size: usize,
        /// What is wrong.
        why: &'static str,
        /// What to do.
        help: &'static str,
    },
    /// Heads that all-to-all attention cannot share out.
    #[error(
        "{what}: {heads} heads cannot be shared by tp {tp} x ulysses {ulysses}\n  help: set plan.attention to one of {fits}"
    )]
    UlyssesHeads {
        /// What has the heads.
        what: String,
        /// All heads.
        heads: usize,
        /// The ranks that cut them.
        tp: usize,
        /// The ranks that exchange tokens for them.
        ulysses: usize,
        /// The attentions that would fit.
        fits: String,
    },
    /// A dimension with fewer units than ranks that cut it.
    #[error(
        "{what}: {len} along {axis} cannot be cut over {parts} ranks, some of which would have none\n  help: make it longer, or cut it over fewer ranks"
    )]
    TooShort {
        /// What is cut.
        what: String,
        /// The logical axis.
        axis: Axis,
        /// Its units.
        len: usize,
        /// Over how many ranks.
        parts: usize,
    },
    /// A dimension that cannot be cut into that many equal parts.
    #[error(
        "{what}: {units} {axis} cannot be cut evenly over {parts} ranks ({mesh_axes})\n  help: set mesh.tp to one of {fits:?}"
    )]
    Uneven {
        /// What is cut.
        what: String,
        /// The logical axis.
        axis: Axis,
        /// How many units there are.
        units: usize,
        /// Over how many ranks.
        parts: usize,
        /// The mesh axes that cut it.
        mesh_axes: String,
        /// The counts that would fit.
        fits: Vec<usize>,
    },
}

impl Plan {
    /// The mesh axes that cut `axis` and hold more than one rank, outermost first.
    pub fn cuts(&self, axis: Axis, mesh: &Mesh) -> Vec<MeshAxis> {
        let named: &[MeshAxis] = match axis {
            Axis::Batch => &self.batch,
            Axis::Seq => &self.seq,
            Axis::Heads => &self.heads,
            Axis::Hidden => &self.hidden,
            Axis::Params => &self.params,
            Axis::Text | Axis::Embed | Axis::Channel | Axis::Frame => &[],
        };
        MeshAxis::ALL
            .into_iter()
            .filter(|axis| mesh.size(*axis) > 1 && named.contains(axis))
            .collect()
    }

    /// The mesh axes whose ranks share one sample: those that do not cut the batch.
    pub fn data_group(&self, mesh: &Mesh) -> Vec<MeshAxis> {
        let batch = self.cuts(Axis::Batch, mesh);
        mesh.axes()
            .into_iter()
            .filter(|axis| !batch.contains(axis))
            .collect()
    }

    /// Checks that the plan makes sense on the mesh.
    ///
    /// # Errors
    /// The first rule that is broken, with what to do.
    pub fn check(&self, mesh: &Mesh) -> Result<(), PlanError> {
        use MeshAxis::{Cfg, Cp, Fsdp, Replicate, Tp};
        for axis in MeshAxis::ALL {
            if mesh.size(axis) == 0 {
                return Err(PlanError::Empty { axis });
            }
        }
        if mesh.cfg > 2 {
            return Err(PlanError::Guidance {
                size: mesh.cfg,
                why: "guidance has two passes, with and without the prompt",
                help: "set mesh.cfg = 2, or leave it out",
            });
        }
        let allowed = |key: Axis, list: &[MeshAxis], fit: &[MeshAxis], why, help| match list
            .iter()
            .find(|axis| !fit.contains(axis))
        {
            Some(&axis) => Err(PlanError::Misplaced {
                key,
                axis,
                why,
                help,
            }),
            None => Ok(()),
        };
        allowed(
            Axis::Batch,
            &self.batch,
            &[Replicate, Fsdp],
            "cuts a sample, not the batch",
            "plan.batch takes \"replicate\" and \"fsdp\"",
        )?;
        allowed(
            Axis::Seq,
            &self.seq,
            &[Cp, Tp],
            "does not cut the tokens of a sample",
            "plan.seq takes \"cp\" and \"tp\"",
        )?;
        allowed(
            Axis::Params,
            &self.params,
            &[Replicate, Fsdp, Cp],
            "does not hold copies of the weights",
            "plan.params takes \"replicate\", \"fsdp\" and \"cp\"",
        )?;
        for (key, list) in [(Axis::Heads, &self.heads), (Axis::Hidden, &self.hidden)] {
            allowed(
                key,
                list,
                &[Tp],
                "does not cut the layers",
                "plan.heads and plan.hidden take \"tp\"",
            )?;
        }
        if mesh.tp > 1 && self.seq.contains(&Tp) {
            for (key, list) in [(Axis::Heads, &self.heads), (Axis::Hidden, &self.hidden)] {
                if !list.contains(&Tp) {
                    return Err(PlanError::Misplaced {
                        key: Axis::Seq,
                        axis: Tp,
                        why: if key == Axis::Heads {
                            "needs tp in plan.heads too: sequence parallelism gathers the tokens at the entry of a cut layer"
                        } else {
                            "needs tp in plan.hidden too: sequence parallelism gathers the tokens at the entry of a cut layer"
                        },
                        help: "set heads = [\"tp\"] and hidden = [\"tp\"], or take tp out of plan.seq",
                    });
                }
            }
        }
        for axis in mesh.axes() {
            let (used, help) = match axis {
                Replicate => (self.batch.contains(&axis), "add it to plan.batch"),
                // Without this it would be another name for replicate.
                Fsdp if !self.params.contains(&axis) => (
                    false,
                    "add it to plan.params, or call the axis replicate: fsdp is where stored weights are cut",
                ),
                Fsdp => (self.batch.contains(&axis), "add it to plan.batch"),
                Cp => (self.seq.contains(&axis), "add it to plan.seq"),
                // The two passes of guidance are the sampler's to share out.
                Cfg => (true, ""),
                Tp => (
                    self.heads.contains(&axis) || self.hidden.contains(&axis),
                    "add it to plan.heads and plan.hidden, or set its size to 1",
                ),
            };
            if !used {
                let size = mesh.size(axis);
                return Err(PlanError::Unused { axis, size, help });
            }
        }
        match self.attention {
            Some(_) if !self.cuts(Axis::Seq, mesh).contains(&Cp) => Err(PlanError::Ineffective {
                key: "attention",
                why: "mesh.cp is 1, so every rank has all keys",
            }),
            Some(attention) => match attention.degrees(mesh.cp) {
                Some((ulysses, ring)) if ulysses.checked_mul(ring) != Some(mesh.cp) => {
                    Err(PlanError::Degrees {
                        ulysses,
                        ring,
                        cp: mesh.cp,
                    })
                }
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Checks that a plan fits training, which has no guidance.
    ///
    /// # Errors
    /// [`PlanError::Guidance`].
    pub fn check_training(&self, mesh: &Mesh) -> Result<(), PlanError> {
        if mesh.cfg > 1 {
            return Err(PlanError::Guidance {
                size: mesh.cfg,
                why: "training has no guidance to share out",
                help: "set mesh.cfg = 1, and give it when generating: --set mesh.cfg=2",
            });
        }
        Ok(())
    }

    /// How attention spans the ranks of `cp`; `None` if every rank has all tokens.
    pub fn context(&self, mesh: &Mesh) -> Option<ContextAttention> {
        let cut = self.cuts(Axis::Seq, mesh).contains(&MeshAxis::Cp);
        cut.then(|| self.attention.unwrap_or(ContextAttention::RING))
    }

    /// Checks that attention over `cp` can share out a layer's heads.
    ///
    /// # Errors
    /// [`PlanError::UlyssesHeads`], with the attentions that would fit.
    pub fn check_heads(&self, what: &str, heads: Extent, mesh: &Mesh) -> Result<(), PlanError> {
        let Some((ulysses, _)) = self
            .context(mesh)
            .and_then(|attention| attention.degrees(mesh.cp))
        else {
            return Ok(());
        };
        let tp = mesh.span(&self.cuts(heads.axis, mesh));
        let all = heads.len / heads.unit;
        if (all / tp).is_multiple_of(ulysses) {
            return Ok(());
        }
        let mut fits = vec!["\"ring\"".to_string(), "\"gather\"".to_string()];
        fits.extend(
            (2..mesh.cp)
                .filter(|u| mesh.cp.is_multiple_of(*u) && (all / tp).is_multiple_of(*u))
                .map(|u| format!("{{ ulysses = {u}, ring = {} }}", mesh.cp / u)),
        );
        Err(PlanError::UlyssesHeads {
            what: what.to_string(),
            heads: all,
            tp,
            ulysses,
            fits: fits.join(", "),
        })
    }

    /// Checks that an extent leaves no rank without a part.
    ///
    /// # Errors
    /// [`PlanError::TooShort`].
    pub fn check_parts(&self, what: &str, extent: Extent, mesh: &Mesh) -> Result<(), PlanError> {
        let parts = mesh.span(&self.cuts(extent.axis, mesh));
        if extent.len / extent.unit >= parts {
            return Ok(());
        }
        let (what, len) = (what.to_string(), extent.len / extent.unit);
        Err(PlanError::TooShort {
            what,
            axis: extent.axis,
            len,
            parts,
        })
    }

    /// Checks that an extent can be cut into equal numbers of units.
    ///
    /// # Errors
    /// [`PlanError::Uneven`], with the counts that would fit.
    pub fn check_even(&self, what: &str, extent: Extent, mesh: &Mesh) -> Result<(), PlanError> {
        let axes = self.cuts(extent.axis, mesh);
        let (units, parts) = (extent.len / extent.unit, mesh.span(&axes));
        if units.is_multiple_of(parts) {
            return Ok(());
        }
        let names: Vec<String> = axes.iter().map(ToString::to_string).collect();
        Err(PlanError::Uneven {
            what: what.to_string(),
            axis: extent.axis,
            units,
            parts,
            mesh_axes: names.join(" x "),
            fits: (1..=units).filter(|n| units.is_multiple_of(*n)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MeshAxis::{Cp, Replicate, Tp};

    fn plan() -> Plan {
        Plan {
            batch: vec![Replicate],
            seq: vec![Tp],
            heads: vec![Tp],
            hidden: vec![Tp],
            params: vec![],
            attention: None,
        }
    }

    #[test]
    fn a_plan_is_checked_against_its_mesh() {
        let mesh = Mesh {
            replicate: 2,
            tp: 2,
            ..Mesh::default()
        };
        assert_eq!(plan().check(&mesh), Ok(()));
        assert_eq!(plan().data_group(&mesh), [Tp]);
        assert!(matches!(
            Plan {
                batch: vec![],
                ..plan()
            }
            .check(&mesh),
            Err(PlanError::Unused {
                axis: Replicate,
                size: 2,
                ..
            })
        ));
        assert!(matches!(
            Plan {
                heads: vec![],
                ..plan()
            }
            .check(&mesh),
            Err(PlanError::Misplaced {
                key: Axis::Seq,
                axis: Tp,
                ..
            })
        ));
        assert!(matches!(
            Plan {
                heads: vec![Cp],
                ..plan()
            }
            .check(&mesh),
            Err(PlanError::Misplaced {
                key: Axis::Heads,
                axis: Cp,
                ..
            })
        ));
        assert!(matches!(
            plan().check(&Mesh { tp: 0, ..mesh }),
            Err(PlanError::Empty { axis: Tp })
        ));
    }

    #[test]
    fn heads_that_do_not_divide_are_refused_with_what_fits() {
        let mesh = Mesh {
            tp: 3,
            ..Mesh::default()
        };
        let error = plan()
            .check_even("model.heads", Axis::Heads.of(64).by(16), &mesh)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "model.heads: 4 heads cannot be cut evenly over 3 ranks (tp)\n  help: set mesh.tp to one of [1, 2, 4]"
        );
    }
}
