//! All arrangements of a number of devices that fit, fastest first.

use super::{Anatomy, Arrangement, Estimate, Guidance, Hardware, Job, Model};
use crate::{ContextAttention, Mesh, MeshAxis, Plan};

// Beyond these, groups that wait for each other in every block leave the node many times over.
const WIDEST_TP: usize = 16;
const WIDEST_CP: usize = 64;

/// All arrangements of `gpus` devices that the heads, the tokens, the samples and the memory allow,
/// by the time of a step (training) or of a whole batch (generation). The estimate is that of rank
/// 0, which has the longest parts. Heads are cut first where `tp` is, with sequence parallelism.
pub fn search(
    anatomy: &Anatomy,
    job: &Job,
    hardware: &Hardware,
    gpus: usize,
) -> Vec<(Arrangement, Estimate)> {
    search_jobs(anatomy, job, hardware, gpus, |_| Some(job.clone()))
}

/// [`search`] where the job depends on the arrangement, as the samples of a micro-batch do; one that
/// has no job is left out. `job` says what kind of job all of them are.
pub fn search_jobs(
    anatomy: &Anatomy,
    job: &Job,
    hardware: &Hardware,
    gpus: usize,
    job_of: impl Fn(&Arrangement) -> Option<Job>,
) -> Vec<(Arrangement, Estimate)> {
    let model = Model::new(anatomy);
    let mut found: Vec<(Arrangement, Estimate)> = candidates(anatomy, job, gpus)
        .into_iter()
        .filter_map(|arrangement| {
            let job = job_of(&arrangement)?;
            let estimate = model.estimate(&job, hardware, &arrangement, 0).ok()?;
            estimate.fits.then_some((arrangement, estimate))
        })
        .collect();
    found.sort_by(|(_, a), (_, b)| a.total_seconds.total_cmp(&b.total_seconds));
    found
}

/// Arrangements to try, before memory and samples are looked at.
fn candidates(anatomy: &Anatomy, job: &Job, gpus: usize) -> Vec<Arrangement> {
    let (training, cfg) = match job {
        Job::Training(_) => (true, 1),
        Job::Generation(job) => (
            false,
            if job.guidance == Guidance::CfgAxis {
                2
            } else {
                1
            },
        ),
    };
    if gpus == 0 || !gpus.is_multiple_of(cfg) {
        return vec![];
    }
    let mut out = vec![];
    for tp in divisors(gpus / cfg).filter(|tp| *tp <= WIDEST_TP) {
        if !anatomy.heads.is_multiple_of(tp) || !anatomy.kv_heads.is_multiple_of(tp) {
            continue;
        }
        for cp in divisors(gpus / cfg / tp).filter(|cp| *cp <= WIDEST_CP) {
            let data = gpus / cfg / tp / cp;
            if !training && data > 1 {
                continue;
            }
            for fsdp in divisors(data) {
                let mesh = Mesh {
                    replicate: data / fsdp,
                    fsdp,
                    cfg,
                    cp,
                    tp,
                };
                for plan in plans(&mesh) {
                    for attention in attentions(anatomy, cp, tp) {
                        let plan = Plan {
                            attention,
                            ..plan.clone()
                        };
                        out.push(Arrangement { mesh, plan });
                    }
                }
            }
        }
    }
    out
}

/// Plans for a mesh: parameters whole, or cut over what the ranks of a data group share with others.
fn plans(mesh: &Mesh) -> Vec<Plan> {
    use MeshAxis::{Cp, Fsdp, Replicate, Tp};
    let stored: &[&[MeshAxis]] = match (mesh.fsdp > 1, mesh.cp > 1) {
        (true, true) => &[&[Fsdp], &[Fsdp, Cp]],
        (true, false) => &[&[Fsdp]],
        (false, true) => &[&[], &[Cp]],
        (false, false) => &[&[]],
    };
    stored
        .iter()
        .map(|params| Plan {
            batch: vec![Replicate, Fsdp],
            seq: vec![Cp, Tp],
            heads: vec![Tp],
            hidden: vec![Tp],
            params: params.to_vec(),
            attention: None,
        })
        .collect()
}

/// How attention may span `cp` ranks, given the heads that `tp` leaves.
fn attentions(anatomy: &Anatomy, cp: usize, tp: usize) -> Vec<Option<ContextAttention>> {
    if cp == 1 {
        return vec![None];
    }
    let heads = |n: usize| {
        (anatomy.heads / tp).is_multiple_of(n) && (anatomy.kv_heads / tp).is_multiple_of(n)
    };
    let mut out = vec![ContextAttention::RING, ContextAttention::Gather];
    if heads(cp) {
        out.push(ContextAttention::ULYSSES);
    }
    let inner = divisors(cp).filter(|n| *n > 1 && *n < cp && heads(*n));
    out.extend(inner.map(|ulysses| ContextAttention::hybrid(ulysses, cp / ulysses)));
    out.into_iter().map(Some).collect()
}

fn divisors(n: usize) -> impl Iterator<Item = usize> {
    (1..=n).filter(move |d| n.is_multiple_of(*d))
}
