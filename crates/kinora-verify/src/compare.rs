//! How far a rank's numbers are from those of one rank that holds everything.

use crate::Record;
use kinora_shard::ParamSpec;
use std::fmt;

/// What counts as equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// The largest root mean square of a difference, relative to that of the whole run's values.
    pub rms: f64,
    /// Each element may differ by `atol + rtol * |element|`.
    pub rtol: f64,
    /// See [`Tolerance::rtol`].
    pub atol: f64,
}

impl Tolerance {
    /// In 64 bits nothing but the order of sums differs.
    pub const F64: Self = Self {
        rms: 1e-9,
        rtol: 1e-8,
        atol: 1e-9,
    };
    /// In 32 bits. The elements' bounds say little of tensors of small numbers, hence the other one:
    /// gradients through a norm are differences of larger ones, and carry some 1e-4 of rounding.
    pub const F32: Self = Self {
        rms: 5e-4,
        rtol: 1e-4,
        atol: 1e-5,
    };
    /// In 32 bits on a GPU beside the CPU: products there round their factors to the ten bits of TF32.
    /// On an H100 the worst of the small model's 198 tensors differs by 1.9e-2.
    pub const TF32: Self = Self {
        rms: 4e-2,
        rtol: 1e-1,
        atol: 2e-2,
    };
    /// Computing in bfloat16: the order of sums decides the last of its eight bits. Gradients are
    /// compared all together.
    pub const BF16: Self = Self {
        rms: 5e-2,
        rtol: 1e-1,
        atol: 5e-2,
    };
}

/// One tensor of one rank beside the same part of the whole run's.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The rank.
    pub rank: usize,
    /// The tensor.
    pub what: String,
    /// The root mean square of the difference, relative.
    pub rms: f64,
    /// The largest excess of an element's difference over `rtol` and `atol`; negative if none exceeds.
    pub excess: f64,
}

impl Difference {
    /// Whether it is more than a tolerance allows. What is not a number is.
    pub fn exceeds(&self, tolerance: Tolerance) -> bool {
        !(self.rms <= tolerance.rms && self.excess <= 0.0)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} on rank {}: {:.1e} relative to the whole run",
            self.what, self.rank, self.rms
        )
    }
}

/// Every number of a rank beside the whole run's, worst first.
///
/// # Panics
/// If the two are not records of the same case.
pub fn compare(
    whole: &Record,
    rank: usize,
    sharded: &Record,
    tolerance: Tolerance,
) -> Vec<Difference> {
    let (index, of) = sharded.share;
    let mut all = vec![];
    let mut add = |what: String, got: &[f64], want: &[f64]| {
        all.push(difference(rank, what, got, want, Some(tolerance)));
    };
    for (got, want) in sharded.passes.iter().zip(&whole.passes) {
        let share = want.output.len() / of;
        let mine = index * share..(index + 1) * share;
        let name = &got.name;
        add(
            format!("output of {name}"),
            &got.output,
            &want.output[mine.clone()],
        );
        add(
            format!("input gradient of {name}"),
            &got.input,
            &want.input[mine],
        );
        let pairs = || got.gradients.iter().zip(&want.gradients);
        if tolerance == Tolerance::BF16 {
            // Single gradients are differences of larger numbers, of which eight bits leave nothing.
            let mine: Vec<f64> = pairs().flat_map(|((_, got), _)| got.clone()).collect();
            let theirs = pairs().flat_map(|((spec, _), (_, want))| part(spec, want));
            let theirs: Vec<f64> = theirs.collect();
            add(format!("all gradients, {name}"), &mine, &theirs);
            continue;
        }
        for ((spec, got), (_, want)) in pairs() {
            let what = format!("gradient of {}, {name}", spec.path);
            add(what, got, &part(spec, want));
        }
    }
    for (step, (got, want)) in sharded.steps.iter().zip(&whole.steps).enumerate() {
        let what = format!("loss of step {}", step + 1);
        add(what, &got[..1], &want[..1]);
    }
    if let (Some(got), Some(want)) = (&sharded.generated, &whole.generated) {
        // Guidance multiplies what rounding differs by, in small elements as in large ones.
        all.push(difference(
            rank,
            "generated latents".into(),
            got,
            want,
            None,
        ));
    }
    for (step, (got, want)) in sharded.steps.iter().zip(&whole.steps).enumerate() {
        let what = format!("gradient norm of step {}", step + 1);
        all.push(difference(rank, what, &got[1..], &want[1..], None));
    }
    for ((spec, got), (_, want)) in sharded.weights.iter().zip(&whole.weights) {
        let what = format!("{} after {} steps", spec.path, sharded.steps.len());
        // Adam divides a gradient by its own size, so that single elements follow rounding.
        all.push(difference(rank, what, got, &part(spec, want), None));
    }
    all.sort_by(|a, b| {
        let score = |d: &Difference| {
            (
                d.exceeds(tolerance),
                if d.rms.is_nan() { f64::MAX } else { d.rms },
            )
        };
        score(b).partial_cmp(&score(a)).expect("no score is NaN")
    });
    all
}

/// This rank's box of a whole tensor.
fn part(spec: &ParamSpec, whole: &[f64]) -> Vec<f64> {
    let mut out = vec![];
    spec.layout
        .runs(|start, len| out.extend(&whole[start..start + len]));
    out
}

fn difference(
    rank: usize,
    what: String,
    got: &[f64],
    want: &[f64],
    elements: Option<Tolerance>,
) -> Difference {
    assert_eq!(got.len(), want.len(), "{what} on rank {rank}");
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let far = norm(&mut got.iter().zip(want).map(|(a, b)| a - b));
    let size = norm(&mut want.iter().copied());
    let excess = got.iter().zip(want).map(|(a, b)| {
        let allowed = elements.map_or(f64::MAX, |t| t.atol + t.rtol * b.abs());
        let excess = (a - b).abs() - allowed;
        if excess.is_nan() { f64::MAX } else { excess }
    });
    Difference {
        rank,
        what,
        rms: if far == 0.0 {
            0.0
        } else {
            far / size.max(1e-30)
        },
        excess: excess.fold(f64::MIN, f64::max),
    }
}
