//! What a worker does with an item: reads it, looks at it, cuts it and holds it against the rules.
//! Nothing here depends on any other item.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinora_data::{Caption, Storage, StoreOptions};
use kinora_media::{Info, Kind, audio_info, cut, probe};
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::analysis::{self, Part};
use crate::config::MB;
use crate::hold::Hold;
use crate::source::{Item, is_url, words};
use crate::{IngestConfig, MediaPlace, Rule, sound};

/// An item that was worked on.
pub(crate) struct Worked {
    pub(crate) key: String,
    /// Bytes of its media.
    pub(crate) bytes: u64,
    /// XXH3 of its media, if they could be read.
    pub(crate) hash: Option<u64>,
    /// Its scenes, if it is a video that could be decoded.
    pub(crate) scenes: Option<usize>,
    pub(crate) outcome: Result<Vec<Piece>, Refusal>,
}

/// Why something is left out.
pub(crate) struct Refusal {
    pub(crate) rule: Rule,
    pub(crate) reason: String,
}

impl Refusal {
    fn new(rule: Rule, reason: impl Into<String>) -> Self {
        Self {
            rule,
            reason: reason.into(),
        }
    }

    fn broken(reason: impl ToString) -> Self {
        Self::new(Rule::Broken, reason.to_string())
    }
}

/// An item, or a scene of one.
pub(crate) struct Piece {
    pub(crate) key: String,
    pub(crate) made: Result<Draft, Refusal>,
}

/// A row to be.
pub(crate) struct Draft {
    pub(crate) media: Stored,
    pub(crate) captions: Vec<Caption>,
    pub(crate) frames: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) fps: f64,
    pub(crate) start: f64,
    pub(crate) duration: f64,
    pub(crate) audio: Option<Vec<u8>>,
    pub(crate) sound: Option<(u32, u16)>,
    pub(crate) meta: String,
    /// Its perceptual hash.
    pub(crate) picture: u64,
}

pub(crate) enum Stored {
    Bytes(Vec<u8>),
    Uri(String, u64),
}

/// Works on items.
pub(crate) struct Worker {
    config: IngestConfig,
    /// The output folder, without links.
    out: PathBuf,
    /// Where media at URLs are fetched.
    storage: Arc<Storage>,
}

impl Worker {
    pub(crate) fn new(config: IngestConfig, out: &Path, mut store: StoreOptions) -> Self {
        store.media_mb = config.max_source_mb.ceil() as usize;
        Self {
            config,
            out: out.to_path_buf(),
            storage: Storage::new(store),
        }
    }

    /// Works on an item. Whatever is wrong with it, the outcome says so.
    pub(crate) fn work(&self, item: Item) -> Worked {
        let mut worked = Worked {
            key: item.key.clone(),
            bytes: item.media.size(),
            hash: None,
            scenes: None,
            outcome: Ok(Vec::new()),
        };
        // Decoders of strange bytes may have bugs; theirs must not end the run.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.pieces(item, &mut worked)));
        worked.outcome = outcome
            .unwrap_or_else(|_| Err(Refusal::broken("the decoder panicked, which is a bug")));
        worked
    }

    fn pieces(&self, item: Item, worked: &mut Worked) -> Result<Vec<Piece>, Refusal> {
        let config = &self.config;
        let beside = item.audio.as_ref().map_or(0, Hold::size);
        let size = item.media.size().max(beside);
        if size as f64 > config.max_source_mb * MB {
            return Err(Refusal::new(
                Rule::TooLarge,
                format!(
                    "its file has {:.1} MB, and max_source_mb is {}",
                    size as f64 / MB,
                    config.max_source_mb
                ),
            ));
        }
        let Item {
            key,
            media,
            place,
            words: found,
            audio,
        } = item;
        let bytes = self.read(media)?;
        worked.bytes = bytes.len() as u64;
        if bytes.is_empty() {
            return Err(Refusal::broken("it is empty"));
        }
        let (captions, meta) = words(found, &config.columns).map_err(Refusal::broken)?;
        let captions = self.captions(captions)?;
        let mut info = probe(&bytes).map_err(Refusal::broken)?;
        if config.audio && info.frames > 1 && info.audio.is_none() {
            info.audio = audio_info(&bytes)
                .map_err(|error| Refusal::broken(format!("its sound: {error}")))?;
        }
        worked.hash = Some(xxh3_64(&bytes));
        self.shape(&info)?;
        let footage = analysis::analyse(&bytes, config).map_err(Refusal::broken)?;
        let video = info.frames > 1;
        if video {
            worked.scenes = Some(footage.scenes.len());
        }
        let parts = analysis::parts(&info, &footage, &config.scenes);
        let sound = match audio.filter(|_| config.audio) {
            Some(audio) => Some(self.read(audio)?),
            None => None,
        };
        let whole = Whole {
            key,
            info,
            place,
            captions,
            meta,
            sound,
            hash: worked.hash.unwrap_or_default(),
        };
        let several = parts.len() > 1;
        let mut bytes = Some(bytes);
        let pieces = parts.iter().enumerate().map(|(index, part)| Piece {
            key: match several {
                true => format!("{}#{index:03}", whole.key),
                false => whole.key.clone(),
            },
            made: self.draft(&whole, &mut bytes, part, several.then_some(index)),
        });
        Ok(pieces.collect())
    }

