//! Frozen text encoders with their tokenizers: opened, run on every rank, and gone.

use crate::config::{EncoderKind, EncoderSection};
use crate::failure::{Failure, OrInput, Outcome};
use burn::tensor::Device;
use kinora_ckpt::{CkptError, Layout, Weights, which};
use kinora_models::PromptEncoder;
use kinora_models::movie_gen::TextTokens;
use kinora_models::text::t5::{T5, T5Config, keys};
use kinora_models::text::{TextEncoder, TokenBatch};
use kinora_shard::{Cx, Precision, Sharding, Source, load};
use kinora_tokens::{Clean, Length, Tokenizer, Tokens};
use kinora_train::BuildEncoder;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What makes the encoders, before any rank has them.
#[derive(Clone)]
pub(crate) struct Encoders {
    all: Vec<Arc<One>>,
    precision: Precision,
}

struct One {
    config: T5Config,
    weights: PathBuf,
    tokenizer: Tokenizer,
    tokens: usize,
}

impl Encoders {
    /// Opens the tokenizers, and looks whether the model reads embeddings of these widths.
    pub(crate) fn open(
        sections: &[EncoderSection],
        widths: &[usize],
        precision: Precision,
    ) -> Outcome<Option<Self>> {
        if sections.is_empty() {
            return Ok(None);
        }
        let mut all = vec![];
        for (section, &width) in sections.iter().zip(widths) {
            let config = section.sizes()?;
            if config.width != width {
                return Err(Failure::input(format!(
                    "{} makes embeddings of width {}, but the model reads {width}\n  help: give the encoder that the model was trained with",
                    section.weights.display(),
                    config.width
                )));
            }
            let tokenizer = match (&section.tokenizer, section.kind) {
                (Some(path), EncoderKind::Umt5) => {
                    // As Wan cleans prompts before it reads them.
                    Tokenizer::open(path)
                        .or_input()?
                        .cleaning(Clean::Whitespace)
                }
                (Some(path), _) => Tokenizer::open(path).or_input()?,
                (None, _) => Tokenizer::byt5(),
            };
            all.push(Arc::new(One {
                config,
                weights: section.weights.clone(),
                tokenizer,
                tokens: section.tokens,
            }));
        }
        // Frozen weights are kept as they are computed with.
        let precision = Precision::from(precision.computed);
        Ok(Some(Self { all, precision }))
    }

    /// What a rank makes them with.
    pub(crate) fn build(self) -> BuildEncoder {
        Arc::new(move |sharding: &Arc<Sharding>, device: &Device| {
            let made: Result<Vec<_>, CkptError> = self
                .all
                .iter()
                .enumerate()
                .map(|(i, one)| {
                    let cx = Cx::new(device, self.precision, 0, sharding);
                    let cx = cx.at(format!("encoder{i}"));
                    let open =
                        |params: &[(String, Vec<usize>)]| source(&one.weights, &one.config, params);
                    let model = load(&cx, open, |cx| T5::new(cx, &one.config))?;
                    Ok((one.clone(), model))
                })
                .collect();
            Ok(Arc::new(Made {
                all: made?,
                device: device.clone(),
            }) as Arc<dyn PromptEncoder>)
        })
    }
}

fn source(
    path: &Path,
    config: &T5Config,
    params: &[(String, Vec<usize>)],
) -> Result<Source, CkptError> {
    let weights = Weights::open(path)?.without(|name| keys::hugging_face_unused(config, name));
    let hugging_face = |path: &str, shape: &[usize]| keys::hugging_face(config, path, shape);
    let wan = |path: &str, shape: &[usize]| keys::wan(config, path, shape);
    let layouts: [(&str, Layout<'_>); 2] = [("Hugging Face", &hugging_face), ("Wan", &wan)];
    let (_, renamed) = which(weights, params, &layouts)?;
    Ok(Arc::new(renamed))
}

/// The encoders on a rank.
struct Made {
    all: Vec<(Arc<One>, T5)>,
    device: Device,
}

impl PromptEncoder for Made {
    fn encode(&self, prompts: &[String]) -> Vec<TextTokens> {
        let of = |(one, model): &(Arc<One>, T5)| {
            let tokens = one.tokens(prompts);
            model.encode(&TokenBatch::new(&tokens.ids, &tokens.mask, &self.device))
        };
        self.all.iter().map(of).collect()
    }
}

impl One {
    fn tokens(&self, prompts: &[String]) -> Tokens {
        let tokens = self.tokenizer.encode(prompts, Length::AtMost(self.tokens));
        // A prompt that the vocabulary cannot spell is read as the empty one: one caption of a billion
        // must not stop a run.
        tokens.unwrap_or_else(|_| {
            let each = prompts.iter().map(|prompt| {
                let one = self
                    .tokenizer
                    .encode(&[prompt], Length::AtMost(self.tokens));
                if one.is_ok() { prompt.as_str() } else { "" }
            });
            let spelled: Vec<&str> = each.collect();
            let tokens = self.tokenizer.encode(&spelled, Length::AtMost(self.tokens));
            tokens.expect("an empty prompt can be spelled")
        })
    }
}
