//! The mesh and the plan of a run, with the groups of this rank.

use crate::{DeviceError, Group};
use kinora_comm::{CommError, Transport};
use kinora_mesh::{Axis, Mesh, MeshAxis, Plan, PlanError};
use std::collections::HashMap;
use std::sync::Arc;
use thiserror::Error;

/// What one rank knows of the mesh: its place, and the groups it belongs to.
#[derive(Debug)]
pub struct Sharding {
    mesh: Mesh,
    plan: Plan,
    rank: usize,
    world: Group,
    groups: HashMap<Vec<MeshAxis>, Group>,
    context: Option<Context>,
}

/// How this rank's queries reach the keys of the ranks that hold other tokens of their sample.
#[derive(Clone, Debug)]
pub enum Context {
    /// Keys and values of the group are gathered.
    Gather(Group),
    /// Tokens are exchanged for heads in one group, and keys and values travel round the other;
    /// either may be this rank alone.
    Exchange {
        /// Neighbours that exchange tokens for heads.
        ulysses: Group,
        /// Ranks of the same place in the groups of neighbours.
        ring: Group,
    },
}

/// A sharding that cannot be made.
#[derive(Debug, Error)]
pub enum ShardError {
    /// The mesh and the number of launched ranks differ.
    #[error(
        "mesh {mesh} needs {needed} ranks, but {launched} were launched\n  help: change [mesh], or launch {needed} ranks"
    )]
    World {
        /// The mesh.
        mesh: Mesh,
        /// How many ranks it holds.
        needed: usize,
        /// How many there are.
        launched: usize,
    },
    /// The plan does not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The rank has no device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A group could not be formed.
    #[error(transparent)]
    Comm(#[from] CommError),
}

impl Sharding {
    /// One rank that holds everything.
    pub fn single() -> Arc<Self> {
        Self::pretend(Mesh::default(), Plan::default(), 0)
    }

    /// What a rank of a mesh would know, without any peers: for plans that are only looked at.
    pub fn pretend(mesh: Mesh, plan: Plan, rank: usize) -> Arc<Self> {
        Arc::new(Self {
            mesh,
            plan,
            rank,
            world: Group::alone(),
            groups: HashMap::new(),
            context: None,
        })
    }

    /// Forms this rank's groups; every rank of the world calls it with the same mesh and plan.
    ///
    /// # Errors
    /// If the plan does not fit the mesh, the mesh not the world, or a peer fails.
    pub fn new(world: Arc<dyn Transport>, mesh: Mesh, plan: Plan) -> Result<Arc<Self>, ShardError> {
        plan.check(&mesh)?;
        let (needed, launched) = (mesh.ranks(), world.size());
        if needed != launched {
            return Err(ShardError::World {
                mesh,
                needed,
                launched,
            });
        }
        let rank = world.rank();
        let axes = mesh.axes();
        let mut groups = HashMap::new();
        for mask in 1..1_usize << axes.len() {
            let subset: Vec<MeshAxis> = (0..axes.len())
                .filter(|i| mask >> i & 1 == 1)
                .map(|i| axes[i])
                .collect();
            let names: Vec<String> = subset.iter().map(ToString::to_string).collect();
            let color = mesh.color(rank, &subset);
            let group = world
                .split(Some(color), &names.join("+"))?
                .expect("every rank has a color, so every rank is in a group");
            groups.insert(subset, Group::new(group));
        }
        let context = context(&mesh, &plan, rank, &groups)?;
        Ok(Arc::new(Self {
            mesh,
            plan,
            rank,
            world: Group::new(world),
            groups,
            context,
        }))
    }

    /// How attention spans the ranks of `cp`; `None` if every rank has all tokens.
    pub fn context(&self) -> Option<&Context> {
        self.context.as_ref()
    }

    /// The mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// This rank's number in the world.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// All ranks.
    pub fn world(&self) -> &Group {
        &self.world
    }

    /// The group over some mesh axes (axes of size one count for nothing).
    pub fn group(&self, axes: &[MeshAxis]) -> Group {
        let axes: Vec<MeshAxis> = self
            .mesh
            .axes()
            .into_iter()
            .filter(|axis| axes.contains(axis))
            .collect();
        self.groups.get(&axes).cloned().unwrap_or_default()
    }

    /// The mesh axes that cut a logical axis.
    pub fn cuts(&self, axis: Axis) -> Vec<MeshAxis> {
        self.plan.cuts(axis, &self.mesh)
    }

    /// The group that shares one sample.
    pub fn data_group(&self) -> Group {
        self.group(&self.plan.data_group(&self.mesh))
    }

    /// Which share of the global batch this rank's data group takes, and of how many.
    pub fn share(&self) -> (usize, usize) {
        let axes = self.cuts(Axis::Batch);
        (self.mesh.index(self.rank, &axes), self.mesh.span(&axes))
    }
}

fn context(
    mesh: &Mesh,
    plan: &Plan,
    rank: usize,
    groups: &HashMap<Vec<MeshAxis>, Group>,
) -> Result<Option<Context>, ShardError> {
    let Some(attention) = plan.context(mesh) else {
        return Ok(None);
    };
    let cp = groups[&vec![MeshAxis::Cp]].clone();
    let place = mesh.coordinate(rank, MeshAxis::Cp);
    Ok(Some(match attention.degrees(mesh.cp) {
        None => Context::Gather(cp),
        Some((1, _)) => Context::Exchange {
            ulysses: Group::alone(),
            ring: cp,
        },
        Some((_, 1)) => Context::Exchange {
            ulysses: cp,
            ring: Group::alone(),
        },
        Some((ulysses, _)) => Context::Exchange {
            ulysses: cp.split(place / ulysses, "ulysses")?,
            ring: cp.split(place % ulysses, "ring")?,
        },
    }))
}
