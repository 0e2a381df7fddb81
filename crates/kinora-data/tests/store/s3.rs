//! S3, by moto's server.

use kinora_data::{Catalog, DataError, Store, StoreError, StoreOptions};

use crate::servers::{Fault, Moto, Server, once, proxy};
use crate::{batches, config, data_set, impatient, local, within};

fn options(endpoint: &str) -> StoreOptions {
    let settings = [
        ("endpoint", endpoint),
        ("region", "us-east-1"),
        ("allow_http", "true"),
    ];
    StoreOptions {
        options: settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        environment: vec![
            ("AWS_ACCESS_KEY_ID".into(), "AKIDEXAMPLE".into()),
            ("AWS_SECRET_ACCESS_KEY".into(), "wJalrXUtnFEMI".into()),
        ],
        ..impatient()
    }
}

fn through(server: &Server) -> StoreOptions {
    options(&server.url(""))
}

// One test, as starting moto takes seconds.
#[test]
fn a_bucket_gives_the_batches_of_a_local_folder() {
    let Some(moto) = Moto::start() else {
        return;
    };
    let folder = data_set();
    moto.upload(folder.path(), "clips", "sets/a/");
    let wanted = batches(&local(folder.path())).unwrap();
    let direct = options(&format!("http://{}", moto.address));
    let location = "s3://clips/sets/a";
    assert_eq!(batches(&config(location, direct.clone())).unwrap(), wanted);
    let slash = config("s3://clips/sets/a/", direct.clone());
    assert_eq!(batches(&slash).unwrap(), wanted);

    for fault in [
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(429),
        Fault::Truncate,
        Fault::Close,
        Fault::Dribble,
    ] {
        let server = proxy(moto.address, once(fault));
        let got = within(60, || batches(&config(location, through(&server))));
        assert_eq!(got.unwrap(), wanted, "{fault:?}");
    }

    listing_and_reading(&moto, &direct);
    what_is_missing_is_named(&moto, &direct);
    refused(&moto);
    changed(&moto, folder.path());
}

fn listing_and_reading(moto: &Moto, options: &StoreOptions) {
    moto.put("clips/other/b/2.bin", &[7; 100]);
    moto.put("clips/other/1.bin", b"0123456789");
    moto.put("clips/other/.hidden/3.bin", b"x");
    moto.put("clips/otherwise.bin", b"x");
    let store = Store::open("s3://clips/other", options).unwrap();
    let objects = store.list().unwrap();
    let names: Vec<_> = objects.iter().map(|o| (o.name.as_str(), o.size)).collect();
    assert_eq!(names, [("1.bin", 10), ("b/2.bin", 100)]);
    assert!(objects.iter().all(|object| object.etag.is_some()));
    let before = store.storage().traffic().requests;
    let bytes = store.read(&objects[0], &[8..10, 0..3, 5..6, 4..4]).unwrap();
    assert_eq!(bytes, ["89", "012", "5", ""]);
    // Near ranges come in one request.
    assert_eq!(store.storage().traffic().requests, before + 1);
    assert_eq!(store.read_all("b/2.bin", 100).unwrap(), [7; 100][..]);
    let error = store.read_all("b/2.bin", 99).unwrap_err();
    assert!(matches!(
        error,
        StoreError::TooLarge {
            size: 100,
            limit: 99,
            ..
        }
    ));
    // More than one request fetches at most.
    let large: Vec<u8> = (0..20 << 20).map(|i: u32| (i ^ (i >> 8)) as u8).collect();
    moto.put("clips/large.bin", &large);
    let store = Store::open("s3://clips", options).unwrap();
    let object = store.stat("large.bin").unwrap();
    let bytes = store.read(&object, &[3..20 << 20, 100..200]).unwrap();
    assert!(bytes[0] == large[3..] && bytes[1] == large[100..200]);
}

fn what_is_missing_is_named(moto: &Moto, options: &StoreOptions) {
    let open = |location: &str| {
        Catalog::open(&config(location, options.clone()))
            .unwrap_err()
            .to_string()
    };
    let text = open("s3://no-such-bucket/a");
    assert!(
        text.contains("no Parquet file at s3://no-such-bucket/a"),
        "{text}"
    );
    let text = open("s3://clips/nothing/here");
    assert!(
        text.contains("no Parquet file at s3://clips/nothing/here"),
        "{text}"
    );
    let text = open("s3://clips/none.parquet");
    assert!(text.contains("s3://clips/none.parquet"), "{text}");
    // The manifest names a shard that is not there.
    let folder = data_set();
    std::fs::remove_file(folder.path().join("shard-00001.parquet")).unwrap();
    moto.upload(folder.path(), "holes", "");
    let text = open("s3://holes");
    assert!(
        text.contains("shard-00001.parquet") && text.contains("is missing"),
        "{text}"
    );
}

fn refused(moto: &Moto) {
    for (status, named) in [
        (403, "access is refused"),
        (401, "access is refused"),
        (400, "refuses the request"),
    ] {
        let server = proxy(moto.address, move |_| Fault::Status(status));
        let error = within(20, || {
            batches(&config("s3://clips/sets/a", through(&server)))
        });
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains(named) && text.contains("s3://clips/sets/a"),
            "{status}: {text}"
        );
        assert!(text.contains(&format!("{status}")), "{text}");
        assert!(!text.contains("wJalr"), "{text}");
    }
    // A machine without credentials asks an address that does not answer here.
    let mut options = options(&format!("http://{}", moto.address));
    options.environment.clear();
    options.timeout_s = 1.0;
    options.retries = 0;
    let error = within(20, || batches(&config("s3://clips/sets/a", options))).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("AWS_ACCESS_KEY_ID") || text.contains("not complete within"),
        "{text}"
    );
}

fn changed(moto: &Moto, folder: &std::path::Path) {
    moto.upload(folder, "moving", "");
    let config = config("s3://moving", options(&format!("http://{}", moto.address)));
    let catalog = std::sync::Arc::new(Catalog::open(&config).unwrap());
    for name in [
        "shard-00000.parquet",
        "shard-00001.parquet",
        "shard-00002.parquet",
    ] {
        let mut bytes = std::fs::read(folder.join(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        moto.put(&format!("moving/{name}"), &bytes);
    }
    let mut loader = kinora_data::Loader::open(catalog, kinora_data::Part::WHOLE, 0).unwrap();
    let error = (0..25).find_map(|_| loader.next().err()).expect("a change");
    assert!(
        matches!(error, DataError::Store(StoreError::Changed { .. })),
        "{error}"
    );
}
