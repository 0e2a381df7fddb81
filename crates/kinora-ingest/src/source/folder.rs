//! A folder of media at any depth, with captions and sound beside them.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::member::{Role, role, split};
use super::{Files, Fingerprint, Item, Items, Source, Words};
use crate::hold::Hold;
use crate::journal;
use crate::{IngestError, SourceKind};

/// The media of a folder, ordered by path.
pub(crate) struct Folder {
    root: PathBuf,
    print: Fingerprint,
    entries: Vec<Entry>,
    /// Captions and sounds that belong to nothing, and other files.
    ignored: [u64; 2],
}

enum Entry {
    Media {
        /// From the root.
        path: PathBuf,
        beside: [Option<String>; 3],
    },
    /// A folder or file that cannot be looked at.
    Unreadable { path: PathBuf, reason: String },
}

impl Entry {
    fn path(&self) -> &Path {
        match self {
            Self::Media { path, .. } | Self::Unreadable { path, .. } => path,
        }
    }
}

/// What lies beside media, in the order of [`Entry::Media`]'s names.
const BESIDE: [Role; 3] = [Role::Text, Role::Json, Role::Sound];

impl Folder {
    /// Lists a folder. `out` is left out, should it lie inside.
    ///
    /// # Errors
    /// If the folder itself cannot be listed, or holds no media.
    pub(crate) fn open(root: &Path, out: &Path) -> Result<Self, IngestError> {
        fs::read_dir(root).map_err(IngestError::io(root))?;
        // Media that are only referred to lie in the same folder as what refers to them.
        let out = out.canonicalize().ok();
        let own = out.is_some() && out == root.canonicalize().ok();
        let mut walk = Walk {
            root,
            own,
            seen: out.filter(|_| !own).into_iter().collect(),
            entries: Vec::new(),
            files: Files::default(),
            ignored: [0; 2],
        };
        walk.folder(Path::new(""));
        if walk.entries.is_empty() {
            return Err(IngestError::config(
                format!("{} holds no pictures and no videos", root.display()),
                "name the folder that holds them, at any depth; tables, tars and Parquet files are sources of their own",
            ));
        }
        walk.entries.sort_by(|a, b| a.path().cmp(b.path()));
        for entry in &walk.entries {
            walk.files.name(entry.path());
        }
        let items = walk.entries.len() as u64;
        let print = walk.files.fingerprint(root, SourceKind::Folder, items);
        Ok(Self {
            root: root.to_path_buf(),
            print,
            entries: walk.entries,
            ignored: walk.ignored,
        })
    }

    fn item(&self, entry: &Entry) -> Item {
        let key = entry.path().to_string_lossy().replace('\\', "/");
        match entry {
            Entry::Unreadable { reason, .. } => Item::broken(key, reason.clone()),
            Entry::Media { path, beside } => {
                let path = self.root.join(path);
                let [text, json, audio] = beside.each_ref().map(|name| {
                    name.as_ref()
                        .map(|name| Hold::file(path.with_file_name(name)))
                });
                Item {
                    key,
                    place: Some(path.to_string_lossy().into_owned()),
                    media: Hold::file(path),
                    words: Words {
                        text,
                        json,
                        ..Words::default()
                    },
                    audio,
                }
            }
        }
    }
}

impl Source for Folder {
    fn print(&self) -> &Fingerprint {
        &self.print
    }

    fn from(&self, position: u64) -> Result<Items<'_>, IngestError> {
        let rest = self.entries.get(position as usize..).unwrap_or_default();
        Ok(Box::new(rest.iter().map(|entry| self.item(entry))))
    }

    fn ignored(&self) -> Vec<String> {
        let [alone, others] = self.ignored;
        let root = self.root.display();
        let mut lines = Vec::new();
        if alone > 0 {
            lines.push(format!(
                "{root}: {alone} captions or sounds without a picture or video of their name"
            ));
        }
        if others > 0 {
            lines.push(format!("{root}: {others} files of other kinds"));
        }
        lines
    }
}

struct Walk<'a> {
    root: &'a Path,
    /// Whether the output lies here too.
    own: bool,
    /// Folders that were entered, by their real paths: links may lead in circles.
    seen: HashSet<PathBuf>,
    entries: Vec<Entry>,
    files: Files,
    ignored: [u64; 2],
}

impl Walk<'_> {
    fn unreadable(&mut self, path: &Path, error: &std::io::Error) {
        self.entries.push(Entry::Unreadable {
            path: path.to_path_buf(),
            reason: format!("{}: {error}", self.root.join(path).display()),
        });
    }

    /// Lists a folder; `inside` is its path from the root.
    fn folder(&mut self, inside: &Path) {
        let folder = self.root.join(inside);
        let listed = folder.canonicalize().and_then(|real| {
            if !self.seen.insert(real) {
                return Ok(None);
            }
            let mut names = Vec::new();
            for entry in fs::read_dir(&folder)? {
                names.push(entry?.file_name());
            }
            Ok(Some(names))
        });
        let mut names = match listed {
            Ok(Some(names)) => names,
            Ok(None) => return,
            Err(error) => return self.unreadable(inside, &error),
        };
        names.sort();
        let mut files = Vec::new();
        for name in names {
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = inside.join(&name);
            if self.own && journal::is_output(&path.to_string_lossy()) {
                continue;
            }
            match fs::metadata(self.root.join(&path)) {
                Ok(meta) if meta.is_dir() => self.folder(&path),
                Ok(meta) if meta.is_file() => {
                    if role(split(&name.to_string_lossy()).1) != Role::Other {
                        self.files.add(&path, &meta);
                    }
                    files.push(name);
                }
                Ok(_) => {}
                Err(error) if role(split(&name.to_string_lossy()).1) == Role::Media => {
                    self.unreadable(&path, &error);
                }
                Err(_) => self.ignored[1] += 1,
            }
        }
        self.pair(inside, &files);
    }

    /// Finds for each media file of a folder what lies beside it.
    fn pair(&mut self, inside: &Path, files: &[std::ffi::OsString]) {
        let mut names: HashSet<String> = HashSet::new();
        let mut media = Vec::new();
        for name in files {
            let text = name.to_string_lossy();
            match role(split(&text).1) {
                Role::Media => media.push(name),
                Role::Other => self.ignored[1] += 1,
                _ => drop(names.insert(text.into_owned())),
            }
        }
        let mut used: HashSet<String> = HashSet::new();
        for name in media {
            let text = name.to_string_lossy();
            let stem = split(&text).0;
            let beside = BESIDE.map(|wanted| {
                // Both cat.txt and cat.png.txt belong to cat.png.
                let mut found: Vec<&String> = EXTENSIONS
                    .iter()
                    .filter(|extension| role(extension) == wanted)
                    .flat_map(|extension| {
                        [format!("{stem}.{extension}"), format!("{text}.{extension}")]
                    })
                    .filter_map(|candidate| names.get(&candidate))
                    .collect();
                found.truncate(1);
                found.pop().cloned()
            });
            used.extend(beside.iter().flatten().cloned());
            self.entries.push(Entry::Media {
                path: inside.join(name),
                beside,
            });
        }
        self.ignored[0] += names.difference(&used).count() as u64;
    }
}

/// The extensions of what lies beside media, the first found of a role first.
const EXTENSIONS: [&str; 11] = [
    "txt", "caption", "json", "wav", "flac", "ogg", "oga", "opus", "mp3", "m4a", "aac",
];
