//! Objects on servers: S3, Google Cloud Storage, Azure, and plain HTTP.
//!
//! S3 and HTTP are tested with every kind of fault, Azure was tried with its emulator. Google Cloud
//! Storage goes the same way, but no emulator speaks the interface that is used here, so that it is
//! untested.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{
    ClientConfigKey, ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt,
    RetryConfig,
};

use super::network::{Network, Persistent, Trouble};
use super::{Object, Storage, StoreError, StoreOptions};

/// The objects below a prefix, named by what follows it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) scheme: String,
    /// Scheme, and bucket or host.
    authority: String,
    prefix: String,
    client: Arc<dyn ObjectStore>,
    options: Arc<StoreOptions>,
}

// Ranges that lie nearer than this are fetched together: skipping takes as long as asking again.
const NEAR: u64 = 256 << 10;
// What one request fetches at most. Larger ranges come in several, at once.
const REQUEST: u64 = 8 << 20;
// What a task may take beyond its deadline before its thread counts as stuck.
const GRACE: Duration = Duration::from_secs(10);

impl Remote {
    /// Parses a location; `prefix` is the path after bucket or host, without slashes at its ends.
    pub(crate) fn open(
        scheme: &str,
        authority: &str,
        prefix: &str,
        storage: &Storage,
    ) -> Result<Self, StoreError> {
        let authority = format!("{scheme}://{authority}");
        let client = storage.client(&authority, || build(scheme, &authority, &storage.options))?;
        Ok(Self {
            scheme: scheme.to_owned(),
            authority,
            prefix: prefix.to_owned(),
            client,
            options: storage.options.clone(),
        })
    }

    /// What messages call an object.
    pub(crate) fn display(&self, name: &str) -> String {
        let path = join(&self.prefix, name);
        format!("{}/{path}", self.authority)
    }

    pub(crate) fn can_list(&self) -> bool {
        !self.scheme.starts_with("http")
    }

    fn path(&self, name: &str) -> Result<Path, StoreError> {
        Path::parse(join(&self.prefix, name)).map_err(|error| {
            StoreError::settings(
                format!("{}: {error}", self.display(name)),
                "use a path without empty or relative parts",
            )
        })
    }

    /// All objects below the prefix, in the order of the store.
    pub(crate) fn list(&self, storage: &Storage) -> Result<Vec<Object>, StoreError> {
        let prefix = self.path("")?;
        let (client, this) = (self.client.clone(), self.clone());
        let skip = prefix.as_ref().len();
        let objects = self.one(storage, "", 0..0, move || {
            let (client, this, prefix) = (client.clone(), this.clone(), prefix.clone());
            async move {
                let listed: Result<Vec<ObjectMeta>, _> =
                    client.list(Some(&prefix)).try_collect().await;
                listed.map_err(|error| this.judge("", &error))
            }
        })?;
        let names = objects.into_iter().map(|meta| {
            let whole = meta.location.as_ref();
            let name = whole[skip..].trim_start_matches('/').to_owned();
            Object {
                name,
                size: meta.size,
                etag: stamp(&meta),
            }
        });
        Ok(names
            .filter(|object| !object.name.is_empty() && !hidden(&object.name))
            .collect())
    }

    pub(crate) fn stat(&self, storage: &Storage, name: &str) -> Result<Object, StoreError> {
        let path = self.path(name)?;
        let (client, this, named) = (self.client.clone(), self.clone(), name.to_owned());
        let meta = self.one(storage, name, 0..0, move || {
            let (client, this) = (client.clone(), this.clone());
            let (path, named) = (path.clone(), named.clone());
            async move {
                let meta = client.head(&path).await;
                meta.map_err(|error| this.judge(&named, &error))
            }
        })?;
        Ok(Object {
            name: name.to_owned(),
            size: meta.size,
            etag: stamp(&meta),
        })
    }

    /// A whole object of at most `limit` bytes.
    pub(crate) fn read_all(
        &self,
        storage: &Storage,
        name: &str,
        limit: u64,
    ) -> Result<Bytes, StoreError> {
        let path = self.path(name)?;
        let (client, this, named) = (self.client.clone(), self.clone(), name.to_owned());
        let counters = storage.counters.clone();
        let bytes = self.one(storage, name, 0..limit, move || {
            let (client, this) = (client.clone(), this.clone());
            let (path, named, counters) = (path.clone(), named.clone(), counters.clone());
            async move {
                let passing = |error| this.judge(&named, &error);
                let answer = client.get(&path).await.map_err(passing)?;
                let size = answer.meta.size;
                if size > limit {
                    return Err(Trouble::Lasting(StoreError::TooLarge {
                        object: this.display(&named),
                        size,
                        limit,
                    }));
                }
                let bytes = answer.bytes().await.map_err(passing)?;
                counters.received(bytes.len() as u64);
                complete(bytes, size)
            }
        })?;
        Ok(storage.meter.wrap(bytes))
    }

