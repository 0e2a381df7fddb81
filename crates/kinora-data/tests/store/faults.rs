//! Servers that do not recover, bytes that arrive wrong, and memory that is short.

use std::sync::Arc;
use std::time::Duration;

use kinora_data::{
    Catalog, DataConfig, DataError, Loader, Part, StoreError, StoreOptions, Stream, Wanted,
};

use xxhash_rust::xxh3::xxh3_64;

use crate::http::shared;
use crate::servers::{Fault, Request, file_server};
use crate::{batches, config, data_set, impatient, local, within};

/// A fault of requests for ranges of shards.
fn of_shards(fault: Fault) -> impl Fn(&Request) -> Fault + Send + Sync {
    move |request| {
        if request.path.ends_with(".parquet") {
            fault
        } else {
            Fault::None
        }
    }
}

#[test]
fn a_server_that_never_recovers_is_reported_in_time() {
    let folder = data_set();
    let patience = StoreOptions {
        timeout_s: 0.5,
        retries: 2,
        deadline_s: 5.0,
        ..StoreOptions::default()
    };
    for (fault, reason) in [
        (Fault::Status(500), "500"),
        (Fault::Truncate, ""),
        (Fault::Close, ""),
        (Fault::Stall(Duration::from_secs(30)), "0.5 s"),
    ] {
        let server = file_server(shared(folder.path()), of_shards(fault));
        let config = config(&server.url(""), patience.clone());
        let error = within(15, || batches(&config)).unwrap_err();
        let text = error.to_string();
        let DataError::Store(StoreError::Failed {
            attempts, object, ..
        }) = error
        else {
            panic!("{fault:?}: {text}");
        };
        assert_eq!(attempts, 3, "{fault:?}: {text}");
        assert!(object.ends_with("shard-00000.parquet"), "{text}");
        assert!(
            text.contains(reason) && text.contains("3 attempts"),
            "{text}"
        );
    }
    // The deadline ends what the number of repetitions would not.
    let server = file_server(shared(folder.path()), of_shards(Fault::Status(503)));
    let endless = StoreOptions {
        retries: 100,
        deadline_s: 2.0,
        ..patience
    };
    let error = within(10, || batches(&config(&server.url(""), endless))).unwrap_err();
    assert!(
        matches!(error, DataError::Store(StoreError::Failed { .. })),
        "{error}"
    );
}

#[test]
fn what_does_not_pass_is_not_repeated() {
    let folder = data_set();
    for (status, named) in [
        (404, "does not exist"),
        (403, "access is refused"),
        (416, "has changed"),
        (400, "refuses the request"),
    ] {
        let server = file_server(shared(folder.path()), of_shards(Fault::Status(status)));
        let error = within(5, || batches(&config(&server.url(""), impatient()))).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(named) && text.contains("shard-00000.parquet"),
            "{status}: {text}"
        );
        // The manifest, and one request for a footer.
        assert_eq!(server.count(), 2, "{status}");
    }
}

#[test]
fn a_stalled_answer_is_asked_for_again() {
    let folder = data_set();
    let wanted = batches(&local(folder.path())).unwrap();
    let stall = crate::servers::once(Fault::Stall(Duration::from_secs(60)));
    let server = file_server(shared(folder.path()), move |request| {
        // Every eighth range, so that the test takes no minute.
        let range = request.header("range").unwrap_or_default();
        if range.bytes().map(u32::from).sum::<u32>() % 8 == 0 {
            stall(request)
        } else {
            Fault::None
        }
    });
    let patience = StoreOptions {
        timeout_s: 0.5,
        ..impatient()
    };
    let got = within(60, || batches(&config(&server.url(""), patience)));
    assert_eq!(got.unwrap(), wanted);
}

