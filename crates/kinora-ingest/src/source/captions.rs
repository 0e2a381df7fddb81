//! Captions: from texts, JSON objects and cells of tables.

use kinora_data::Caption;
use serde_json::{Map, Value};

use super::{Taken, Words};
use crate::config::ColumnNames;

/// An item's captions and what else is known of it; none is no error.
///
/// JSON comes first; a text counts where JSON has no caption.
pub(crate) fn words(
    words: Words,
    names: &ColumnNames,
) -> Result<(Vec<Caption>, Map<String, Value>), String> {
    let Words {
        ready: mut captions,
        text,
        json,
        mut meta,
    } = words;
    if let Some(json) = json {
        let text = json.text("the JSON beside it")?;
        let value: Value = serde_json::from_str(text.trim_start_matches(BOM))
            .map_err(|error| format!("the JSON beside it: {error}"))?;
        let Value::Object(mut object) = value else {
            return Err("the JSON beside it is no object with a caption".into());
        };
        let taken = Taken::of(names, |name| object.contains_key(name));
        let (caption, several) = (taken.caption, taken.captions);
        captions.extend(take(&mut object, caption, several)?);
        meta.extend(object);
    }
    if captions.is_empty()
        && let Some(text) = text
    {
        captions.extend(one(&text.text("the caption beside it")?));
    }
    Ok((captions, meta))
}

/// Takes the captions out of a record: several if there are, else the one.
pub(crate) fn take(
    record: &mut Map<String, Value>,
    caption: Option<&str>,
    several: Option<&str>,
) -> Result<Vec<Caption>, String> {
    let single = caption.and_then(|name| record.remove(name));
    if let Some(list) = several.and_then(|name| record.remove(name)) {
        let captions = weighted(&list)?;
        if !captions.is_empty() {
            return Ok(captions);
        }
    }
    match single {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(one(&text).into_iter().collect()),
        // A list under the name of the one caption is a list of captions.
        Some(list @ Value::Array(_)) => weighted(&list),
        Some(other) => Err(format!("the caption is {other}, which is no text")),
    }
}

/// A caption of weight 1, unless it is blank.
pub(crate) fn one(text: &str) -> Option<Caption> {
    let text = text.trim_start_matches(BOM).trim();
    (!text.is_empty()).then(|| Caption {
        text: text.to_owned(),
        weight: 1.0,
    })
}

/// A list of texts, or of objects with `text` (or `caption`) and `weight`.
fn weighted(list: &Value) -> Result<Vec<Caption>, String> {
    let entries = match list {
        Value::Null => return Ok(Vec::new()),
        Value::String(text) => return Ok(one(text).into_iter().collect()),
        Value::Array(entries) => entries,
        other => return Err(format!("the captions are {other}, which is no list")),
    };
    let mut captions = Vec::with_capacity(entries.len());
    for entry in entries {
        let (text, weight) = match entry {
            Value::Null => continue,
            Value::String(text) => (Some(text.as_str()), 1.0),
            Value::Object(fields) => {
                let text = fields.get("text").or_else(|| fields.get("caption"));
                let weight = match fields.get("weight") {
                    None | Some(Value::Null) => Some(1.0),
                    Some(weight) => weight.as_f64(),
                };
                (text.and_then(Value::as_str), weight.unwrap_or(f64::NAN))
            }
            _ => (None, 1.0),
        };
        let Some(text) = text else {
            return Err(format!(
                "a caption is {entry}, which is no text and no {{\"text\", \"weight\"}}"
            ));
        };
        if !(weight > 0.0 && weight <= 1e6) {
            return Err(format!(
                "a caption's weight is {weight}; weights are above 0, up to a million"
            ));
        }
        captions.extend(one(text).map(|caption| Caption {
            weight: weight as f32,
            ..caption
        }));
    }
    Ok(captions)
}

const BOM: char = '\u{feff}';

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hold::Hold;

    fn of(text: &str, json: &str) -> Result<Vec<(String, f32)>, String> {
        let hold = |text: &str| (!text.is_empty()).then(|| Hold::Bytes(text.as_bytes().to_vec()));
        let (captions, _) = words(
            Words {
                text: hold(text),
                json: hold(json),
                ..Words::default()
            },
            &ColumnNames::default(),
        )?;
        Ok(captions.into_iter().map(|c| (c.text, c.weight)).collect())
    }

    #[test]
    fn captions_come_in_several_forms() {
        let one = |text: &str| vec![(text.to_owned(), 1.0)];
        assert_eq!(of("", "").unwrap(), []);
        assert_eq!(of(" \n", "").unwrap(), []);
        assert_eq!(of("\u{feff}a cat \n", "").unwrap(), one("a cat"));
        assert_eq!(of("text", r#"{"caption": "json"}"#).unwrap(), one("json"));
        assert_eq!(of("text", r#"{"other": 3}"#).unwrap(), one("text"));
        let several = r#"{"captions": ["a", {"text": "b", "weight": 2}], "caption": "c"}"#;
        assert_eq!(
            of("", several).unwrap(),
            [("a".into(), 1.0), ("b".into(), 2.0)]
        );
    }

    #[test]
    fn broken_captions_are_named() {
        for (json, named) in [
            ("{", "EOF"),
            ("[1]", "no object"),
            (r#"{"caption": 3}"#, "no text"),
            (
                r#"{"captions": [{"text": "a", "weight": -1}]}"#,
                "weight is -1",
            ),
            (
                r#"{"captions": [{"text": "a", "weight": "x"}]}"#,
                "weight is NaN",
            ),
            (r#"{"captions": [7]}"#, "a caption is 7"),
        ] {
            let error = of("", json).unwrap_err();
            assert!(error.contains(named), "{json}: {error}");
        }
        let bad = Words {
            text: Some(Hold::Bytes(vec![0xff, 0xfe])),
            ..Words::default()
        };
        assert!(
            words(bad, &ColumnNames::default())
                .unwrap_err()
                .contains("UTF-8")
        );
    }
}
