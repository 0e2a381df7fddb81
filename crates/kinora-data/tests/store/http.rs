//! Plain HTTP servers, and media that rows only name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use kinora_data::{
    Caption, Catalog, DataConfig, DataError, Loader, Media, Part, Row, ShardOptions, ShardWriter,
    StoreError,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::servers::{Answer, Fault, Server, file_server, files, once};
use crate::{SAMPLES, batches, config, data_set, impatient, local, picture, within};

type Files = Arc<Mutex<HashMap<String, Vec<u8>>>>;

pub(crate) fn shared(folder: &std::path::Path) -> Files {
    Arc::new(Mutex::new(files(folder)))
}

#[test]
fn a_server_gives_the_batches_of_a_local_folder() {
    let folder = data_set();
    let wanted = batches(&local(folder.path())).unwrap();
    let server = file_server(shared(folder.path()), |_| Fault::None);
    let whole = config(&server.url(""), impatient());
    assert_eq!(batches(&whole).unwrap(), wanted);
    // The shards by themselves: their names are the same.
    let shards = DataConfig {
        paths: (0..3)
            .map(|i| server.url(&format!("shard-0000{i}.parquet")))
            .collect(),
        ..whole.clone()
    };
    assert_eq!(batches(&shards).unwrap(), wanted);

    // Each request fails once in some way.
    for fault in [Fault::Status(502), Fault::Truncate, Fault::Close] {
        let server = file_server(shared(folder.path()), once(fault));
        let config = config(&server.url(""), impatient());
        let catalog = Arc::new(Catalog::open(&config).unwrap());
        let mut loader = Loader::open(catalog, Part::WHOLE, 0).unwrap();
        let got: Vec<_> = (0..25).map(|_| loader.next().unwrap()).collect();
        assert_eq!(got, wanted, "{fault:?}");
        let traffic = loader.traffic();
        assert!(
            traffic.retries >= 10 && traffic.requests > traffic.retries,
            "{traffic:?}"
        );
        assert!(traffic.bytes > 0 && traffic.waited_s > 0.0);
    }
}

#[test]
fn a_server_needs_a_manifest_and_ranges() {
    let folder = data_set();
    let files = shared(folder.path());
    files.lock().unwrap().remove("manifest.json");
    let server = file_server(files, |_| Fault::None);
    let text = batches(&config(&server.url(""), impatient()))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("cannot list") && text.contains("manifest.json"),
        "{text}"
    );

    let bytes = files_of(folder.path());
    let server = Server::start(move |request| {
        let name = request.path.trim_start_matches('/');
        let answer = bytes.get(name).map_or(Answer::status(404), |bytes| Answer {
            status: 200,
            headers: Vec::new(),
            body: bytes.clone(),
        });
        (answer, Fault::None)
    });
    let error = within(10, || batches(&config(&server.url(""), impatient()))).unwrap_err();
    assert!(
        matches!(error, DataError::Store(StoreError::Refused { .. })),
        "{error}"
    );
}

fn files_of(folder: &std::path::Path) -> HashMap<String, Vec<u8>> {
    files(folder)
}

#[test]
fn a_shard_that_changes_or_vanishes_stops_the_run() {
    let folder = data_set();
    for vanish in [false, true] {
        let files = shared(folder.path());
        let server = file_server(files.clone(), |_| Fault::None);
        let catalog = Catalog::open(&config(&server.url(""), impatient())).unwrap();
        for name in [
            "shard-00000.parquet",
            "shard-00001.parquet",
            "shard-00002.parquet",
        ] {
            let mut files = files.lock().unwrap();
            if vanish {
                files.remove(name);
            } else {
                files.get_mut(name).unwrap()[1000] ^= 1;
            }
        }
        let mut loader = Loader::open(Arc::new(catalog), Part::WHOLE, 0).unwrap();
        let error = within(20, || (0..25).find_map(|_| loader.next().err())).unwrap();
        let text = error.to_string();
        let named = if vanish {
            "does not exist"
        } else {
            "has changed"
        };
        assert!(
            text.contains(named) && text.contains("/shard-0000"),
            "{text}"
        );
    }
    // A shard of another size than the manifest says is met when its footer is read.
    let files = shared(folder.path());
    files
        .lock()
        .unwrap()
        .get_mut("shard-00001.parquet")
        .unwrap()
        .push(0);
    let server = file_server(files, |_| Fault::None);
    let text = batches(&config(&server.url(""), impatient()))
        .unwrap_err()
        .to_string();
    assert!(text.contains("shard-00001.parquet has changed"), "{text}");
}

