//! The schema of the shards that Kinora writes: one row a sample. `datasets/README.md` says the same
//! for people.
//!
//! Reading asks for less: a media column and a caption column, under any name.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema};

/// The version of the schema, which each file's metadata names under [`VERSION_KEY`]. It grows when a
/// column changes its meaning; a new column that may be absent leaves it as it is.
pub const VERSION: u32 = 1;
/// Where a file's metadata holds the schema's version.
pub const VERSION_KEY: &str = "kinora.schema";
/// Where a file's metadata names the autoencoder that made its latents, by hash.
pub const LATENTS_KEY: &str = "kinora.latents";
/// Where a file's metadata names the text encoder that made its embeddings, by hash.
pub const TEXT_KEY: &str = "kinora.text";

/// Which of the optional groups of columns a data set holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoders {
    /// Hash of the autoencoder that made `latents`; without one, there is no such column.
    pub latents: Option<String>,
    /// Hash of the text encoder that made `text`; without one, there is no such column.
    pub text: Option<String>,
}

/// The fields of an entry of `captions`.
pub(crate) fn caption_fields() -> Fields {
    Fields::from(vec![
        Field::new("text", DataType::Utf8, false),
        Field::new("weight", DataType::Float32, false),
    ])
}

/// The field of an entry of a shape.
pub(crate) fn shape_item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Int32, false))
}

/// The entry of `captions`.
pub(crate) fn caption_item() -> Arc<Field> {
    Arc::new(Field::new(
        "item",
        DataType::Struct(caption_fields()),
        false,
    ))
}

/// The columns of a shard.
pub(crate) fn schema(encoders: &Encoders) -> Schema {
    use DataType::{Binary, Float64, Int32, List, UInt64, Utf8};
    let needed = |name: &str, kind| Field::new(name, kind, false);
    let optional = |name: &str, kind| Field::new(name, kind, true);
    let mut fields = vec![
        needed("key", Utf8),
        optional("media", Binary),
        optional("uri", Utf8),
        needed("kind", Utf8),
        needed("caption", Utf8),
        optional("captions", List(caption_item())),
        needed("frames", Int32),
        needed("height", Int32),
        needed("width", Int32),
        needed("fps", Float64),
        needed("start", Float64),
        needed("duration", Float64),
        optional("audio", Binary),
        optional("audio_rate", Int32),
        optional("audio_channels", Int32),
        optional("hash", UInt64),
        optional("meta", Utf8),
    ];
    for (name, encoder) in [("latents", &encoders.latents), ("text", &encoders.text)] {
        if encoder.is_some() {
            fields.push(optional(name, Binary));
            fields.push(optional(&format!("{name}_shape"), List(shape_item())));
        }
    }
    Schema::new(fields)
}

/// The columns that hold whole files or tensors: large, compressed already or not compressible.
pub(crate) const BLOBS: [&str; 2] = ["media", "audio"];
