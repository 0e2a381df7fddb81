//! Seconds of messages, and how much of them a rank waits.

use super::compute::Step;
use super::wire::Kind;
use super::{Behind, Hardware, Row};
use crate::{Mesh, MeshAxis};

/// How many ranks of a group over `axes` share a node, with ranks dealt to nodes in order.
pub(super) fn per_node(mesh: &Mesh, axes: &[MeshAxis], node: usize) -> usize {
    let mut stride = 1;
    let mut together = 1;
    for axis in MeshAxis::ALL.into_iter().rev() {
        let size = mesh.size(axis);
        if axes.contains(&axis) {
            together *= size.min((node / stride).max(1));
        }
        stride *= size;
    }
    together
}

/// Fills in the seconds of each row.
///
/// A ring passes each node's border once, with all adapters of the node's members; what an
/// all-to-all sends to other nodes takes the rank's own adapter; an exchange takes the slower link
/// if the ring crosses a border at all. Each call costs the latency of a tree of its ranks, an
/// exchange that of one message.
pub(super) fn take(rows: &mut [Row], mesh: &Mesh, hardware: &Hardware) {
    let share = 1e9 * hardware.efficiency.links;
    let (inner, outer) = (hardware.intra_gbs * share, hardware.inter_gbs * share);
    for row in rows {
        let near = per_node(mesh, &row.axes, hardware.ranks_per_node) / row.stride;
        let near = near.clamp(1, row.ranks);
        let crosses = near < row.ranks;
        let bytes = row.ring as f64;
        let moved = match row.collective {
            Kind::Exchange if crosses => bytes / outer,
            Kind::AllToAll if crosses => {
                let away = (row.ranks - near) as f64 / (row.ranks - 1) as f64;
                (bytes * away / outer).max(bytes * (1.0 - away) / inner)
            }
            _ if crosses => (bytes / near as f64 / outer).max(bytes / inner),
            _ => bytes / inner,
        };
        let latency = if crosses {
            hardware.inter_latency_us
        } else {
            hardware.intra_latency_us
        };
        let depth = match row.collective {
            Kind::Exchange => 1.0,
            _ => (row.ranks as f64).log2().ceil(),
        };
        row.seconds = moved + row.calls as f64 * depth * latency * 1e-6;
    }
}

/// Fills in what is exposed: of messages that hide behind blocks, at least those of one block, which
/// has none before it, and what exceeds the computation of the others; of a ring's, what exceeds
/// the attention of all tiles but one.
pub(super) fn expose(rows: &mut [Row], step: &Step, layers: usize) {
    let layers = layers as f64;
    for behind in [
        Behind::Nothing,
        Behind::Forward,
        Behind::Backward,
        Behind::AttentionForward,
        Behind::AttentionBackward,
    ] {
        let of = rows.iter().filter(|row| row.behind == behind);
        let (total, ring) = of.fold((0.0, 1), |(sum, ring), row| {
            (sum + row.seconds, ring.max(row.ranks))
        });
        if total == 0.0 {
            continue;
        }
        let blocks = |time: f64| (total / layers).max(total - time * (layers - 1.0) / layers);
        let tiles = |time: f64| (total - time * (ring - 1) as f64 / ring as f64).max(0.0);
        let exposed = match behind {
            Behind::Nothing => total,
            Behind::Forward => blocks(step.forward),
            Behind::Backward => blocks(step.backward),
            Behind::AttentionForward => tiles(step.attention_forward),
            Behind::AttentionBackward => tiles(step.attention_backward),
        };
        for row in rows.iter_mut().filter(|row| row.behind == behind) {
            row.exposed = row.seconds * exposed / total;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_node() {
        let mesh = Mesh {
            fsdp: 16,
            cp: 2,
            tp: 4,
            ..Mesh::default()
        };
        use MeshAxis::{Cp, Fsdp, Tp};
        for (axes, together) in [
            (&[Tp][..], 4),
            (&[Cp], 2),
            (&[Cp, Tp], 8),
            (&[Fsdp], 1),
            (&[Fsdp, Cp], 2),
            (&[Fsdp, Cp, Tp], 8),
        ] {
            let node: Vec<usize> = mesh
                .group(0, axes)
                .into_iter()
                .filter(|rank| *rank < 8)
                .collect();
            assert_eq!(node.len(), together, "{axes:?}");
            assert_eq!(per_node(&mesh, axes, 8), together, "{axes:?}");
        }
    }

    /// Groups of eight neighbours exchange heads within a node, and the ring of such groups leaves it.
    #[test]
    fn a_ring_of_groups_crosses_nodes() {
        let mesh = Mesh {
            cp: 16,
            ..Mesh::default()
        };
        let hardware = Hardware::named("h100-sxm").unwrap();
        let row = |ranks, stride, collective| Row {
            what: "",
            collective,
            axes: vec![MeshAxis::Cp],
            ranks,
            stride,
            calls: 1,
            payload: 1 << 30,
            ring: 1 << 30,
            behind: Behind::Nothing,
            seconds: 0.0,
            exposed: 0.0,
        };
        let mut rows = [row(8, 1, Kind::AllToAll), row(2, 8, Kind::Exchange)];
        take(&mut rows, &mesh, &hardware);
        let share = f64::from(1 << 30) / (1e9 * hardware.efficiency.links);
        for (row, gbs) in rows.iter().zip([hardware.intra_gbs, hardware.inter_gbs]) {
            let bytes = share / gbs;
            assert!((row.seconds / bytes - 1.0).abs() < 0.05, "{row:?}: {bytes}");
        }
    }
}