    /// Some ranges of an object, which lie within it. Also returns the object as it is now, whose
    /// `etag` may not have been known.
    pub(crate) fn read(
        &self,
        storage: &Storage,
        object: &Object,
        ranges: &[Range<u64>],
    ) -> Result<(Vec<Bytes>, Option<Object>), StoreError> {
        let fetches = merge(ranges);
        let pieces: Vec<Range<u64>> = fetches.iter().flat_map(split).collect();
        let network = storage.network()?;
        let path = self.path(&object.name)?;
        let start = Instant::now();
        let tasks = pieces
            .iter()
            .map(|range| {
                let persistent = self.persistent(storage, network, &object.name, range, start);
                let (this, path, object) = (self.clone(), path.clone(), object.clone());
                let (counters, range) = (storage.counters.clone(), range.clone());
                persistent.run(move || {
                    let (this, path, object) = (this.clone(), path.clone(), object.clone());
                    let (counters, range) = (counters.clone(), range.clone());
                    async move {
                        let (bytes, now) = this.attempt(&path, &object, range.clone()).await?;
                        counters.received(bytes.len() as u64);
                        Ok((complete(bytes, range.end - range.start)?, now))
                    }
                })
            })
            .collect();
        let answers = network
            .run(tasks, self.options.deadline() + GRACE)
            .unwrap_or_else(|| Err(self.stuck(&object.name, start)))?;
        let now = answers.first().map(|(_, now)| now.clone());
        // Pieces may belong to different objects if there was no etag to compare with before.
        if let Some(now) = &now {
            for (_, other) in &answers {
                now.same_as(other, &self.display(&object.name))?;
            }
        }
        let mut answers = answers.into_iter().map(|(bytes, _)| bytes);
        let fetched: Vec<Bytes> = fetches
            .iter()
            .map(|fetch| {
                let mut parts: Vec<Bytes> = answers.by_ref().take(split(fetch).count()).collect();
                let whole = match parts.len() {
                    1 => parts.remove(0),
                    _ => Bytes::from(parts.concat()),
                };
                storage.meter.wrap(whole)
            })
            .collect();
        let bytes = ranges
            .iter()
            .map(|range| {
                let at = fetches.partition_point(|fetch| fetch.start <= range.start);
                let Some(at) = at.checked_sub(1) else {
                    return Bytes::new();
                };
                let from = (range.start - fetches[at].start) as usize;
                fetched[at].slice(from..from + (range.end - range.start) as usize)
            })
            .collect();
        Ok((bytes, now))
    }

