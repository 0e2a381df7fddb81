//! `kinora data check`: whether data sets are whole.

use super::storage;
use crate::cli::DataCheck;
use crate::failure::{Failure, Outcome};
use crate::verbs::{console, json};
use kinora_data::StoreOptions;
use std::collections::BTreeMap;

pub(super) fn check(args: &DataCheck) -> Outcome {
    let storage = storage(StoreOptions::default());
    let mut all = BTreeMap::new();
    for location in &args.data {
        let mut bar = None;
        let checked = kinora_ingest::check(location, &storage, |done, total| {
            let bar = bar
                .get_or_insert_with(|| console(args.quiet).progress(total >> 20, "checking, MB"));
            bar.at(done >> 20);
        })?;
        if let Some(bar) = bar {
            bar.finish();
        }
        all.insert(location, checked);
    }
    let faults: usize = all.values().map(|checked| checked.faults.len()).sum();
    if args.json {
        json(&all);
    } else {
        for (location, checked) in &all {
            say!(
                "{location}: {} files of {:.1} MB, {} rows, {} of them with media and a hash",
                checked.files,
                checked.bytes as f64 / 1e6,
                checked.rows,
                checked.hashed
            );
            if !checked.manifest {
                say!("  it has no manifest, so files were not compared with one");
            }
            for fault in &checked.faults {
                say!("  {}: {}", fault.place, fault.what);
            }
        }
    }
    match faults {
        0 if args.json => Ok(()),
        0 => {
            say!("all is well");
            Ok(())
        }
        _ => Err(Failure::run(format!(
            "{faults} faults were found\n  help: fetch or write those files again; rows whose media differ from their hash are left out of training"
        ))),
    }
}
