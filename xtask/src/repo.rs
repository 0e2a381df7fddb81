//! The text of the repository: its manifests and its Rust sources, with comments and literals apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Manifests and sources by their path from the root, with `/` between folders.
#[derive(Debug, Default)]
pub struct Repo {
    /// Each package's `Cargo.toml`.
    pub manifests: BTreeMap<String, String>,
    /// Each `.rs` file.
    pub sources: BTreeMap<String, Source>,
}

/// A Rust source.
#[derive(Debug)]
pub struct Source {
    /// As it is in the file.
    pub text: String,
    /// The lines before the unit tests, with comments and the insides of literals blanked.
    pub code: String,
    /// Number of lines before the unit tests.
    pub lines: usize,
    /// Whether all of the file is tests, by its name or folder.
    pub is_test: bool,
}

/// The folder of this workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .into()
}

impl Repo {
    /// Reads the packages of a workspace: `crates/*`, `tests` and `xtask`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut repo = Self::default();
        for top in ["crates", "tests", "xtask"] {
            repo.read_folder(root, top)?;
        }
        Ok(repo)
    }

    fn read_folder(&mut self, root: &Path, path: &str) -> io::Result<()> {
        for entry in fs::read_dir(root.join(path))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{path}/{name}");
            if entry.file_type()?.is_dir() {
                if name != "target" {
                    self.read_folder(root, &path)?;
                }
            } else if name == "Cargo.toml" || name.ends_with(".rs") {
                let bytes = fs::read(entry.path())?;
                self.add(&path, &String::from_utf8_lossy(&bytes));
            }
        }
        Ok(())
    }

    /// Adds a manifest or a source.
    pub fn add(&mut self, path: &str, text: &str) {
        if path.ends_with(".rs") {
            self.sources
                .insert(path.to_owned(), Source::new(path, text));
        } else {
            self.manifests.insert(path.to_owned(), text.to_owned());
        }
    }
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let lines = lines_before_tests(text);
        let file = path.rsplit('/').next().unwrap_or(path);
        let is_test = path.starts_with("tests/")
            || path.contains("/tests/")
            || path.contains("/benches/")
            || file == "tests.rs"
            || file.ends_with("_tests.rs");
        let code = blank(text)
            .lines()
            .take(lines)
            .collect::<Vec<_>>()
            .join("\n");
        Self {
            text: text.to_owned(),
            code,
            lines,
            is_test,
        }
    }

    /// The words (identifiers, keywords, numbers) of the code, each with its line number from 1.
    pub fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().flat_map(|(at, line)| {
            line.split(|c: char| !is_word(c))
                .filter(|word| !word.is_empty())
                .map(move |word| (at + 1, word))
        })
    }
}

/// Unit tests come last in a file: a module under `#[cfg(test)]`.
fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    (0..lines.len())
        .find(|&at| {
            lines[at] == "#[cfg(test)]"
                && lines[at + 1..]
                    .iter()
                    .find(|line| !line.starts_with("#["))
                    .is_some_and(|line| line.contains("mod ") && line.ends_with('{'))
        })
        .unwrap_or(lines.len())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Replaces comments and the insides of strings and characters by spaces; lines stay as they are.
fn blank(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some(c) = rest.chars().next() {
        let (keep, hide) = measure(rest, c);
        out.push_str(&rest[..keep]);
        out.extend(
            rest[keep..keep + hide]
                .chars()
                .map(|c| if c == '\n' { c } else { ' ' }),
        );
        rest = &rest[keep + hide..];
    }
    out
}

/// The bytes at the start of `rest` to keep, and those behind them to blank.
fn measure(rest: &str, c: char) -> (usize, usize) {
    if is_word(c) {
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let behind = &rest[word..];
        let hashes = behind.len() - behind.trim_start_matches('#').len();
        let raw = matches!(&rest[..word], "r" | "br" | "cr") && behind[hashes..].starts_with('"');
        if !raw {
            return (word, 0);
        }
        let end = format!("\"{}", "#".repeat(hashes));
        let body = &behind[hashes + 1..];
        return (
            word,
            hashes + 1 + body.find(&end).map_or(body.len(), |at| at + end.len()),
        );
    }
    if rest.starts_with("//") {
        return (0, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (0, block_comment(rest));
    }
    if c == '"' {
        return (0, quoted(rest, '"'));
    }
    // A quote begins a character if it is closed behind one; otherwise a lifetime.
    let mut behind = rest.chars().skip(1);
    if c == '\'' && (behind.next() == Some('\\') || behind.next() == Some('\'')) {
        return (0, quoted(rest, '\''));
    }
    (c.len_utf8(), 0)
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if rest.starts_with("*/") {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of a literal that begins and ends with `quote`.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let source = Source::new("crates/x/src/lib.rs", text);
        source.words().map(|(_, word)| word.to_owned()).collect()
    }

    #[test]
    fn comments_and_literals_are_no_words() {
        let text = "let a = \"in // \\\" one\"; // two\n/* three /* four */ five */ let b = 'x';\n\
                    let c = '\\''; fn f<'a>(d: &'a str) {} let e = r#\"six \" seven\"#; b\"eight\"; \
                    br\"nine\"; r#type";
        let expected = "let a let b let c fn f a d a str let e r b br r type";
        assert_eq!(words(text).join(" "), expected);
    }

    #[test]
    fn lines_keep_their_numbers() {
        let source = Source::new("crates/x/src/lib.rs", "/* a\n\n*/ let s = \"x\ny\";\nlast");
        assert_eq!(source.words().last(), Some((5, "last")));
    }

    #[test]
    fn tests_are_apart() {
        let text = "fn f() {}\n#[cfg(test)]\nuse std::fs;\n#[cfg(test)]\n#[allow(dead_code)]\nmod tests {\n fn g() {}\n}\n";
        let source = Source::new("crates/x/src/lib.rs", text);
        assert_eq!(source.lines, 3);
        assert!(source.words().all(|(_, word)| word != "g"));
        assert!(!source.is_test);
        assert!(Source::new("crates/x/tests/a.rs", "").is_test);
        assert_eq!(
            Source::new("crates/x/src/lib.rs", "#[cfg(test)]\nmod tests;\nfn f() {}").lines,
            3
        );
    }

    #[test]
    fn unended_literals_do_not_panic() {
        for text in ["\"", "'\\", "r#\"", "/*", "/* /* */", "b'", "\"\\"] {
            words(text);
        }
    }
}
