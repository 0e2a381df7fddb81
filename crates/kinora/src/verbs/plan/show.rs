//! The report in words.

use super::{Found, Ranked, Report, names, size};
use kinora_mesh::cost::{Arrangement, Estimate, Hardware, Job, Use};
use kinora_mesh::{ContextAttention, MeshAxis};

pub(super) fn print(report: &Report, hardware: &Hardware) {
    let parameters = count(report.parameters);
    match &report.found {
        Found::Search { fit, best } => {
            say!("{parameters} parameters in {}\n", report.dtype);
            print_search(report, *fit, best);
        }
        Found::Weights(weights) => {
            print_head(report);
            say!("\n{parameters} parameters in {}\n", report.dtype);
            weights.print();
        }
        Found::Estimate { job, estimate } => {
            print_head(report);
            say!("\n{parameters} parameters in {}", report.dtype);
            print_estimate(job, estimate, hardware, report);
        }
    }
    if !report.assumed.is_empty() {
        say!("\nassumed:");
        for line in &report.assumed {
            say!("  {line}");
        }
    }
}

fn print_head(report: &Report) {
    say!(
        "mesh: {} ({} ranks, {} data groups)",
        report.mesh,
        report.ranks,
        report.data_groups
    );
    for (axis, cut) in &report.plan {
        let cut = if cut.is_empty() {
            "whole on every rank"
        } else {
            cut
        };
        say!("  {axis:9} {cut}");
    }
}

fn print_estimate(job: &Job, estimate: &Estimate, hardware: &Hardware, report: &Report) {
    match job {
        Job::Training(job) => say!(
            "a training step of {} samples of {} tokens, in micro-batches of {} a data group; {} blocks recomputed",
            job.samples,
            job.tokens,
            job.batch,
            estimate.recomputed
        ),
        Job::Generation(job) => say!("a sample of {} tokens in {} steps", job.tokens, job.steps),
    }
    say!(
        "\nestimates for {} (rates and efficiencies: configs/hardware/{}.toml); rank 0 has the longest parts",
        hardware.name,
        hardware.name
    );
    say!("\nmemory of rank 0");
    let peak = estimate.memory.peak();
    for which in Use::ALL.into_iter().filter(|&which| peak.of(which) > 0) {
        say!("  {:14} {:>10}", which.to_string(), size(peak.of(which)));
    }
    let fits = if estimate.fits {
        "fits"
    } else {
        "does not fit\n  help: more ranks, another plan (--search), or another device (--hardware)"
    };
    say!(
        "  {:14} {:>10} of {}: {fits}",
        "in all",
        size(peak.total()),
        size(estimate.capacity as usize)
    );
    if estimate.traffic.is_empty() {
        say!("\nno messages: there is one rank");
    } else {
        say!("\nmessages of rank 0, a step");
        say!(
            "  {:54} {:14} {:20} {:>7} {:>10} {:>9} {:>9}",
            "what",
            "collective",
            "over",
            "calls",
            "sent",
            "time",
            "exposed"
        );
    }
    for row in &estimate.traffic {
        say!(
            "  {:54} {:14} {:20} {:>7} {:>10} {:>9} {:>9}",
            row.what,
            row.collective.to_string(),
            names(&row.axes),
            row.calls,
            size(row.ring as usize),
            time(row.seconds),
            time(row.exposed)
        );
    }
    let compute = &estimate.compute;
    say!(
        "\na step takes {}: matrix products {}, attention {}, elementwise {}, optimizer {}, waiting for messages {}",
        time(estimate.step_seconds),
        time(compute.matmul),
        time(compute.attention),
        time(compute.elementwise),
        time(compute.optimizer),
        time(estimate.exposed)
    );
    if let Job::Generation(_) = job {
        say!("in all {}", time(estimate.total_seconds));
    }
    say!(
        "{:.3e} model FLOP a step, {:.2} TFLOP/s a rank, {:.1} % of the device's bf16 rate (MFU)",
        estimate.model_flops,
        estimate.model_tflops(report.ranks),
        100.0 * estimate.mfu
    );
}

fn print_search(report: &Report, fit: usize, best: &[Ranked]) {
    let Some(fastest) = best.first() else {
        say!(
            "no plan of {} ranks of {} fits\n  help: more ranks (--gpus), another device (--hardware), or a batch that more data groups can share",
            report.ranks,
            report.hardware
        );
        return;
    };
    say!(
        "{fit} plans of {} ranks of {} fit; the fastest, by estimate:",
        report.ranks,
        report.hardware
    );
    say!(
        "  {:44} {:20} {:22} {:>10} {:>10} {:>9} {:>9} {:>6}",
        "mesh",
        "attention",
        "params over",
        "recomputed",
        "memory",
        "time",
        "exposed",
        "MFU"
    );
    for Ranked {
        arrangement,
        estimate,
    } in best
    {
        let Arrangement { mesh, plan } = arrangement;
        let attention = plan.context(mesh);
        let params = names(&plan.cuts(kinora_mesh::Axis::Params, mesh));
        say!(
            "  {:44} {:20} {:22} {:>10} {:>10} {:>9} {:>9} {:>4.1} %",
            mesh.to_string(),
            attention.map_or("-".into(), |attention| attention.to_string()),
            if params.is_empty() { "-" } else { &params },
            estimate.recomputed,
            size(estimate.memory.peak().total()),
            time(estimate.total_seconds),
            time(estimate.exposed),
            100.0 * estimate.mfu
        );
    }
    say!("\nthe fastest, for a configuration:\n");
    print_toml(fastest);
}

/// The two tables, without what has no effect.
fn print_toml(fastest: &Ranked) {
    let Arrangement { mesh, plan } = &fastest.arrangement;
    say!("[mesh]");
    for axis in mesh.axes() {
        say!("{axis} = {}", mesh.size(axis));
    }
    say!("\n[plan]");
    for (key, axes) in [
        ("batch", &plan.batch),
        ("seq", &plan.seq),
        ("heads", &plan.heads),
        ("hidden", &plan.hidden),
        ("params", &plan.params),
    ] {
        let used = |axis: &&MeshAxis| mesh.size(**axis) > 1;
        let names: Vec<String> = axes
            .iter()
            .filter(used)
            .map(|a| format!("\"{a}\""))
            .collect();
        if !names.is_empty() {
            say!("{key} = [{}]", names.join(", "));
        }
    }
    match plan
        .attention
        .map(|attention| (attention, attention.degrees(mesh.cp)))
    {
        None => {}
        Some((ContextAttention::Gather, _)) | Some((_, None)) => say!("attention = \"gather\""),
        Some((_, Some((1, _)))) => say!("attention = \"ring\""),
        Some((_, Some((_, 1)))) => say!("attention = \"ulysses\""),
        Some((_, Some((ulysses, ring)))) => {
            say!("attention = {{ ulysses = {ulysses}, ring = {ring} }}");
        }
    }
    let blocks = fastest.estimate.recomputed;
    if blocks > 0 && plan.params.is_empty() {
        say!("\n# and in [train]: recompute = {{ first = {blocks} }}");
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 100.0 => format!("{s:.0} s"),
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} us", s * 1e6),
    }
}

fn count(n: usize) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.2} billion", n / 1e9),
        n if n >= 1e6 => format!("{:.2} million", n / 1e6),
        _ => n.to_string(),
    }
}
