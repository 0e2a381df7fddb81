//! `kinora verify`, as a user runs it.

use crate::program::Place;
use serde_json::Value;

#[test]
fn plans_hold_on_threads_in_64_bits_and_here_in_their_own_precision() {
    let place = Place::new();
    for set in [
        &["mesh.tp=2"][..],
        &["mesh.tp=1", "mesh.cp=3", "plan.seq=[\"cp\"]"],
        &[
            "mesh.fsdp=4",
            "plan.batch=[\"fsdp\"]",
            "plan.params=[\"fsdp\"]",
        ],
    ] {
        let sets = set.iter().flat_map(|set| ["--set", set]);
        let args: Vec<&str> = ["verify", "smoke.toml", "--json", "--quiet"]
            .into_iter()
            .chain(sets)
            .collect();
        let report: Value = place.json(&args);
        assert_eq!(report["holds"], true, "{set:?}: {report}");
        assert!(report["tensors"].as_u64().unwrap() > 100, "{report}");
        let worst = report["worst"][0]["relative"].as_f64().unwrap();
        assert!(worst < 1e-9, "{set:?}: {report}");
    }
    for dtype in ["run.dtype=f32", "run.dtype=bf16"] {
        let args = ["verify", "smoke.toml", "--here", "--json", "--quiet"];
        let report = place.json(&[&args[..], &["--set", dtype]].concat());
        assert_eq!(report["holds"], true, "{dtype}: {report}");
    }
}
