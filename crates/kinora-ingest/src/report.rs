//! What came of it: for people as a table, and for programs as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Histogram, Histograms, Rule};

/// What was read, kept and dropped. Depends on sources and settings alone, not on threads or time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The sources.
    pub sources: Vec<SourceReport>,
    /// Items read.
    pub items: u64,
    /// Bytes of their media.
    pub bytes: u64,
    /// Items that are videos.
    pub clips: u64,
    /// Scenes of each of them.
    pub scenes: Histogram,
    /// Rows written.
    pub kept: u64,
    /// Rows that are images.
    pub images: u64,
    /// Rows with sound.
    pub sounds: u64,
    /// Milliseconds of all rows that are videos.
    pub milliseconds: u64,
    /// Bytes of their media and sounds, as far as they are in the rows.
    pub kept_bytes: u64,
    /// What was dropped, by rule. An item that is dropped whole counts once, otherwise each scene.
    pub dropped: BTreeMap<Rule, Dropped>,
    /// Of the rows.
    pub rows: Histograms,
}

/// What a source holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReport {
    /// Its path.
    pub path: String,
    /// Its kind.
    pub kind: crate::SourceKind,
    /// Its items.
    pub items: u64,
    /// What lies about and belongs to no item.
    pub ignored: Vec<String>,
}

/// What a rule dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// How many.
    pub count: u64,
    /// The first few, with reasons.
    pub examples: Vec<String>,
}

const EXAMPLES: usize = 5;

impl Report {
    pub(crate) fn new(sources: Vec<SourceReport>) -> Self {
        Self {
            sources,
            items: 0,
            bytes: 0,
            clips: 0,
            scenes: Histogram::new(&[1.0, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 65.0]),
            kept: 0,
            images: 0,
            sounds: 0,
            milliseconds: 0,
            kept_bytes: 0,
            dropped: BTreeMap::new(),
            rows: Histograms::default(),
        }
    }

    pub(crate) fn drop(&mut self, rule: Rule, key: &str, reason: &str) {
        let dropped = self.dropped.entry(rule).or_default();
        dropped.count += 1;
        if dropped.examples.len() < EXAMPLES {
            let line = reason.lines().next().unwrap_or_default();
            dropped.examples.push(if line.contains(key) {
                line.to_owned()
            } else {
                format!("{key}: {line}")
            });
        }
    }

    /// How many were dropped.
    pub fn dropped_count(&self) -> u64 {
        self.dropped.values().map(|dropped| dropped.count).sum()
    }

    /// How many a rule dropped.
    pub fn dropped_by(&self, rule: Rule) -> u64 {
        self.dropped.get(&rule).map_or(0, |dropped| dropped.count)
    }

    /// A table for people.
    pub fn lines(&self) -> Vec<String> {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let mut lines: Vec<String> = Vec::new();
        for source in &self.sources {
            lines.push(format!(
                "{} ({}): {} items",
                source.path,
                source.kind.name(),
                source.items
            ));
            lines.extend(
                source
                    .ignored
                    .iter()
                    .map(|line| format!("  ignored: {line}")),
            );
        }
        lines.push(format!("{:>9}  read, {:.1} MB", self.items, mb(self.bytes)));
        lines.push(format!(
            "{:>9}  kept: {} images, {} videos of {:.1} s, {} with sound, {:.1} MB",
            self.kept,
            self.images,
            self.kept - self.images,
            self.milliseconds as f64 / 1e3,
            self.sounds,
            mb(self.kept_bytes)
        ));
        lines.push(format!("{:>9}  dropped", self.dropped_count()));
        for (rule, dropped) in &self.dropped {
            lines.push(format!("{:>11}  {}", dropped.count, rule.words()));
            lines.extend(
                dropped
                    .examples
                    .iter()
                    .map(|line| format!("             {line}")),
            );
        }
        if self.clips > 0 {
            lines.push(format!("scenes of {} clips:", self.clips));
            lines.extend(self.scenes.lines());
        }
        lines.extend(self.rows.lines());
        lines
    }
}