    async fn attempt(
        &self,
        path: &Path,
        object: &Object,
        range: Range<u64>,
    ) -> Result<(Bytes, Object), Trouble> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let judge = |error| self.judge(&object.name, &error);
        let answer = self.client.get_opts(path, options).await.map_err(judge)?;
        let now = Object {
            name: object.name.clone(),
            size: answer.meta.size,
            etag: stamp(&answer.meta),
        };
        object
            .same_as(&now, &self.display(&object.name))
            .map_err(Trouble::Lasting)?;
        Ok((answer.bytes().await.map_err(judge)?, now))
    }

    /// Runs a single task.
    fn one<T, F, A>(
        &self,
        storage: &Storage,
        name: &str,
        range: Range<u64>,
        attempt: A,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Trouble>> + Send + 'static,
        A: FnMut() -> F + Send + 'static,
    {
        let network = storage.network()?;
        let start = Instant::now();
        let task = self
            .persistent(storage, network, name, &range, start)
            .run(attempt);
        let mut values = network
            .run(vec![task], self.options.deadline() + GRACE)
            .unwrap_or_else(|| Err(self.stuck(name, start)))?;
        Ok(values.remove(0))
    }

    fn persistent(
        &self,
        storage: &Storage,
        network: &Network,
        name: &str,
        range: &Range<u64>,
        start: Instant,
    ) -> Persistent {
        Persistent {
            object: self.display(name),
            from: range.start,
            to: range.end,
            options: self.options.clone(),
            counters: storage.counters.clone(),
            permits: network.permits(),
            start,
        }
    }

    fn stuck(&self, name: &str, start: Instant) -> StoreError {
        StoreError::Failed {
            object: self.display(name),
            from: 0,
            to: 0,
            attempts: 0,
            seconds: start.elapsed().as_secs_f64(),
            reason: "the thread that reads stores does not answer".into(),
        }
    }

    /// Whether an error may pass.
    fn judge(&self, name: &str, error: &object_store::Error) -> Trouble {
        use object_store::Error;
        let text = causes(error);
        let object = self.display(name);
        let reason = self.options.scrub(&text);
        let denied = |reason| {
            Trouble::Lasting(StoreError::Denied {
                object: object.clone(),
                reason,
                help: self.credentials(),
            })
        };
        let missing = |reason| {
            Trouble::Lasting(StoreError::NotFound {
                object: object.clone(),
                reason,
            })
        };
        match error {
            Error::NotFound { .. } => missing(reason),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => denied(reason),
            Error::Precondition { .. } => Trouble::Lasting(StoreError::Changed {
                object,
                what: reason,
            }),
            Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::InvalidPath { .. }
            | Error::UnknownConfigurationKey { .. } => {
                Trouble::Lasting(StoreError::Refused { object, reason })
            }
            // Without keys, the machine's own identity is asked for, at these addresses.
            _ if ["169.254.", "metadata.google"]
                .iter()
                .any(|host| text.contains(host)) =>
            {
                denied(format!(
                    "there are no credentials, and this machine has none of its own ({reason})"
                ))
            }
            _ if text.contains("redirect without LOCATION") => {
                Trouble::Lasting(StoreError::Refused { object, reason })
            }
            _ => match status(&text) {
                Some(401 | 403) => denied(reason),
                Some(404 | 410) => missing(reason),
                Some(416) => Trouble::Lasting(StoreError::Changed {
                    object,
                    what: format!("the bytes asked for are not there: {reason}"),
                }),
                Some(408 | 429) | None => Trouble::Passing(text),
                Some(400..=499 | 501) => Trouble::Lasting(StoreError::Refused { object, reason }),
                Some(_) => Trouble::Passing(text),
            },
        }
    }

    fn credentials(&self) -> String {
        let (variables, open) = match self.scheme.as_str() {
            "gs" => ("GOOGLE_APPLICATION_CREDENTIALS", true),
            "http" | "https" => return "the server needs a login, which is not supported; let it serve the data set without one".into(),
            "s3" | "s3a" => ("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION", true),
            _ => ("AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY", true),
        };
        let public = if open {
            ", or data.store.options.skip_signature = \"true\" if it is public"
        } else {
            ""
        };
        format!("set {variables} in the environment{public}")
    }
}

/// The client for a bucket or host.
fn build(
    scheme: &str,
    url: &str,
    options: &StoreOptions,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let failed = |error: object_store::Error| {
        StoreError::settings(
            format!("{url}: {}", options.scrub(&error.to_string())),
            "check the location and data.store.options",
        )
    };
    // Repeating is done here, where all reasons are treated alike and counted.
    let once = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    let timeout = options.timeout();
    let client = ClientOptions::new()
        // A bound behind our own, which says what has happened.
        .with_timeout(timeout * 2)
        .with_connect_timeout(timeout.min(Duration::from_secs(10)));
    let plain = |name: &str| {
        let endpoint = options.options.iter().find(|(key, value)| {
            key.to_ascii_lowercase().contains("endpoint") && value.starts_with("http://")
        });
        let allowed = options
            .options
            .keys()
            .any(|key| key.eq_ignore_ascii_case("allow_http"));
        match endpoint {
            Some((key, value)) if !allowed => Err(StoreError::settings(
                format!("{name}: the {key} {value} is not encrypted"),
                "set data.store.options.allow_http = \"true\" if that is meant",
            )),
            _ => Ok(()),
        }
    };
    macro_rules! cloud {
        ($builder:ty, $key:ty, $variables:expr) => {{
            plain(url)?;
            let mut builder = <$builder>::new()
                .with_url(url)
                .with_retry(once)
                .with_client_options(client);
            for (name, value) in &options.environment {
                let name = name.to_ascii_lowercase();
                // The environment also holds variables for other tools.
                if let (true, Ok(key)) = (name.starts_with($variables), <$key>::from_str(&name)) {
                    builder = builder.with_config(key, value);
                }
            }
            for (name, value) in &options.options {
                let key = <$key>::from_str(&name.to_ascii_lowercase()).map_err(|_| {
                    StoreError::settings(
                        format!("data.store.options.{name} is no setting of {scheme}://"),
                        "remove it, or name it as the store does, e.g. region or endpoint",
                    )
                })?;
                builder = builder.with_config(key, value);
            }
            Arc::new(builder.build().map_err(failed)?)
        }};
    }
    Ok(match scheme {
        "s3" | "s3a" => cloud!(
            object_store::aws::AmazonS3Builder,
            object_store::aws::AmazonS3ConfigKey,
            "aws_"
        ),
        "gs" => cloud!(
            object_store::gcp::GoogleCloudStorageBuilder,
            object_store::gcp::GoogleConfigKey,
            "google_"
        ),
        "http" | "https" => {
            let mut builder = object_store::http::HttpBuilder::new()
                .with_url(url)
                .with_retry(once)
                .with_client_options(client.with_allow_http(true));
            // What is meant for another store of the same run does not concern this one.
            for (name, value) in &options.options {
                if let Ok(key) = ClientConfigKey::from_str(&name.to_ascii_lowercase()) {
                    builder = builder.with_config(key, value);
                }
            }
            Arc::new(builder.build().map_err(failed)?)
        }
        _ => cloud!(
            object_store::azure::MicrosoftAzureBuilder,
            object_store::azure::AzureConfigKey,
            "azure_"
        ),
    })
}

