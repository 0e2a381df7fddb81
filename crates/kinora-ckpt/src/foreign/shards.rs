//! Weights in several files: Hugging Face's index, or a folder whose files say themselves what they hold.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{safetensors, torch};
use crate::CkptError;
use crate::read::Index;

/// The longest index that is believed.
const LONGEST_INDEX: u64 = 64 << 20;

/// What an index says.
#[derive(Deserialize)]
struct WeightMap {
    weight_map: BTreeMap<String, String>,
}

/// Reads what a file, an index or a folder holds, and where.
///
/// # Errors
/// [`CkptError::Format`], [`CkptError::Truncated`] and [`CkptError::Io`].
pub(super) fn index(path: &Path) -> Result<Index, CkptError> {
    let about = fs::metadata(path).map_err(CkptError::io("open", path))?;
    if about.is_dir() {
        of_folder(path)
    } else if name_of(path).ends_with(".index.json") {
        of_index(path)
    } else {
        of_file(path)
    }
}

/// One file, which is known by how it begins: names lie.
fn of_file(path: &Path) -> Result<Index, CkptError> {
    let mut begin = Vec::new();
    let file = File::open(path).map_err(CkptError::io("open", path))?;
    file.take(64)
        .read_to_end(&mut begin)
        .map_err(CkptError::io("read", path))?;
    let bad = |what: &str, help: &str| Err(CkptError::format(path, what, help));
    match &begin[..] {
        [b'P', b'K', 3, 4, ..] => torch::index(path),
        // The number that torch.save began with before it wrote zip archives.
        [0x80, _, 0x8a, 10, 0x6c, 0xfc, 0x9c, ..] => bad(
            "it is of the old format of torch.save, without a table",
            "in PyTorch: torch.save(torch.load(path, map_location=\"cpu\"), path)",
        ),
        [b'G', b'G', b'U', b'F', ..] => bad(
            "it is a GGUF file",
            "download the safetensors file of the same model",
        ),
        begin if begin.starts_with(b"version https://git-lfs") => bad(
            "it is a pointer that stands for the file in Git LFS",
            "run git lfs pull, or download the file itself",
        ),
        begin if begin.starts_with(b"<") => bad(
            "it is a web page",
            "download the file itself: the page may ask to accept a licence first",
        ),
        _ => safetensors::index(path),
    }
}

