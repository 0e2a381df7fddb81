//! The mesh: ranks arranged on named axes. Knows groups; knows no tensors.

use crate::axis::MeshAxis;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Sizes of the mesh axes, outermost first; the last axis holds neighbouring ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mesh {
    /// Whole copies of the model.
    pub replicate: usize,
    /// Copies with cut storage.
    pub fsdp: usize,
    /// Guidance passes.
    pub cfg: usize,
    /// Token cuts of a sample.
    pub cp: usize,
    /// Head and hidden cuts.
    pub tp: usize,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            replicate: 1,
            fsdp: 1,
            cfg: 1,
            cp: 1,
            tp: 1,
        }
    }
}

impl Mesh {
    /// The number of ranks along one axis.
    pub fn size(&self, axis: MeshAxis) -> usize {
        match axis {
            MeshAxis::Replicate => self.replicate,
            MeshAxis::Fsdp => self.fsdp,
            MeshAxis::Cfg => self.cfg,
            MeshAxis::Cp => self.cp,
            MeshAxis::Tp => self.tp,
        }
    }

    /// The number of ranks along several axes together.
    pub fn span(&self, axes: &[MeshAxis]) -> usize {
        axes.iter().map(|&axis| self.size(axis)).product()
    }

    /// The world size.
    pub fn ranks(&self) -> usize {
        self.span(&MeshAxis::ALL)
    }

    /// The axes that hold more than one rank, outermost first.
    pub fn axes(&self) -> Vec<MeshAxis> {
        MeshAxis::ALL
            .into_iter()
            .filter(|&axis| self.size(axis) > 1)
            .collect()
    }

    /// The coordinate of a rank along one axis.
    pub fn coordinate(&self, rank: usize, axis: MeshAxis) -> usize {
        let inner: usize = MeshAxis::ALL
            .iter()
            .filter(|&&a| a > axis)
            .map(|&a| self.size(a))
            .product();
        rank / inner % self.size(axis)
    }

    /// The place of a rank within its group over `axes` (outermost axis counts slowest).
    pub fn index(&self, rank: usize, axes: &[MeshAxis]) -> usize {
        MeshAxis::ALL
            .into_iter()
            .filter(|axis| axes.contains(axis))
            .fold(0, |index, axis| {
                index * self.size(axis) + self.coordinate(rank, axis)
            })
    }

    /// The number of the group over `axes` that a rank belongs to: equal exactly for the ranks that
    /// differ in no other axis.
    pub fn color(&self, rank: usize, axes: &[MeshAxis]) -> usize {
        let others: Vec<MeshAxis> = MeshAxis::ALL
            .into_iter()
            .filter(|axis| !axes.contains(axis))
            .collect();
        self.index(rank, &others)
    }

    /// The ranks of the group over `axes` that `rank` belongs to, in order of their index.
    pub fn group(&self, rank: usize, axes: &[MeshAxis]) -> Vec<usize> {
        let color = self.color(rank, axes);
        (0..self.ranks())
            .filter(|&other| self.color(other, axes) == color)
            .collect()
    }
}

impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes = self.axes();
        if axes.is_empty() {
            return f.write_str("one rank");
        }
        let text: Vec<String> = axes
            .iter()
            .map(|&axis| format!("{axis} {}", self.size(axis)))
            .collect();
        f.write_str(&text.join(" x "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_the_innermost_axis() {
        let mesh = Mesh {
            replicate: 2,
            cp: 3,
            tp: 2,
            ..Mesh::default()
        };
        assert_eq!(mesh.ranks(), 12);
        assert_eq!(mesh.group(7, &[MeshAxis::Tp]), [6, 7]);
        assert_eq!(mesh.group(7, &[MeshAxis::Cp]), [7, 9, 11]);
        assert_eq!(mesh.group(7, &[MeshAxis::Replicate]), [1, 7]);
        assert_eq!(
            mesh.group(7, &[MeshAxis::Cp, MeshAxis::Tp]),
            [6, 7, 8, 9, 10, 11]
        );
    }

    #[test]
    fn groups_over_any_axes_part_the_world() {
        let mesh = Mesh {
            replicate: 2,
            fsdp: 3,
            cfg: 1,
            cp: 2,
            tp: 2,
        };
        for mask in 0..32_usize {
            let axes: Vec<MeshAxis> = MeshAxis::ALL
                .into_iter()
                .enumerate()
                .filter(|(i, _)| mask >> i & 1 == 1)
                .map(|(_, axis)| axis)
                .collect();
            let mut seen = vec![0; mesh.ranks()];
            for rank in 0..mesh.ranks() {
                let group = mesh.group(rank, &axes);
                assert_eq!(group.len(), mesh.span(&axes));
                assert_eq!(group[mesh.index(rank, &axes)], rank);
                if group[0] == rank {
                    group.iter().for_each(|&member| seen[member] += 1);
                }
            }
            assert!(seen.iter().all(|&count| count == 1), "{axes:?}: {seen:?}");
        }
    }
}