/// An error's text, and that of the cause behind all others if it says more.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let last = cause.to_string();
    if !text.contains(&last) {
        text = format!("{text}: {last}");
    }
    text
}

fn complete(bytes: Bytes, wanted: u64) -> Result<Bytes, Trouble> {
    if bytes.len() as u64 == wanted {
        return Ok(bytes);
    }
    Err(Trouble::Passing(format!(
        "{} bytes came of {wanted}",
        bytes.len()
    )))
}

/// What tells one version of an object from another.
fn stamp(meta: &ObjectMeta) -> Option<String> {
    let time = meta.last_modified.timestamp_millis();
    // Lists and answers of some stores differ in how they write the same one.
    let bare = |tag: &String| tag.trim_start_matches("W/").trim_matches('"').to_owned();
    meta.e_tag
        .as_ref()
        .map(bare)
        .or_else(|| (time > 0).then(|| format!("of time {time}")))
}

fn hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.'))
}

fn join(prefix: &str, name: &str) -> String {
    match (prefix, name) {
        ("", name) => name.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, name) => format!("{prefix}/{name}"),
    }
}

/// The HTTP status that an error's text names.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// Ascending ranges that cover the given ones, near ones as one.
fn merge(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges
        .iter()
        .filter(|range| !range.is_empty())
        .cloned()
        .collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            // An overlap is always joined, so that each range lies within one.
            Some(last)
                if range.start < last.end
                    || (range.start <= last.end + NEAR && range.end - last.start <= REQUEST) =>
            {
                last.end = last.end.max(range.end);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// The requests for a range.
fn split(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let (mut at, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        let start = at;
        at = end.min(start + REQUEST);
        (start < end).then_some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_fetched_together_and_large_ones_in_parts() {
        let merged = merge(&[20..30, 0..10, 500_000..500_001, 5..8, 7..7]);
        assert_eq!(merged, [0..30, 500_000..500_001]);
        let big = 0..3 * REQUEST + 1;
        let parts: Vec<_> = split(&big).collect();
        assert_eq!(parts.len(), 4);
        assert_eq!(parts[3], 3 * REQUEST..3 * REQUEST + 1);
        let pages: Vec<_> = (0..40).map(|i| i << 20..(i + 1) << 20).collect();
        let merged = merge(&pages);
        assert_eq!(merged.len(), 5);
        assert!(
            merged
                .iter()
                .all(|range| range.end - range.start == REQUEST)
        );
        // An overlap is not cut, however large it is.
        let merged = merge(&[0..REQUEST, 5..2 * REQUEST, 0..1]);
        assert_eq!((merged.len(), merged[0].end), (1, 2 * REQUEST));
    }

    #[test]
    fn a_status_is_found_in_a_text() {
        let text = "Server returned non-2xx status code: 503 Service Unavailable: <x/>";
        assert_eq!(status(text), Some(503));
        assert_eq!(status("connection reset"), None);
    }
}