    fn read(&self, hold: Hold) -> Result<Vec<u8>, Refusal> {
        match hold {
            Hold::Remote(url) => {
                let fetched = self.storage.open(".").and_then(|store| store.media(&url));
                fetched.map(Vec::from).map_err(Refusal::broken)
            }
            hold => hold.read().map_err(Refusal::broken),
        }
    }

    /// The captions of an allowed length.
    fn captions(&self, mut captions: Vec<Caption>) -> Result<Vec<Caption>, Refusal> {
        let rules = &self.config.captions;
        if captions.is_empty() {
            if rules.required {
                return Err(Refusal::new(Rule::NoCaption, "it has no caption"));
            }
            return Ok(Caption::one("").into());
        }
        let lengths: Vec<usize> = captions
            .iter()
            .map(|caption| caption.text.chars().count())
            .collect();
        let most = rules.max_length.unwrap_or(usize::MAX);
        captions
            .retain(|caption| (rules.min_length..=most).contains(&caption.text.chars().count()));
        if captions.is_empty() {
            return Err(Refusal::new(
                Rule::CaptionLength,
                format!("captions of {lengths:?} characters"),
            ));
        }
        Ok(captions)
    }

    /// Holds what the headers say against the rules, as that is cheap.
    fn shape(&self, info: &Info) -> Result<(), Refusal> {
        let filters = &self.config.filters;
        let Info { height, width, .. } = *info;
        let most = filters.max_side.unwrap_or(usize::MAX);
        if height.min(width) < filters.min_side || height.max(width) > most {
            return Err(Refusal::new(Rule::Size, format!("{width}x{height} pixels")));
        }
        let aspect = width as f64 / height.max(1) as f64;
        if let Some([least, most]) = filters.aspect
            && !(least..=most).contains(&aspect)
        {
            return Err(Refusal::new(
                Rule::Aspect,
                format!("{width}x{height} pixels, width / height is {aspect:.2}"),
            ));
        }
        if info.frames > 1 && info.fps < filters.min_fps {
            return Err(Refusal::new(
                Rule::Fps,
                format!("{:.2} frames per second", info.fps),
            ));
        }
        Ok(())
    }

    /// Holds a part against the rules.
    fn rules(&self, info: &Info, part: &Part) -> Result<(), Refusal> {
        let filters = &self.config.filters;
        let refuse = |rule, reason| Err(Refusal::new(rule, reason));
        if info.frames > 1 {
            let seconds = part.end - part.start;
            if self.config.scenes.cut && seconds < self.config.scenes.min_seconds - HAIR {
                return refuse(
                    Rule::ShortScene,
                    format!("{seconds:.2} s from {:.2} s on", part.start),
                );
            }
            let most = filters.max_seconds.unwrap_or(f64::INFINITY);
            if seconds < filters.min_seconds - HAIR || seconds > most + HAIR {
                return refuse(Rule::Seconds, format!("{seconds:.2} s"));
            }
            if let Some([least, most]) = filters.motion
                && !(least..=most).contains(&part.motion)
            {
                return refuse(Rule::Motion, format!("movement of {:.4}", part.motion));
            }
        }
        if part.brightness < filters.min_brightness {
            return refuse(
                Rule::Brightness,
                format!("brightness of {:.4}", part.brightness),
            );
        }
        if part.contrast < filters.min_contrast {
            return refuse(Rule::Contrast, format!("contrast of {:.4}", part.contrast));
        }
        Ok(())
    }

