//! A layout of names, worked out for a model: which of its parameters lie where in which tensor.

use std::collections::BTreeMap;

use super::Foreign;
use crate::region::{Flaw, Region, flaw, volume};

/// A tensor of a foreign file as a layout has it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Its whole shape there.
    pub(super) shape: Vec<usize>,
    /// The parameters of ours in it.
    pub(super) parts: Vec<Part>,
}

/// A parameter of ours in a foreign tensor, which is seen as a matrix: its rows, and all the rest.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) path: String,
    /// Our shape.
    pub(super) ours: Vec<usize>,
    pub(super) place: Place,
    /// Its box of that matrix.
    pub(super) region: Region,
}

/// How a parameter's elements lie in its box of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// One behind the other, as here.
    Same,
    /// As here, row by row: other columns lie between.
    Columns,
    /// Rows there are columns here.
    Transposed,
}

/// The tensors that a layout makes of a model's parameters.
///
/// # Panics
/// If the layout gives one tensor two shapes, or a parameter a place of another size: it is wrong then,
/// whatever the file.
pub(super) fn wanted(
    params: &[(String, Vec<usize>)],
    keys: &dyn Fn(&str, &[usize]) -> Foreign,
) -> BTreeMap<String, Wanted> {
    let mut tensors: BTreeMap<String, Wanted> = BTreeMap::new();
    for (path, ours) in params {
        let foreign = keys(path, ours);
        let part = part(path, ours, &foreign);
        let Foreign { name, shape, .. } = foreign;
        let tensor = tensors.entry(name.clone()).or_insert_with(|| Wanted {
            shape: shape.clone(),
            parts: vec![],
        });
        assert_eq!(tensor.shape, shape, "two shapes for {name}");
        tensor.parts.push(part);
    }
    tensors
}

/// Rows of a tensor, and elements of each.
pub(super) fn matrix(shape: &[usize]) -> [usize; 2] {
    match shape {
        [] => [1, 1],
        [rows, rest @ ..] => [*rows, volume(rest)],
    }
}

fn part(path: &str, ours: &[usize], foreign: &Foreign) -> Part {
    let [rows, width] = matrix(&foreign.shape);
    let Foreign { rows: own, .. } = foreign;
    let columns = foreign.columns.clone().unwrap_or(0..width);
    let region = Region::new(&[own.start, columns.start], &[own.len(), columns.len()]);
    let fits = region.fits(&[rows, width]) && region.volume() == volume(ours);
    let place = match (foreign.transposed, region.extent[1] == width) {
        (true, _) => Place::Transposed,
        (false, true) => Place::Same,
        (false, false) => Place::Columns,
    };
    let [height, across] = [region.extent[0], region.extent[1]];
    let shaped = match place {
        Place::Same => true,
        Place::Columns => ours == [height, across],
        Place::Transposed => ours == [across, height],
    };
    assert!(fits && shaped, "{path} {ours:?} cannot lie in {foreign:?}");
    Part {
        path: path.to_owned(),
        ours: ours.to_vec(),
        place,
        region,
    }
}

impl Wanted {
    /// What keeps the parameters from making the whole tensor, each element once. Parameters that share
    /// one place are one: tied weights.
    pub(super) fn flaw(&self) -> Option<String> {
        let mut boxes: Vec<&Region> = vec![];
        let mut paths = vec![];
        for part in &self.parts {
            if !boxes.contains(&&part.region) {
                boxes.push(&part.region);
                paths.push(&part.path);
            }
        }
        let shape = matrix(&self.shape);
        match flaw(&shape, &boxes)? {
            Flaw::Overlap(one, other) => Some(format!(
                "{} and {} share elements",
                paths[one], paths[other]
            )),
            Flaw::Hole(covered) => {
                let whole = volume(&shape);
                Some(format!(
                    "{covered} of its {whole} elements are some parameter's"
                ))
            }
        }
    }
}
