//! The registry is judged itself: transports that do one thing wrong, each as a mistake in the engine
//! would, must each be caught by one of its rows.

use crate::models::{WanNorms, text};
use crate::parallel::{Row, case, movie_gen, registry, run_on};
use burn::tensor::DType;
use kinora_comm::{Buffer, Call, Collective, CommError, HostBuffer, Pending, Transport};
use kinora_models::{Denoiser, TextToVideo};
use kinora_verify::{Case, Tolerance, compare};
use std::sync::Arc;

/// What goes wrong with the results of a collective.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// A sum that was skipped: the rank keeps what it had.
    Unreduced,
    /// Parts in the order of the next rank.
    Rotated,
    /// A ring that does not turn: the rank keeps what it sent.
    Stale,
    /// A factor, as of a mean in place of a sum.
    Halved,
}

/// Passes calls on, and spoils the results of those with one label.
#[derive(Debug)]
struct Mutant {
    inner: Arc<dyn Transport>,
    label: &'static str,
    wrong: Wrong,
}

struct Spoiled {
    inner: Box<dyn Pending>,
    sent: Vec<f64>,
    collective: Collective,
    rank: usize,
    wrong: Wrong,
}

impl Transport for Mutant {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn members(&self) -> &[usize] {
        self.inner.members()
    }

    fn start(&self, call: Call, input: Buffer) -> Result<Box<dyn Pending>, CommError> {
        let spoil = call.label == self.label;
        let (collective, sent) = (call.collective.clone(), input.clone());
        let inner = self.inner.start(call, input)?;
        match sent {
            Buffer::Host(HostBuffer::F64(sent)) if spoil => Ok(Box::new(Spoiled {
                inner,
                sent,
                collective,
                rank: self.rank(),
                wrong: self.wrong,
            })),
            _ => Ok(inner),
        }
    }

    fn split(
        &self,
        color: Option<usize>,
        name: &str,
    ) -> Result<Option<Arc<dyn Transport>>, CommError> {
        let (label, wrong) = (self.label, self.wrong);
        let part = self.inner.split(color, name)?;
        Ok(part.map(|inner| {
            Arc::new(Self {
                inner,
                label,
                wrong,
            }) as Arc<dyn Transport>
        }))
    }

    fn heartbeat(&self) {
        self.inner.heartbeat();
    }

    fn abort(&self, reason: &str) {
        self.inner.abort(reason);
    }
}

impl Pending for Spoiled {
    fn wait(self: Box<Self>) -> Result<Buffer, CommError> {
        let Buffer::Host(HostBuffer::F64(mut got)) = self.inner.wait()? else {
            unreachable!("f64 comes back as f64");
        };
        let len = got.len();
        match (self.wrong, &self.collective) {
            (Wrong::Unreduced, Collective::ReduceScatter { lens, .. }) => {
                let start: usize = lens[..self.rank].iter().sum();
                got.copy_from_slice(&self.sent[start..start + len]);
            }
            (Wrong::Unreduced, _) => got.copy_from_slice(&self.sent),
            (Wrong::Rotated, Collective::AllGather { lens }) => got.rotate_left(lens[0]),
            (Wrong::Rotated, _) => got.rotate_left(len / 2),
            // Lengths may differ by a token; what is missing stays as it was.
            (Wrong::Stale, _) => {
                let same = len.min(self.sent.len());
                got[..same].copy_from_slice(&self.sent[..same]);
            }
            (Wrong::Halved, _) => got.iter_mut().for_each(|x| *x /= 2.0),
        }
        Ok(got.into())
    }

    fn ready(&self) -> bool {
        self.inner.ready()
    }
}

fn row(name: &str) -> Row {
    let found = registry().into_iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("no row is called {name}"))
}

/// Asserts that a row notices each of the mistakes, and nothing without them.
fn caught<M: Denoiser>(case: &Case<M>, mistakes: &[(&str, &'static str, Wrong)]) {
    let whole = run_on(&registry()[0], case, |transport| transport).remove(0);
    for &(name, label, wrong) in mistakes {
        let row = row(name);
        let differs = |label: &'static str| {
            let ranks = run_on(&row, case, move |inner| {
                Arc::new(Mutant {
                    inner,
                    label,
                    wrong,
                })
            });
            let differs = |(rank, got)| {
                let all = compare(&whole, rank, got, Tolerance::F64);
                all.iter().any(|d| d.exceeds(Tolerance::F64))
            };
            ranks.iter().enumerate().any(differs)
        };
        assert!(!differs("no such label"), "{name}: fails without a mistake");
        assert!(
            differs(label),
            "{name}: {wrong:?} \"{label}\" is not noticed"
        );
    }
}

#[test]
fn mistakes_in_collectives_are_noticed() {
    let case = case(DType::F64, |cx| {
        TextToVideo::new(cx, &movie_gen().into(), Some(&text()))
    });
    use Wrong::{Halved, Rotated, Stale, Unreduced};
    caught(
        &case,
        &[
            // Megatron's g, its adjoint's f, and the sum of gradients.
            ("tp 2, tokens whole over tp", "all-reduce", Unreduced),
            ("tp 2, tokens whole over tp", "all-reduce", Halved),
            ("replicate 2", "all-reduce", Unreduced),
            // Entries and exits of sequence parallelism, and their adjoints.
            ("tp 2", "all-gather", Rotated),
            ("tp 2", "reduce-scatter", Unreduced),
            ("tp 2", "collect", Rotated),
            // Rings that are shifted by a step, forward and backward.
            ("cp 2 (ring)", "keys", Stale),
            ("cp 3 (ring)", "keys", Stale),
            ("cp 2 (ring)", "key gradients", Stale),
            ("cp 3 (ring)", "key gradients", Stale),
            ("cp 2 (gather)", "keys", Rotated),
            ("cp 2 (gather)", "key gradients", Unreduced),
            ("cp 2 (ulysses)", "tokens for heads", Rotated),
            ("cp 2 (ulysses)", "heads for tokens", Rotated),
            ("fsdp 2", "block weights", Rotated),
            ("fsdp 2", "block gradients", Unreduced),
            ("fsdp 2", "block gradients", Halved),
            ("fsdp 2", "weight", Rotated),
            ("fsdp 2", "weight gradient", Unreduced),
            ("fsdp 2", "gradient norm", Unreduced),
            ("replicate 2", "loss", Unreduced),
            ("one rank, cfg 2", "guidance", Rotated),
        ],
    );
}

#[test]
fn a_norm_of_a_part_of_the_heads_is_noticed() {
    caught(
        &case(DType::F64, WanNorms::new),
        &[("tp 2", "norm across ranks", Wrong::Unreduced)],
    );
}