#[test]
fn a_flipped_bit_is_found_by_the_hash_and_named() {
    let folder = data_set();
    // Data of rows, and not footers.
    let server = file_server(shared(folder.path()), |request| {
        let range = request.header("range").unwrap_or_default();
        let from = range
            .strip_prefix("bytes=")
            .and_then(|range| range.split('-').next()?.parse::<u64>().ok());
        match from {
            Some(from) if from < 20_000 && request.path.ends_with("shard-00001.parquet") => {
                Fault::Flip
            }
            _ => Fault::None,
        }
    });
    let config = DataConfig {
        max_bad: 1.0,
        workers: 0,
        ..config(&server.url(""), impatient())
    };
    let Ok(catalog) = Catalog::open(&config) else {
        panic!("the footers are whole");
    };
    let mut loader = Loader::open(Arc::new(catalog), Part::WHOLE, 0).unwrap();
    for _ in 0..10 {
        assert_eq!(loader.next().unwrap().samples.len(), 6);
    }
    let skips = &loader.skipped().first;
    assert!(!skips.is_empty());
    for skip in skips {
        assert_eq!(&*skip.id.shard, "shard-00001.parquet");
        assert!(
            skip.reason.contains("its media has the hash"),
            "{}",
            skip.reason
        );
    }
}

#[test]
fn little_memory_gives_the_same_batches_in_more_requests() {
    let folder = tempfile::tempdir().unwrap();
    // 24 groups of half a megabyte each.
    let mut writer = kinora_data::ShardWriter::create(
        folder.path(),
        kinora_data::ShardOptions {
            rows_per_group: 32,
            rows_per_shard: 256,
            ..kinora_data::ShardOptions::default()
        },
    )
    .unwrap();
    let mut state = 1u64;
    for number in 0..768 {
        let media: Vec<u8> = (0..16_384)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(99);
                (state >> 56) as u8
            })
            .collect();
        let caption = kinora_data::Caption::one(format!("{number}"));
        let key = number.to_string();
        let row = kinora_data::Row::new(&key, &media, &caption, [1, 32, 32], 0.0);
        writer.push(&row).unwrap();
    }
    writer.finish().unwrap();
    let rows = |config: &DataConfig| {
        let catalog = Arc::new(Catalog::open(config).unwrap());
        let mut stream = Stream::open(catalog.clone(), Part::WHOLE, 3, Wanted::MEDIA).unwrap();
        // The media's hashes in place of them, as the media would count as held.
        let mut rows = Vec::new();
        for _ in 0..200 {
            for (id, row) in stream.next_step().unwrap() {
                let row = row.unwrap();
                rows.push((id, row.caption, row.key, xxh3_64(&row.media)));
            }
        }
        (rows, catalog.storage().traffic())
    };
    let wide = local(folder.path());
    let (wanted, roomy) = rows(&wide);
    // All of a window is read at once where there is room, and each row once an epoch.
    let epochs = 203.0 * 6.0 / 768.0;
    let stored = 768.0 * 16_384.0;
    assert!((roomy.bytes as f64) < (epochs + 1.5) * stored, "{roomy:?}");
    let server = file_server(shared(folder.path()), |_| Fault::None);
    for base in [wide.clone(), config(&server.url(""), impatient())] {
        let (got, roomy) = rows(&base);
        assert!(got == wanted);
        for workers in [0, 1] {
            let narrow = DataConfig {
                memory_mb: 1,
                workers,
                ..base.clone()
            };
            let (got, tight) = rows(&narrow);
            assert!(got == wanted);
            // The bound, and the pages of one batch of six rows: 16 rows each, some near ones fetched
            // together.
            let page = 17 * 16_384;
            assert!(
                tight.most_held < (1 << 20) + 6 * page + (2 << 20),
                "{tight:?}"
            );
            assert!(tight.requests > roomy.requests, "{tight:?} {roomy:?}");
        }
    }
    assert!(roomy.most_held > 4 << 20, "{roomy:?}");
    assert_eq!(
        Catalog::open(&wide).unwrap().storage().traffic().held,
        0,
        "nothing is held of a catalog"
    );
}

#[test]
fn what_a_loader_held_is_given_back() {
    let folder = data_set();
    let catalog = Arc::new(Catalog::open(&local(folder.path())).unwrap());
    let mut loader = Loader::open(catalog.clone(), Part::WHOLE, 0).unwrap();
    (0..7).for_each(|_| drop(loader.next().unwrap()));
    assert!(loader.traffic().most_held > 0);
    drop(loader);
    assert_eq!(catalog.storage().traffic().held, 0);
}