/// The files that an index names, and each tensor in the file where it says.
fn of_index(path: &Path) -> Result<Index, CkptError> {
    let again = "download the index and its files again";
    let bad = |what: String| CkptError::format(path, what, again);
    let mut text = Vec::new();
    let file = File::open(path).map_err(CkptError::io("open", path))?;
    file.take(LONGEST_INDEX + 1)
        .read_to_end(&mut text)
        .map_err(CkptError::io("read", path))?;
    if text.len() as u64 > LONGEST_INDEX {
        return Err(bad(format!("it is longer than {LONGEST_INDEX} bytes")));
    }
    let map: WeightMap = serde_json::from_slice(&text)
        .map_err(|error| bad(format!("it is no index of weights ({error})")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut names: Vec<&String> = map.weight_map.values().collect();
    names.sort_unstable();
    names.dedup();
    let mut files = vec![];
    for name in names {
        // A file elsewhere is none that was downloaded with the index.
        if Path::new(name)
            .file_name()
            .is_none_or(|plain| plain != name.as_str())
        {
            return Err(bad(format!(
                "it names {name:?}, which is no file beside it"
            )));
        }
        let file = folder.join(name);
        if !file.is_file() {
            return Err(bad(format!("it names {name}, which is not there")));
        }
        files.push(file);
    }
    let index = join(path, files)?;
    for (name, file) in &map.weight_map {
        let found = index.tensors.get(name).map(|entry| entry.boxes[0].file);
        let found = found.map(|number| name_of(&index.files[number]));
        if found.as_ref() != Some(file) {
            return Err(bad(format!(
                "it says that {file} holds {name}, which it does not"
            )));
        }
    }
    if let Some(name) = index
        .tensors
        .keys()
        .find(|name| !map.weight_map.contains_key(*name))
    {
        return Err(bad(format!(
            "its files hold {name}, which it does not name"
        )));
    }
    Ok(index)
}

/// The weights of a folder: by its index, or all safetensors files, or the only file of PyTorch's.
fn of_folder(path: &Path) -> Result<Index, CkptError> {
    let mut names = vec![];
    for entry in fs::read_dir(path).map_err(CkptError::io("list", path))? {
        let entry = entry.map_err(CkptError::io("list", path))?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    let ending = |endings: &[&str]| -> Vec<String> {
        let ends = |name: &&String| endings.iter().any(|ending| name.ends_with(ending));
        names.iter().filter(ends).cloned().collect()
    };
    let several = |found: &[String]| {
        let what = format!("it is a folder with {}", found.join(" and "));
        CkptError::format(path, what, "name one of them instead of the folder")
    };
    let kinds = [
        (".safetensors.index.json", &[".safetensors"][..]),
        (".bin.index.json", &[".bin", ".pth", ".pt"]),
    ];
    for (index, files) in kinds {
        let (indexes, files) = (ending(&[index]), ending(files));
        match (&indexes[..], &files[..]) {
            ([one], _) => return of_index(&path.join(one)),
            ([], []) => {}
            ([], [one]) => {
                whole_set(path, &files)?;
                return of_file(&path.join(one));
            }
            ([], _) if index.starts_with(".safetensors") => {
                whole_set(path, &files)?;
                return join(path, files.iter().map(|name| path.join(name)).collect());
            }
            ([], several_files) => return Err(several(several_files)),
            (several_indexes, _) => return Err(several(several_indexes)),
        }
    }
    let what = match names.len() {
        0 => "it is an empty folder".to_owned(),
        n => format!(
            "it is a folder of {n} entries without weights, such as {}",
            names[0]
        ),
    };
    let help = "name a folder with .safetensors, .pth, .pt or .bin files, or such a file";
    Err(CkptError::format(path, what, help))
}

/// Looks that none of the files called `...-00001-of-00006...` is missing.
fn whole_set(folder: &Path, files: &[String]) -> Result<(), CkptError> {
    for file in files {
        let Some((start, rest)) = file.split_once("-of-") else {
            continue;
        };
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        let (Some(at), Some(of)) = (start.len().checked_sub(5), rest.get(..5)) else {
            continue;
        };
        if !start.is_char_boundary(at) || !digits(&start[at..]) || !digits(of) {
            continue;
        }
        let count: usize = of.parse().unwrap_or(0);
        for number in 1..=count {
            let name = format!("{}{number:05}-of-{rest}", &start[..at]);
            if !files.contains(&name) {
                let what = format!("it holds {file}, but not {name}");
                return Err(CkptError::format(folder, what, "download the missing file"));
            }
        }
    }
    Ok(())
}

/// The tensors of several files, none of which may be in two.
fn join(path: &Path, files: Vec<PathBuf>) -> Result<Index, CkptError> {
    let mut tensors = BTreeMap::new();
    for (number, file) in files.iter().enumerate() {
        for (name, mut entry) in of_file(file)?.tensors {
            entry.boxes[0].file = number;
            let replaced = tensors.insert(name.clone(), entry);
            if let Some(other) = replaced {
                let other = name_of(&files[other.boxes[0].file]);
                let what = format!("{other} and {} both hold {name}", name_of(file));
                let help = "name one of the files, or keep the files of one set in the folder";
                return Err(CkptError::format(path, what, help));
            }
        }
    }
    let path = path.to_path_buf();
    Ok(Index {
        path,
        files,
        tensors,
    })
}

/// The last part of a path, as text.
fn name_of(path: &Path) -> String {
    path.file_name()
        .map_or(String::new(), |name| name.to_string_lossy().into_owned())
}
