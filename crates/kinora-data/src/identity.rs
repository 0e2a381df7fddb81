//! The identity of a data set: all that decides which samples a step takes, so that a run goes on
//! with nothing else, and can say what has changed.

use std::collections::BTreeMap;

use kinora_mesh::rng::fnv1a;
use serde::{Deserialize, Serialize};

use crate::{Catalog, Columns};

/// What decides the order of samples, and the shards it runs over. Files are told apart by name, rows
/// and stored bytes; what is in them is not read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Buckets, samples and settings, a line each.
    pub order: Vec<String>,
    /// Of each shard, by its data set and name: its row groups.
    pub shards: BTreeMap<String, Shard>,
}

/// A shard of an [`Identity`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    /// Rows.
    pub rows: u64,
    /// Bytes of all media, as stored.
    pub bytes: u64,
    /// A hash over the rows and bytes of each row group.
    pub groups: String,
}

/// Changes that are named; the others are counted.
const NAMED: usize = 8;

impl Identity {
    /// It in a line: equal for equal identities only.
    pub fn fingerprint(&self) -> String {
        let shards: Vec<String> = self
            .shards
            .iter()
            .map(|(name, shard)| format!("{name} {} {} {}", shard.rows, shard.bytes, shard.groups))
            .collect();
        let files = fnv1a(shards.join("\n").as_bytes());
        format!("{}; files {files:016x}", self.order.join("; "))
    }

    /// What another one has that differs, in words.
    pub fn changes(&self, other: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let (was, is) = (&self.order, &other.order);
        for line in was.iter().filter(|line| !is.contains(line)) {
            changes.push(format!("it was {line}"));
        }
        for line in is.iter().filter(|line| !was.contains(line)) {
            changes.push(format!("it is {line}"));
        }
        for (name, shard) in &self.shards {
            match other.shards.get(name) {
                None => changes.push(format!("{name} is gone")),
                Some(now) if now.rows != shard.rows => {
                    changes.push(format!(
                        "{name} had {} rows and has {}",
                        shard.rows, now.rows
                    ));
                }
                Some(now) if now.bytes != shard.bytes => changes.push(format!(
                    "{name} had {} bytes of media and has {}",
                    shard.bytes, now.bytes
                )),
                Some(now) if now != shard => {
                    changes.push(format!("{name} has other row groups"));
                }
                Some(_) => {}
            }
        }
        let new = other
            .shards
            .keys()
            .filter(|name| !self.shards.contains_key(*name));
        changes.extend(new.map(|name| format!("{name} is new")));
        if changes.len() > NAMED {
            let more = changes.len() - NAMED;
            changes.truncate(NAMED);
            changes.push(format!("and {more} more changes"));
        }
        changes
    }
}

impl Catalog {
    /// What decides the order of its samples.
    pub fn identity(&self) -> Identity {
        let config = self.config();
        let mut order: Vec<String> = config
            .buckets
            .iter()
            .zip(self.samples())
            .map(|(bucket, samples)| {
                format!("{samples} of {bucket} in batches of {}", bucket.batch)
            })
            .collect();
        order.push(match config.image_ratio {
            Some(ratio) => format!("image ratio {ratio}"),
            None => "image ratio their share".into(),
        });
        order.push(format!("seed {}", config.seed));
        order.push(format!("start {:?}, crop {:?}", config.start, config.crop));
        let read = [("latents", config.latents), ("audio", config.audio)];
        let read = read.iter().filter(|(_, on)| *on);
        order.extend(read.map(|(name, _)| format!("data.{name} read")));
        for set in &self.sets {
            let Columns { media, caption, .. } = config.columns_of(set);
            order.push(format!("columns {media} and {caption}"));
        }
        order.dedup();
        if self.sets.len() > 1 {
            order.extend(self.sets.iter().map(|set| match set.weight {
                Some(weight) => format!("data set {:?} of weight {weight}", set.name),
                None => format!("data set {:?} by its samples", set.name),
            }));
        }
        let mut shards = BTreeMap::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let groups = self.groups.iter().filter(|group| group.shard == number);
            let sizes: Vec<String> = groups
                .clone()
                .map(|group| format!("{}/{}", group.assigned.len(), group.bytes))
                .collect();
            let entry = Shard {
                rows: groups
                    .clone()
                    .map(|group| group.assigned.len() as u64)
                    .sum(),
                bytes: groups.clone().map(|group| group.bytes).sum(),
                groups: format!("{:016x}", fnv1a(sizes.join("\n").as_bytes())),
            };
            let set = groups.clone().next().map_or(0, |group| group.set);
            let name = if self.sets.len() > 1 {
                format!("{}: {}", self.sets[set].name, shard.name)
            } else {
                shard.name.to_string()
            };
            // Two folders may hold files of one name.
            let mut unique = name.clone();
            let mut copy = 1;
            while shards.contains_key(&unique) {
                copy += 1;
                unique = format!("{name} ({copy})");
            }
            shards.insert(unique, entry);
        }
        Identity { order, shards }
    }

    /// [`Identity::fingerprint`] of its own.
    pub fn fingerprint(&self) -> String {
        self.identity().fingerprint()
    }
}
