//! The folders of a run's checkpoints: their names, which is the newest, and what killed saves left.
//!
//! ```text
//! root/step-00000500             a whole checkpoint
//! root/.step-00001000.partial    a save under way, or what is left of a killed one
//! root/.step-00000400.old        a checkpoint being deleted or replaced
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::{CkptError, manifest};

const PARTIAL: &str = "partial";
const OLD: &str = "old";

/// The newest whole checkpoint of a run (the one of the highest step), or `None` if it has none.
///
/// Leftovers of killed saves are not seen. Whether the files are as they were written is
/// [`Checkpoint::open`](crate::Checkpoint::open)'s question: a damaged newest checkpoint is refused
/// there, not passed over here, because to go back is a decision.
///
/// # Errors
/// [`CkptError::Io`] when the folder is there but cannot be listed.
pub fn latest(root: &Path) -> Result<Option<PathBuf>, CkptError> {
    let mut newest = None;
    for (step, kind, path) in entries(root)? {
        // A save that replaces a step sets the old one aside; killed at that moment, the old one
        // is still the whole checkpoint of its step.
        let standing = match kind {
            Kind::Whole => 1,
            Kind::Old => 0,
            Kind::Partial => continue,
        };
        let whole = path.join(manifest::FILE).is_file();
        if whole
            && newest
                .as_ref()
                .is_none_or(|(best, _)| (step, standing) > *best)
        {
            newest = Some(((step, standing), path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// The folder of a whole checkpoint.
pub(crate) fn whole(root: &Path, step: u64) -> PathBuf {
    root.join(format!("step-{step:08}"))
}

/// The folder of a save under way.
pub(crate) fn partial(root: &Path, step: u64) -> PathBuf {
    root.join(format!(".step-{step:08}.{PARTIAL}"))
}

fn old(root: &Path, step: u64) -> PathBuf {
    root.join(format!(".step-{step:08}.{OLD}"))
}

/// Removes what killed saves left, and puts a checkpoint back that one was about to replace.
pub(crate) fn sweep(root: &Path) -> Result<(), CkptError> {
    for (step, kind, path) in entries(root)? {
        let whole = whole(root, step);
        match kind {
            Kind::Whole => {}
            // A folder without a manifest was being deleted.
            Kind::Old if !whole.exists() && path.join(manifest::FILE).is_file() => {
                fs::rename(&path, &whole).map_err(CkptError::io("rename", &path))?;
            }
            Kind::Old | Kind::Partial => remove_tree(&path)?,
        }
    }
    Ok(())
}

/// Gives a finished save its name: from here on the checkpoint exists.
pub(crate) fn publish(root: &Path, step: u64) -> Result<PathBuf, CkptError> {
    let (from, to) = (partial(root, step), whole(root, step));
    if to.exists() {
        let aside = old(root, step);
        fs::rename(&to, &aside).map_err(CkptError::io("rename", &to))?;
    }
    fs::rename(&from, &to).map_err(CkptError::io("rename", &from))?;
    sync(root)?;
    if old(root, step).exists() {
        remove_tree(&old(root, step))?;
    }
    Ok(to)
}

/// Deletes checkpoints of steps before `step`, so that `keep` with it remain. Later steps stay:
/// they belong to whoever went back to train from an earlier one.
pub(crate) fn prune(root: &Path, step: u64, keep: usize) -> Result<(), CkptError> {
    let mut before: Vec<(u64, PathBuf)> = entries(root)?
        .into_iter()
        .filter(|(at, kind, _)| *kind == Kind::Whole && *at < step)
        .map(|(at, _, path)| (at, path))
        .collect();
    before.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    for (at, path) in before.into_iter().skip(keep.saturating_sub(1)) {
        let aside = old(root, at);
        fs::rename(&path, &aside).map_err(CkptError::io("rename", &path))?;
        remove_tree(&aside)?;
    }
    Ok(())
}

/// Waits until the disk has a folder's entries.
pub(crate) fn sync(folder: &Path) -> Result<(), CkptError> {
    // Only Unix can open a folder as a file; elsewhere the rename itself is what there is.
    if cfg!(unix) {
        let open = File::open(folder).map_err(CkptError::io("open", folder))?;
        open.sync_all().map_err(CkptError::io("sync", folder))?;
    }
    Ok(())
}

/// Deletes a folder, the manifest first: without it a half-deleted folder is nothing.
fn remove_tree(path: &Path) -> Result<(), CkptError> {
    let manifest = path.join(manifest::FILE);
    match fs::remove_file(&manifest) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(CkptError::io("remove", &manifest)(error));
        }
        _ => {}
    }
    fs::remove_dir_all(path).map_err(CkptError::io("remove", path))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Whole,
    Partial,
    Old,
}

/// The folders in `root` that carry one of this file's names. None if there is no `root`.
fn entries(root: &Path) -> Result<Vec<(u64, Kind, PathBuf)>, CkptError> {
    let listing = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(CkptError::io("list", root))?,
    };
    let mut found = Vec::new();
    for entry in listing {
        let path = entry.map_err(CkptError::io("list", root))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some((step, kind)) = name.and_then(parse)
            && path.is_dir()
        {
            found.push((step, kind, path));
        }
    }
    Ok(found)
}

fn parse(name: &str) -> Option<(u64, Kind)> {
    let (digits, kind) = match name.strip_prefix('.') {
        None => (name.strip_prefix("step-")?, Kind::Whole),
        Some(hidden) => {
            let (digits, end) = hidden.strip_prefix("step-")?.split_once('.')?;
            let kind = match end {
                PARTIAL => Kind::Partial,
                OLD => Kind::Old,
                _ => return None,
            };
            (digits, kind)
        }
    };
    let is_number = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((is_number.then(|| digits.parse().ok())??, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(path: &Path) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join(manifest::FILE), "{}").unwrap();
    }

    #[test]
    fn names_are_read_back() {
        let root = Path::new("r");
        for step in [0, 500, 99_999_999, 100_000_000, u64::MAX] {
            for (path, kind) in [
                (whole(root, step), Kind::Whole),
                (partial(root, step), Kind::Partial),
                (old(root, step), Kind::Old),
            ] {
                let name = path.file_name().unwrap().to_str().unwrap();
                assert_eq!(parse(name), Some((step, kind)));
            }
        }
        for name in [
            "step-5",
            "step-0000050x",
            "step-+0000500",
            ".step-00000500",
            "run",
            ".step-00000500.bak",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_latest_is_the_highest_step_with_a_manifest() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(latest(&root.join("nowhere")).unwrap(), None);
        assert_eq!(latest(root).unwrap(), None);
        make(&whole(root, 99_999_999));
        make(&whole(root, 100_000_000));
        make(&partial(root, 100_000_001));
        fs::create_dir(whole(root, 100_000_002)).unwrap();
        assert_eq!(latest(root).unwrap(), Some(whole(root, 100_000_000)));
    }

    #[test]
    fn a_replacement_killed_half_way_loses_nothing() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        make(&whole(root, 400));
        make(&old(root, 500));
        make(&partial(root, 500));
        assert_eq!(latest(root).unwrap(), Some(old(root, 500)));
        sweep(root).unwrap();
        assert_eq!(latest(root).unwrap(), Some(whole(root, 500)));
        assert!(!partial(root, 500).exists());
    }

    #[test]
    fn a_half_deleted_checkpoint_is_swept_not_put_back() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir(old(root, 500)).unwrap();
        fs::write(old(root, 500).join("rank-00000.safetensors"), "x").unwrap();
        sweep(root).unwrap();
        assert!(entries(root).unwrap().is_empty());
    }

    #[test]
    fn pruning_keeps_the_newest_of_the_past_and_all_of_the_future() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for step in [100, 200, 300, 400, 900] {
            make(&whole(root, step));
        }
        let steps = || {
            let mut steps: Vec<u64> = entries(root).unwrap().iter().map(|entry| entry.0).collect();
            steps.sort_unstable();
            steps
        };
        prune(root, 400, 3).unwrap();
        assert_eq!(steps(), [200, 300, 400, 900]);
        prune(root, 400, 0).unwrap();
        assert_eq!(steps(), [400, 900]);
    }
}
