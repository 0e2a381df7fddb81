//! The rules of ARCHITECTURE.md and CONTRIBUTING.md that can be read off the text.
//!
//! An exception is an entry in one of the lists here, with its reason, and an entry that nothing
//! needs any more is a fault too.

use crate::repo::Repo;

/// A rule of the repository.
#[derive(Clone, Copy)]
pub struct Rule {
    /// The name to call it by.
    pub name: &'static str,
    /// What to do about a fault.
    pub fix: &'static str,
    /// The places that break it.
    pub faults: fn(&Repo) -> Vec<String>,
}

/// All rules.
pub const RULES: &[Rule] = &[
    Rule {
        name: "burn_free",
        fix: "move what needs tensors to a crate that has them; these build in seconds because they have no Burn",
        faults: burn_free,
    },
    Rule {
        name: "models",
        fix: "a model is its paper: give the layer in kinora-nn what it needs, so that the model need not know",
        faults: models,
    },
    Rule {
        name: "environment",
        fix: "read it in crates/kinora and pass it down as a value",
        faults: environment,
    },
    Rule {
        name: "global_state",
        fix: "pass it as an argument; or, if it must be, add it with its reason to GLOBALS in xtask/src/tidy.rs",
        faults: global_state,
    },
    Rule {
        name: "one_backward",
        fix: "write the operation as two closures for kinora_kernels::op::custom",
        faults: one_backward,
    },
    Rule {
        name: "file_size",
        fix: "split the file by ideas, one a file",
        faults: file_size,
    },
    Rule {
        name: "file_name",
        fix: "name the file after the idea in it",
        faults: file_name,
    },
    Rule {
        name: "ascii",
        fix: "write it in ASCII, or escape it",
        faults: ascii,
    },
    Rule {
        name: "no_unsafe",
        fix: "write it without; or, if it must be, add the file with its reason to UNSAFE in xtask/src/tidy.rs",
        faults: no_unsafe,
    },
    Rule {
        name: "lints",
        fix: "add to its Cargo.toml:\n[lints]\nworkspace = true",
        faults: lints,
    },
    Rule {
        name: "crate_doc",
        fix: "begin it with //! lines: what the crate is, why it is separate, what it deliberately does not do",
        faults: crate_doc,
    },
];

/// Crates without Burn in them.
const BURN_FREE: [&str; 11] = [
    "kinora-comm",
    "kinora-mesh",
    "kinora-media",
    "kinora-data",
    "kinora-ingest",
    "kinora-shapes",
    "kinora-track",
    "kinora-ckpt",
    "kinora-golden",
    "kinora-launch",
    "kinora-tokens",
];

/// What kinora-models may depend on.
const MODELS_MAY_USE: [&str; 8] = [
    "kinora-nn",
    "kinora-shard",
    "kinora-mesh",
    // What parameters are called in other people's files.
    "kinora-ckpt",
    "burn",
    "nalgebra",
    "serde",
    "thiserror",
];

/// The crates that may read arguments and the environment.
const MAY_READ_ENVIRONMENT: [&str; 3] = [
    "crates/kinora/",
    "crates/kinora-launch/",
    // For tests only: where their reference tensors are.
    "crates/kinora-golden/",
];

/// Global state that must be: file, name, reason.
const GLOBALS: &[(&str, &str, &str)] = &[];

/// Files with unsafe code that must be: file, reason.
const UNSAFE: &[(&str, &str)] = &[
    ("crates/kinora-comm/src/mpi/mod.rs", "it holds raw.rs"),
    (
        "crates/kinora-comm/src/mpi/raw.rs",
        "MPI's calls that its crate has no safe form of",
    ),
    (
        "crates/kinora-comm/src/nccl/mod.rs",
        "it holds the files below",
    ),
    (
        "crates/kinora-comm/src/nccl/device.rs",
        "the driver's C interface",
    ),
    (
        "crates/kinora-comm/src/nccl/library.rs",
        "NCCL's C interface",
    ),
    (
        "crates/kinora-comm/src/nccl/symbols.rs",
        "functions of libraries that are opened at run time",
    ),
    (
        "crates/kinora-data/tests/damage.rs",
        "an allocator that counts",
    ),
    (
        "crates/kinora-ingest/tests/strange_bytes.rs",
        "an allocator that counts",
    ),
    (
        "crates/kinora-kernels/src/matrix.rs",
        "gemm takes raw pointers with strides",
    ),
    (
        "crates/kinora-kernels/src/real.rs",
        "loops compiled for AVX2 are entered after asking the processor",
    ),
    (
        "crates/kinora-media/src/ffmpeg/demux.rs",
        "FFmpeg's C interface",
    ),
    (
        "crates/kinora-media/src/ffmpeg/sys.rs",
        "FFmpeg's C interface",
    ),
    (
        "crates/kinora-media/tests/broken_sound.rs",
        "an allocator that counts",
    ),
    (
        "crates/kinora-media/tests/mutations.rs",
        "an allocator that counts",
    ),
    (
        "crates/kinora-shard/src/cuda/driver.rs",
        "calls into the CUDA driver and NVRTC",
    ),
    (
        "crates/kinora-shard/src/cuda/mod.rs",
        "admits its module driver",
    ),
];

