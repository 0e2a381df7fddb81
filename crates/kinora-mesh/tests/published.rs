//! The cost model against published figures. Bounds are those that hold; what is beyond them is
//! listed by the example `published`, with causes.

#[path = "../examples/published/rows.rs"]
mod rows;

use kinora_mesh::cost::{Anatomy, Convention, Dtype, Habits};
use rows::{dfm_table, peak, wan_table};

fn within(what: &str, model: f64, published: f64, share: f64) {
    let off = model / published - 1.0;
    assert!(
        off.abs() <= share,
        "{what}: {model:.1} instead of {published:.1}, {off:+.3}"
    );
}

/// 28 peaks of three models on four devices, by one description of the code that made them.
#[test]
fn peak_memory_of_wan_is_within_five_percent_in_every_row() {
    for row in wan_table() {
        for (gpus, (_, gib)) in [1, 2, 4, 8].into_iter().zip(row.published) {
            let estimate = row.estimate(gpus, Habits::wan(), Dtype::F32);
            let (model, _) = peak(&estimate, row.device == "rtx-4090" && gpus == 1);
            within(
                &format!("{} {} on {gpus}", row.device, row.anatomy.name),
                model,
                gib,
                0.05,
            );
        }
    }
}

/// Times on one to four devices that have NVLink. On eight the model is up to 15.1 percent fast.
#[test]
fn times_of_wan_are_within_five_percent_up_to_four_devices() {
    for row in wan_table().iter().filter(|row| row.device != "rtx-4090") {
        for (gpus, (seconds, _)) in [1, 2, 4].into_iter().zip(row.published) {
            let model = row.estimate(gpus, Habits::wan(), Dtype::F32).total_seconds;
            within(
                &format!("{} {} on {gpus}", row.device, row.anatomy.name),
                model,
                seconds,
                0.05,
            );
        }
    }
}

/// Megatron's rows agree if its report halves attention, as Megatron does for language models.
#[test]
fn rates_of_megatron_agree_if_attention_is_counted_as_causal() {
    let anatomy = Anatomy::wan_2_1_14b();
    let [full, causal] =
        [Convention::Full, Convention::Causal].map(|by| anatomy.model_flops(37_440, by));
    for row in dfm_table().iter().filter(|row| !row.automodel) {
        let estimate = row.estimate(row.habits(), row.recompute);
        let rate = estimate.model_tflops(row.mesh.ranks()) * causal / full;
        within(
            &format!("{} on {}", row.name, row.device),
            rate,
            row.published,
            0.08,
        );
    }
}
