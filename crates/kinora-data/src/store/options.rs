//! How stores are reached: the `[data.store]` table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::DataError;

/// How object stores and servers are read. Nothing of it changes a batch.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreOptions {
    /// Requests under way at once, over all threads of a loader.
    pub requests: usize,
    /// Seconds that one request may take, its body included.
    pub timeout_s: f64,
    /// How often a request is repeated that failed for a reason that may pass: a server's error (5xx),
    /// too many requests (429), a lost connection, a timeout, or fewer bytes than asked for.
    pub retries: u32,
    /// Seconds that a whole read may take, with all its requests and repetitions.
    pub deadline_s: f64,
    /// The largest file that is fetched for a row that names its media by `uri`, in MB.
    pub media_mb: usize,
    /// Settings of the store by its own names, e.g. `endpoint`, `region`, `allow_http = "true"`,
    /// `skip_signature = "true"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Variables of the environment that hold credentials (`AWS_*`, `GOOGLE_*`, `AZURE_*`). The
    /// program fills them in; they are never written or shown.
    #[serde(skip)]
    pub environment: Vec<(String, String)>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            requests: 16,
            timeout_s: 30.0,
            retries: 5,
            deadline_s: 300.0,
            media_mb: 1024,
            options: BTreeMap::new(),
            environment: Vec::new(),
        }
    }
}

// Values may be secrets, so only names are shown.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<_> = self.environment.iter().map(|(name, _)| name).collect();
        f.debug_struct("StoreOptions")
            .field("requests", &self.requests)
            .field("timeout_s", &self.timeout_s)
            .field("retries", &self.retries)
            .field("deadline_s", &self.deadline_s)
            .field("media_mb", &self.media_mb)
            .field("options", &self.options.keys().collect::<Vec<_>>())
            .field("environment", &variables)
            .finish()
    }
}

impl StoreOptions {
    /// Checks the numbers.
    ///
    /// # Errors
    /// `Config`, saying what to change.
    pub fn validate(&self) -> Result<(), DataError> {
        if self.requests == 0 || self.requests > 1024 {
            return Err(DataError::config(
                format!("data.store.requests is {}", self.requests),
                "give 1 to 1024 requests at once",
            ));
        }
        let secret = |name: &&String| {
            let name = name.to_ascii_lowercase();
            let marks = [
                "secret",
                "password",
                "token",
                "account_key",
                "access_key",
                "private",
                "sas",
            ];
            marks.iter().any(|mark| name.contains(mark))
        };
        if let Some(name) = self.options.keys().find(secret) {
            return Err(DataError::config(
                format!("data.store.options.{name} would be written into the run's folder"),
                "give secrets in the environment: AWS_*, GOOGLE_*, AZURE_*",
            ));
        }
        for (name, seconds) in [
            ("timeout_s", self.timeout_s),
            ("deadline_s", self.deadline_s),
        ] {
            if !(0.01..=86_400.0).contains(&seconds) {
                return Err(DataError::config(
                    format!("data.store.{name} is {seconds}"),
                    "give 0.01 s to a day",
                ));
            }
        }
        if self.retries > 100 || self.media_mb == 0 {
            return Err(DataError::config(
                format!(
                    "data.store.retries is {}, data.store.media_mb is {}",
                    self.retries, self.media_mb
                ),
                "repeat a request 100 times at most, and allow media of 1 MB or more",
            ));
        }
        Ok(())
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_s)
    }

    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_secs_f64(self.deadline_s)
    }

    /// A text without the secrets that a server may have repeated in it, in one line and not long.
    pub(crate) fn scrub(&self, text: &str) -> String {
        let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let secret = |name: &str| {
            let name = name.to_ascii_lowercase();
            ["key", "secret", "token", "sas", "password", "credential"]
                .iter()
                .any(|part| name.contains(part))
        };
        let given = self.environment.iter().map(|(name, value)| (name, value));
        for (name, value) in given.chain(&self.options) {
            if value.len() >= 4 && secret(name) {
                text = text.replace(value.as_str(), "***");
            }
        }
        if text.chars().count() > LONGEST {
            text = text.chars().take(LONGEST).chain("...".chars()).collect();
        }
        text
    }
}

const LONGEST: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_neither_shown_nor_written() {
        let options = StoreOptions {
            environment: vec![("AWS_SECRET_ACCESS_KEY".into(), "hush-hush".into())],
            options: BTreeMap::from([("account_key".into(), "quiet-quiet".into())]),
            ..StoreOptions::default()
        };
        let shown = format!("{options:?}");
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && shown.contains("account_key"));
        assert!(
            !shown.contains("hush") && !shown.contains("quiet"),
            "{shown}"
        );
        let text = options.scrub("403:\n  <Key>hush-hush</Key> quiet-quiet ");
        assert_eq!(text, "403: <Key>***</Key> ***");
        let written = serde_json::to_string(&options).unwrap();
        assert!(!written.contains("hush"), "{written}");
    }

    #[test]
    fn unknown_settings_and_wild_numbers_are_refused() {
        assert!(serde_json::from_str::<StoreOptions>(r#"{"requets": 3}"#).is_err());
        assert!(serde_json::from_str::<StoreOptions>(r#"{"environment": []}"#).is_err());
        let read = |text| {
            serde_json::from_str::<StoreOptions>(text)
                .unwrap()
                .validate()
        };
        assert!(read("{}").is_ok());
        for (text, named) in [
            (r#"{"requests": 0}"#, "requests is 0"),
            (r#"{"timeout_s": 0}"#, "timeout_s is 0"),
            (r#"{"deadline_s": 1e9}"#, "deadline_s is 1000000000"),
            (r#"{"retries": 1000}"#, "retries is 1000"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
