//! Reading a configuration, with changes from the command line.

use super::RunConfig;
use crate::failure::{Failure, Outcome};
use std::path::Path;
use toml::{Table, Value};

/// The name of a run's own configuration in its folder.
pub(crate) const RUN_FILE: &str = "run.toml";

/// Reads a file and applies changes of the form `key.path=value`.
pub(crate) fn read(path: &Path, set: &[String]) -> Outcome<RunConfig> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::input(format!("{name} cannot be read: {error}\n  help: give the path of a configuration, e.g. configs/quickstart.toml"))
    })?;
    // Read as it stands first, so that mistakes in the file are shown with their line.
    let config: RunConfig =
        toml::from_str(&text).map_err(|error| Failure::input(format!("{name}: {error}")))?;
    let mut config = if set.is_empty() {
        config
    } else {
        change(&text, set)?
    };
    // Whoever takes cp away with --set has no way to take this key away too.
    if config.mesh.cp == 1 && set.iter().any(|change| change.starts_with("mesh.cp")) {
        config.plan.attention = None;
    }
    config.resolve()?;
    config.check()?;
    if let Some(data) = &mut config.data {
        data.store.environment = credentials();
    }
    Ok(config)
}

/// The variables that object stores take credentials from.
fn credentials() -> Vec<(String, String)> {
    let stores = ["AWS_", "GOOGLE_", "AZURE_"];
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| stores.iter().any(|store| name.starts_with(store)))
        .collect()
}

/// Reads the configuration that a run's folder holds.
pub(crate) fn read_run(run: &Path, set: &[String]) -> Outcome<RunConfig> {
    let path = run.join(RUN_FILE);
    if !path.is_file() {
        return Err(Failure::input(format!(
            "{} is not the folder of a run: it holds no {RUN_FILE}\n  help: give the folder that `kinora train` wrote, run.out in its configuration",
            run.display()
        )));
    }
    read(&path, set)
}

fn change(text: &str, set: &[String]) -> Outcome<RunConfig> {
    let mut table: Table = toml::from_str(text).expect("the text was parsed before");
    for change in set {
        if change.contains(['\n', '\r']) {
            return Err(Failure::input(format!(
                "--set {change:?} holds a line break\n  help: give each setting its own --set"
            )));
        }
        let Some((key, value)) = change.split_once('=') else {
            return Err(Failure::input(format!(
                "--set {change} has no value\n  help: write --set key.path=value, e.g. --set train.steps=200"
            )));
        };
        put(&mut table, key.trim(), parse(value.trim()))?;
    }
    Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| {
            Failure::input(format!(
                "--set {}: {}",
                set.join(" --set "),
                error.to_string().trim_end()
            ))
        })
}

/// A value as TOML has it; what is no TOML is a string, so that quotes are not needed.
fn parse(value: &str) -> Value {
    match toml::from_str::<Table>(&format!("value = {value}")) {
        Ok(mut table) => table.remove("value").expect("the key was just written"),
        Err(_) => Value::String(value.to_string()),
    }
}

fn put(table: &mut Table, key: &str, value: Value) -> Outcome {
    let parts: Vec<&str> = key.split('.').collect();
    let (last, path) = parts
        .split_last()
        .expect("splitting gives at least one part");
    let mut at = table;
    for part in path {
        let next = at
            .entry(*part)
            .or_insert_with(|| Value::Table(Table::new()));
        at = next.as_table_mut().ok_or_else(|| {
            Failure::input(format!("--set {key}: {part} is a value, not a table\n  help: `{part}` has no keys of its own"))
        })?;
    }
    // A whole number is a float where the setting is one: 3 for 3.0.
    let value = match (at.get(*last), value) {
        (Some(Value::Float(_)), Value::Integer(whole)) => Value::Float(whole as f64),
        (_, value) => value,
    };
    at.insert((*last).to_string(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quickstart() -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/quickstart.toml");
        std::fs::read_to_string(path).expect("the quickstart's configuration is there")
    }

    #[test]
    fn changes_are_typed_and_checked() {
        let set = |changes: &[&str]| {
            let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
            change(&quickstart(), &changes)
        };
        let config = set(&[
            "train.steps=7",
            "run.out=/tmp/a b",
            "plan.seq=[]",
            "sample.guidance=2",
        ]);
        let config = config.unwrap();
        assert_eq!(config.train.unwrap().steps, 7);
        assert_eq!(config.run.out, Path::new("/tmp/a b"));
        assert!(config.plan.seq.is_empty());
        assert_eq!(config.sample.unwrap().guidance, 2.0);
        for (wrong, expected) in [
            ("train.stepz=7", "unknown field `stepz`"),
            ("train.steps=many", "invalid type"),
            ("train.steps.x=1", "steps is a value"),
            ("train", "has no value"),
        ] {
            let text = set(&[wrong]).unwrap_err().to_string();
            assert!(text.contains(expected), "{wrong}: {text}");
        }
    }
}