    fn draft(
        &self,
        whole: &Whole,
        bytes: &mut Option<Vec<u8>>,
        part: &Part,
        scene: Option<usize>,
    ) -> Result<Draft, Refusal> {
        let info = &whole.info;
        self.rules(info, part)?;
        let (media, start) = match (self.config.media, &whole.place) {
            (MediaPlace::Uri, Some(place)) => {
                (Stored::Uri(self.uri(place)?, whole.hash), part.start)
            }
            (MediaPlace::Uri, None) => {
                return Err(Refusal::broken(
                    "its media lie inside of another file, and media = \"uri\"",
                ));
            }
            // Only a part that is everything there is takes the bytes as they are.
            (MediaPlace::Inline, _) if part.whole => {
                (Stored::Bytes(bytes.take().unwrap_or_default()), 0.0)
            }
            (MediaPlace::Inline, _) => {
                if info.kind != Kind::Mp4 {
                    return Err(Refusal::broken(format!(
                        "it has several scenes, and {:?} cannot be cut without encoding it again; scenes.cut = false keeps it whole",
                        info.kind
                    )));
                }
                let bytes = bytes.as_deref().unwrap_or_default();
                let cut = cut(bytes, part.start, part.end).map_err(Refusal::broken)?;
                (Stored::Bytes(cut.bytes), cut.start)
            }
        };
        if let Stored::Bytes(bytes) = &media
            && bytes.len() as f64 > self.config.max_mb * MB
        {
            return Err(Refusal::new(
                Rule::TooLarge,
                format!(
                    "{:.1} MB, and max_mb is {}",
                    bytes.len() as f64 / MB,
                    self.config.max_mb
                ),
            ));
        }
        let (audio, sound) = self.sound(whole, part)?;
        let video = info.frames > 1;
        Ok(Draft {
            media,
            captions: whole.captions.clone(),
            frames: part.frames,
            height: info.height,
            width: info.width,
            fps: info.fps,
            start,
            duration: if video { part.end - part.start } else { 0.0 },
            audio,
            sound,
            meta: whole.note(part, scene),
            picture: part.picture,
        })
    }

    /// The sound file of a part, and the rate and channels of that or of the track in the media.
    #[expect(clippy::type_complexity, reason = "it is named once")]
    fn sound(
        &self,
        whole: &Whole,
        part: &Part,
    ) -> Result<(Option<Vec<u8>>, Option<(u32, u16)>), Refusal> {
        let Some(bytes) = &whole.sound else {
            let inside = whole.info.audio.as_ref().filter(|_| self.config.audio);
            return Ok((None, inside.map(|audio| (audio.rate, audio.channels))));
        };
        let broken = |reason: String| Refusal::broken(format!("the sound beside it: {reason}"));
        let info = audio_info(bytes).map_err(|error| broken(error.to_string()))?;
        let info = info.ok_or_else(|| broken("there is no sound in it".into()))?;
        let bytes = match part.whole {
            true => Some(bytes.clone()),
            false => sound::part(bytes, part.start, part.end - part.start).map_err(broken)?,
        };
        let sound = bytes.is_some().then_some((info.rate, info.channels));
        Ok((bytes, sound))
    }

    /// A place as the data set's reader takes it: a URL, or a path from the data set's folder.
    fn uri(&self, place: &str) -> Result<String, Refusal> {
        if is_url(place) {
            return Ok(place.to_owned());
        }
        let path = Path::new(place).canonicalize().map_err(Refusal::broken)?;
        let inside = path.strip_prefix(&self.out).map_err(|_| {
            Refusal::broken(format!(
                "{place} does not lie in {}, and media = \"uri\" names media by their path from there",
                self.out.display()
            ))
        })?;
        Ok(inside.to_string_lossy().into_owned())
    }
}

/// Times that differ by less are equal.
const HAIR: f64 = 1e-6;

/// What the parts of an item share.
struct Whole {
    key: String,
    info: Info,
    place: Option<String>,
    captions: Vec<Caption>,
    meta: Map<String, Value>,
    sound: Option<Vec<u8>>,
    hash: u64,
}

impl Whole {
    /// What is known of a part, as JSON: what came with the item, and under `ingest` what was measured.
    fn note(&self, part: &Part, scene: Option<usize>) -> String {
        let short = |value: f64| (value * 1e4).round() / 1e4;
        let mut measured = json!({
            "brightness": short(part.brightness),
            "contrast": short(part.contrast),
            "picture": format!("{:016x}", part.picture),
        });
        if self.info.frames > 1 {
            measured["motion"] = json!(short(part.motion));
        }
        if let Some(scene) = scene {
            measured["scene"] = json!(scene);
            measured["of"] = json!(self.key);
            measured["from"] = json!(short(part.start));
            measured["to"] = json!(short(part.end));
        }
        let mut meta = self.meta.clone();
        meta.insert("ingest".into(), measured);
        Value::Object(meta).to_string()
    }
}