/// A foreign interface's stand-in, which is no member of the workspace.
const STUB: &str = "crates/cubecl-llvm-stub/";

fn burn_free(repo: &Repo) -> Vec<String> {
    let mut faults = Vec::new();
    for name in BURN_FREE {
        let path = format!("crates/{name}/Cargo.toml");
        let Some(text) = repo.manifests.get(&path) else {
            continue;
        };
        for (_, dependency) in dependencies(text) {
            let burn = dependency.starts_with("burn") || dependency.starts_with("cubecl");
            let ours = dependency.starts_with("kinora");
            if burn || ours && !BURN_FREE.contains(&dependency.as_str()) {
                faults.push(format!("{path} depends on {dependency}"));
            }
        }
    }
    faults
}

fn models(repo: &Repo) -> Vec<String> {
    let mut faults = Vec::new();
    let path = "crates/kinora-models/Cargo.toml";
    for (table, dependency) in repo
        .manifests
        .get(path)
        .map_or(Vec::new(), |text| dependencies(text))
    {
        if table != "dev-dependencies" && !MODELS_MAY_USE.contains(&dependency.as_str()) {
            faults.push(format!("{path} depends on {dependency}"));
        }
    }
    let foreign = [
        "Group",
        "rank",
        "ranks",
        "Mesh",
        "collective",
        "collectives",
    ];
    for (path, source) in &repo.sources {
        if !path.starts_with("crates/kinora-models/src/") || source.is_test {
            continue;
        }
        for (line, word) in source.words().filter(|(_, word)| foreign.contains(word)) {
            faults.push(format!("{path}:{line} says {word}"));
        }
    }
    faults
}

fn environment(repo: &Repo) -> Vec<String> {
    let calls = [
        "args",
        "args_os",
        "var",
        "var_os",
        "vars",
        "vars_os",
        "set_var",
        "remove_var",
    ];
    let mut faults = Vec::new();
    for (path, source) in crate_sources(repo) {
        // An example is a program of its own, with arguments of its own.
        let may = path.contains("/examples/")
            || MAY_READ_ENVIRONMENT
                .iter()
                .any(|crate_of| path.starts_with(crate_of));
        if source.is_test || may {
            continue;
        }
        for (at, line) in source.code.lines().enumerate() {
            let words: Vec<&str> = line
                .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .collect();
            // `env::var` splits into "env", "", "var"; the macro `env!` reads at compile time.
            let reads = words
                .windows(3)
                .any(|w| w[0] == "env" && w[1].is_empty() && calls.contains(&w[2]));
            let imports = line.contains("env::{") && words.iter().any(|word| calls.contains(word));
            if reads || imports {
                faults.push(format!(
                    "{path}:{} reads the environment or arguments",
                    at + 1
                ));
            }
        }
    }
    faults
}

fn global_state(repo: &Repo) -> Vec<String> {
    let mutable = |ty: &str| {
        let cells = [
            "Mutex",
            "RwLock",
            "OnceLock",
            "LazyLock",
            "OnceCell",
            "LazyCell",
            "RefCell",
            "Cell",
            "UnsafeCell",
        ];
        ty.split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .any(|word| cells.contains(&word) || word.starts_with("Atomic"))
    };
    let mut faults = Vec::new();
    let mut needed = Vec::new();
    for (path, source) in crate_sources(repo) {
        if source.is_test {
            continue;
        }
        for (offset, _) in source.code.match_indices("static ") {
            // `'static` is a lifetime, and `my_static` another word.
            let before = source.code[..offset].chars().next_back();
            if before.is_some_and(|c| c == '\'' || c == '_' || c.is_alphanumeric()) {
                continue;
            }
            let item = &source.code[offset + "static ".len()..];
            let item = &item[..item.find(['=', ';']).unwrap_or(item.len())];
            let Some((name, ty)) = item.split_once(':') else {
                continue;
            };
            let name = name.trim();
            if !name.starts_with("mut ") && !mutable(ty) {
                continue;
            }
            if let Some(entry) = GLOBALS
                .iter()
                .find(|entry| entry.0 == path && entry.1 == name)
            {
                needed.push(entry);
                continue;
            }
            let line = source.code[..offset].matches('\n').count() + 1;
            faults.push(format!("{path}:{line} has the global {name}"));
        }
    }
    for entry in GLOBALS.iter().filter(|entry| !needed.contains(entry)) {
        faults.push(format!(
            "GLOBALS names {} of {}, which is not there",
            entry.1, entry.0
        ));
    }
    faults
}