/// A data set whose rows only name their media.
fn by_uri(folder: &std::path::Path, uri: impl Fn(usize) -> String, hashed: bool) {
    let mut writer = ShardWriter::create(folder, ShardOptions::default()).unwrap();
    for number in 0..SAMPLES {
        let key = format!("{number:03}");
        let caption = Caption::one(format!("picture {number}"));
        let uri = uri(number);
        let hash = hashed.then(|| xxh3_64(&picture(number)));
        let row = Row {
            media: Media::Uri { uri: &uri, hash },
            ..Row::new(&key, b"", &caption, [1, 32, 32], 0.0)
        };
        writer.push(&row).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn media_is_fetched_from_where_it_lies() {
    let media = tempfile::tempdir().unwrap();
    for number in 0..SAMPLES {
        std::fs::write(media.path().join(format!("{number}.png")), picture(number)).unwrap();
    }
    let elsewhere = file_server(shared(media.path()), once(Fault::Status(503)));

    // Relative to a local folder, relative to a server, and anywhere.
    let near = tempfile::tempdir().unwrap();
    std::fs::create_dir(near.path().join("media")).unwrap();
    by_uri(near.path(), |number| format!("media/{number}.png"), true);
    let mut served = files_of_flat(near.path());
    for number in 0..SAMPLES {
        std::fs::write(
            near.path().join(format!("media/{number}.png")),
            picture(number),
        )
        .unwrap();
        served.insert(format!("media/{number}.png"), picture(number));
    }
    let far = tempfile::tempdir().unwrap();
    by_uri(
        far.path(),
        |number| elsewhere.url(&format!("{number}.png")),
        false,
    );
    let server = file_server(Arc::new(Mutex::new(served)), |_| Fault::None);

    let wanted = batches(&local(near.path())).unwrap();
    for batch in &wanted {
        for sample in &batch.samples {
            let number: usize = sample.caption["picture ".len()..].parse().unwrap();
            let decoded = kinora_media::decode(&picture(number)).unwrap();
            assert_eq!(sample.clip().rgb, decoded.rgb);
        }
    }
    assert_eq!(
        batches(&config(&server.url(""), impatient())).unwrap(),
        wanted
    );
    let far = config(far.path().to_str().unwrap(), impatient());
    assert_eq!(batches(&far).unwrap(), wanted);
}

fn files_of_flat(folder: &std::path::Path) -> HashMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn media_that_is_gone_or_wrong_is_a_broken_sample() {
    let folder = tempfile::tempdir().unwrap();
    by_uri(folder.path(), |number| format!("{number}.png"), true);
    for number in 0..SAMPLES {
        let path = folder.path().join(format!("{number}.png"));
        match number {
            7 => {}
            8 => std::fs::write(path, picture(9)).unwrap(),
            9 => std::fs::write(path, vec![0; 2 << 20]).unwrap(),
            _ => std::fs::write(path, picture(number)).unwrap(),
        }
    }
    let mut config = DataConfig {
        max_bad: 1.0,
        ..local(folder.path())
    };
    config.store.media_mb = 1;
    let catalog = Arc::new(Catalog::open(&config).unwrap());
    let mut loader = Loader::open(catalog, Part::WHOLE, 0).unwrap();
    (0..10).for_each(|_| assert_eq!(loader.next().unwrap().samples.len(), 6));
    let reason = |row: u64| {
        let skip = loader
            .skipped()
            .first
            .iter()
            .find(|skip| skip.id.row == row);
        skip.unwrap_or_else(|| panic!("row {row}")).reason.clone()
    };
    assert!(reason(7).contains("7.png does not exist"), "{}", reason(7));
    assert!(
        reason(8).contains("8.png: its media has the hash"),
        "{}",
        reason(8)
    );
    assert!(
        reason(9).contains("2097152 bytes, and 1048576 are allowed"),
        "{}",
        reason(9)
    );
}