fn one_backward(repo: &Repo) -> Vec<String> {
    let mut found = Vec::new();
    for (path, source) in crate_sources(repo) {
        if source.is_test {
            continue;
        }
        for (offset, _) in source.code.match_indices("impl") {
            let item = &source.code[offset..];
            let head = &item[..item.find(['{', ';']).unwrap_or(item.len())];
            let is_word = head[4..].starts_with([' ', '<', '\n']);
            if is_word && head.contains("Backward<") && head.contains(" for ") {
                let line = source.code[..offset].matches('\n').count() + 1;
                found.push(format!("{path}:{line}"));
            }
        }
    }
    if found.len() == 1 {
        return Vec::new();
    }
    vec![format!(
        "there are {} implementations of Backward, not one: {found:?}",
        found.len()
    )]
}

fn file_size(repo: &Repo) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, source) in &repo.sources {
        let budget = if path.starts_with("crates/kinora-nn/src/") {
            200
        } else if path.starts_with("crates/kinora-models/src/") {
            400
        } else {
            600
        };
        if !source.is_test && source.lines > budget {
            faults.push(format!(
                "{path} has {} lines before its tests, over {budget}",
                source.lines
            ));
        }
    }
    faults
}

fn file_name(repo: &Repo) -> Vec<String> {
    let empty = [
        "util", "utils", "common", "helper", "helpers", "base", "misc",
    ];
    let says_nothing = |path: &&String| {
        path.split('/')
            .any(|part| empty.contains(&part.strip_suffix(".rs").unwrap_or(part)))
    };
    repo.sources.keys().filter(says_nothing).cloned().collect()
}

fn ascii(repo: &Repo) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, source) in &repo.sources {
        for (at, line) in source.text.lines().enumerate() {
            if let Some(c) = line.chars().find(|c| !c.is_ascii()) {
                faults.push(format!("{path}:{} has {}", at + 1, c.escape_unicode()));
            }
        }
    }
    faults
}

fn no_unsafe(repo: &Repo) -> Vec<String> {
    let mut faults = Vec::new();
    let mut needed = Vec::new();
    for (path, source) in &repo.sources {
        let word = source
            .words()
            .find(|(_, word)| ["unsafe", "unsafe_code"].contains(word));
        let Some((line, word)) = word.filter(|_| !path.starts_with(STUB)) else {
            continue;
        };
        match UNSAFE.iter().find(|entry| entry.0 == path) {
            Some(entry) => needed.push(entry),
            None => faults.push(format!("{path}:{line} says {word}")),
        }
    }
    let idle =
        |entry: &&(&str, &str)| repo.sources.contains_key(entry.0) && !needed.contains(entry);
    for entry in UNSAFE.iter().filter(idle) {
        faults.push(format!("UNSAFE names {}, which has none", entry.0));
    }
    faults
}

fn lints(repo: &Repo) -> Vec<String> {
    let takes_them = |text: &str| {
        let mut lines = text
            .lines()
            .map(str::trim)
            .skip_while(|line| *line != "[lints]")
            .skip(1);
        lines.next() == Some("workspace = true")
    };
    let faults = repo
        .manifests
        .iter()
        .filter(|(path, text)| !path.starts_with(STUB) && !takes_them(text));
    faults
        .map(|(path, _)| format!("{path} does not take the workspace's lints"))
        .collect()
}

fn crate_doc(repo: &Repo) -> Vec<String> {
    let mut faults = Vec::new();
    for manifest in repo.manifests.keys() {
        let folder = manifest.trim_end_matches("Cargo.toml");
        let roots = ["src/lib.rs", "src/main.rs"].map(|root| format!("{folder}{root}"));
        let Some(path) = roots.iter().find(|root| repo.sources.contains_key(*root)) else {
            faults.push(format!("{folder} has neither src/lib.rs nor src/main.rs"));
            continue;
        };
        let text = &repo.sources[path].text;
        let doc: Vec<&str> = text
            .lines()
            .map_while(|line| line.strip_prefix("//!"))
            .collect();
        let words = doc.iter().flat_map(|line| line.split_whitespace()).count();
        // A crate's name alone says none of the three things.
        if words < 10 {
            faults.push(format!("{path} begins with {words} words of documentation"));
        }
    }
    faults
}

/// The sources of the crates, without the stand-in.
fn crate_sources(repo: &Repo) -> impl Iterator<Item = (&str, &crate::repo::Source)> {
    let ours = |path: &str| path.starts_with("crates/") && !path.starts_with(STUB);
    repo.sources
        .iter()
        .map(|(path, source)| (path.as_str(), source))
        .filter(move |(path, _)| ours(path))
}

/// The table ("dependencies", "dev-dependencies" ...) and the package of each dependency.
fn dependencies(manifest: &str) -> Vec<(String, String)> {
    let is_table = |name: &str| name.ends_with("dependencies");
    let mut found = Vec::new();
    let mut table = String::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            table = header.rsplit('.').next().unwrap_or(header).to_owned();
            // `[dependencies.burn]` is a table of one dependency.
            let mut parts = header.rsplitn(3, '.');
            if let (Some(name), Some(parent)) = (parts.next(), parts.next())
                && is_table(parent)
            {
                found.push((parent.to_owned(), name.to_owned()));
            }
        } else if let Some((key, value)) = line.split_once('=')
            && is_table(&table)
            && !line.starts_with('#')
        {
            let name = key.trim().split('.').next().unwrap_or(key);
            found.push((table.clone(), name.trim_matches('"').to_owned()));
            // A renamed dependency is what its `package` says.
            if let Some((_, package)) = value.split_once("package = \"") {
                found.push((
                    table.clone(),
                    package.split('"').next().unwrap_or("").to_owned(),
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(name: &str, files: &[(&str, &str)]) -> Vec<String> {
        let mut repo = Repo::default();
        for (path, text) in files {
            repo.add(path, text);
        }
        let rule = RULES
            .iter()
            .find(|rule| rule.name == name)
            .expect("a rule of this name");
        (rule.faults)(&repo)
    }

    #[test]
    fn burn_is_found_under_each_spelling() {
        let clean =
            "[dependencies]\nhalf.workspace = true\n# burn = \"1\"\nkinora-mesh.workspace = true\n";
        assert_eq!(
            faults("burn_free", &[("crates/kinora-ckpt/Cargo.toml", clean)]),
            [""; 0]
        );
        for text in [
            "[dependencies]\nburn.workspace = true\n",
            "[dev-dependencies]\nburn-flex = \"1\"\n",
            "[dependencies.burn]\nversion = \"1\"\n",
            "[target.'cfg(unix)'.dependencies]\nburn = \"1\"\n",
            "[dependencies]\nb = { package = \"burn\", version = \"1\" }\n",
            "[dependencies]\nkinora-shard.workspace = true\n",
        ] {
            assert_eq!(
                faults("burn_free", &[("crates/kinora-ckpt/Cargo.toml", text)]).len(),
                1,
                "{text}"
            );
            assert_eq!(
                faults("burn_free", &[("crates/kinora-nn/Cargo.toml", text)]).len(),
                0
            );
        }
    }

    #[test]
    fn models_know_no_ranks() {
        let path = "crates/kinora-models/src/wan/block.rs";
        let fine = "// The rank of a Group.\nstruct GroupNorm { lora_rank: usize }\n#[cfg(test)]\nmod tests {\n use Mesh;\n}\n";
        assert_eq!(faults("models", &[(path, fine)]), [""; 0]);
        assert_eq!(
            faults("models", &[(path, "fn f(group: &Group, rank: usize) {}")]).len(),
            2
        );
        let manifest = "[dependencies]\nburn.workspace = true\nkinora-comm.workspace = true\n";
        let found = faults("models", &[("crates/kinora-models/Cargo.toml", manifest)]);
        assert_eq!(
            found,
            ["crates/kinora-models/Cargo.toml depends on kinora-comm"]
        );
    }

    #[test]
    fn the_environment_is_read_in_the_binary_only() {
        for text in [
            "let x = std::env::var(\"A\");",
            "let x = env::args().next();",
            "use std::env::{self, var};",
            "use std::env::var;",
        ] {
            assert_eq!(
                faults("environment", &[("crates/kinora-comm/src/lib.rs", text)]).len(),
                1,
                "{text}"
            );
            assert_eq!(
                faults("environment", &[("crates/kinora/src/main.rs", text)]).len(),
                0
            );
            assert_eq!(
                faults("environment", &[("crates/kinora-comm/examples/a.rs", text)]).len(),
                0
            );
        }
        let fine =
            "let x = env!(\"CARGO_PKG_NAME\"); let d = std::env::temp_dir(); let s = \"env::var\";";
        assert_eq!(
            faults("environment", &[("crates/kinora-comm/src/lib.rs", fine)]),
            [""; 0]
        );
    }

    #[test]
    fn globals_that_change_are_found() {
        let path = "crates/kinora-comm/src/lib.rs";
        for text in [
            "static mut N: u32 = 0;",
            "static N: AtomicU64 = AtomicU64::new(0);",
            "pub(crate) static MAP:\n    Mutex<Vec<u32>> = Mutex::new(Vec::new());",
            "thread_local! { static X: RefCell<u32> = const { RefCell::new(0) }; }",
        ] {
            assert_eq!(faults("global_state", &[(path, text)]).len(), 1, "{text}");
        }
        let fine =
            "static TABLE: [u32; 2] = [0, 1]; fn f(x: &'static Mutex<u32>) {} // static mut\n";
        assert_eq!(faults("global_state", &[(path, fine)]), [""; 0]);
    }

    #[test]
    fn there_is_one_backward() {
        let path = "crates/kinora-kernels/src/op.rs";
        let one = "impl<B: Backend, const N: usize> Backward<B, 1> for Collective {\n}\n";
        assert_eq!(faults("one_backward", &[(path, one)]), [""; 0]);
        assert_eq!(
            faults("one_backward", &[(path, "fn implement() {}")]).len(),
            1
        );
        assert_eq!(faults("one_backward", &[(path, &one.repeat(2))]).len(), 1);
    }

    #[test]
    fn budgets_differ_by_crate_and_leave_tests_out() {
        let lines = |n: usize| "fn f() {}\n".repeat(n);
        let tested = format!(
            "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
            lines(200),
            lines(900)
        );
        for (path, text, count) in [
            ("crates/kinora-nn/src/linear.rs", lines(200), 0),
            ("crates/kinora-nn/src/linear.rs", lines(201), 1),
            ("crates/kinora-nn/src/linear.rs", tested, 0),
            ("crates/kinora-models/src/wan/block.rs", lines(400), 0),
            ("crates/kinora-models/src/wan/block.rs", lines(401), 1),
            ("crates/kinora-data/src/lib.rs", lines(601), 1),
            ("crates/kinora-data/tests/order.rs", lines(900), 0),
        ] {
            assert_eq!(faults("file_size", &[(path, &text)]).len(), count, "{path}");
        }
    }

    #[test]
    fn names_that_say_nothing_are_refused() {
        for (path, count) in [
            ("crates/kinora-nn/src/utils.rs", 1),
            ("crates/kinora-nn/src/common/mod.rs", 1),
            ("crates/kinora-nn/src/baseline.rs", 0),
        ] {
            assert_eq!(faults("file_name", &[(path, "")]).len(), count, "{path}");
        }
    }

    #[test]
    fn letters_beyond_ascii_and_unsafe_code_are_found() {
        let path = "crates/kinora-nn/src/norm.rs";
        assert_eq!(
            faults("ascii", &[(path, "// fine\n// na\u{ef}ve\n")]),
            ["crates/kinora-nn/src/norm.rs:2 has \\u{ef}"]
        );
        assert_eq!(faults("no_unsafe", &[(path, "unsafe { f() }")]).len(), 1);
        assert_eq!(
            faults("no_unsafe", &[(path, "#![allow(unsafe_code)]")]).len(),
            1
        );
        assert_eq!(
            faults("no_unsafe", &[(path, "// unsafe\nlet s = \"unsafe\";")]).len(),
            0
        );
    }

    #[test]
    fn lints_and_crate_docs_are_asked_for() {
        let path = "crates/kinora-nn/Cargo.toml";
        assert_eq!(
            faults(
                "lints",
                &[(path, "[package]\n\n[lints]\nworkspace = true\n")]
            )
            .len(),
            0
        );
        assert_eq!(
            faults("lints", &[(path, "[package]\nworkspace = true\n")]).len(),
            1
        );
        let doc =
            "//! Layers that know their axes.\n//!\n//! Separate because models should not.\n";
        for (text, count) in [
            (doc, 0),
            ("//! kinora-nn\n", 1),
            ("fn f() {}\n//! late\n", 1),
        ] {
            assert_eq!(
                faults(
                    "crate_doc",
                    &[(path, ""), ("crates/kinora-nn/src/lib.rs", text)]
                )
                .len(),
                count
            );
        }
        assert_eq!(faults("crate_doc", &[(path, "")]).len(), 1);
    }
}
