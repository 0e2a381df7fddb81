//! The program itself: built, started in a folder of its own, and never left running.

use serde_json::Value;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

// A build may wait for another one to end.
const BUILD: Duration = Duration::from_secs(1800);
const RUN: Duration = Duration::from_secs(120);

/// The program that belongs to these tests.
///
/// Cargo builds a program for the tests of its own package only, so this builds it: otherwise the
/// tests would judge whatever was built last.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // target/release/deps/kinora-0123456789abcdef
        let test = env::current_exe().expect("a program knows its own path");
        let profile = test
            .ancestors()
            .nth(2)
            .expect("tests lie in target/PROFILE/deps");
        let target = profile.parent().expect("a profile lies in a target folder");
        if let Some(cargo) = env::var_os("CARGO") {
            let mut build = Command::new(cargo);
            build
                .args(["build", "--quiet", "--package", "kinora", "--target-dir"])
                .arg(target);
            if cfg!(feature = "mpi") {
                build.args(["--features", "mpi"]);
            }
            if profile.file_name() == Some(OsStr::new("release")) {
                build.arg("--release");
            }
            let built = finish(build.current_dir(xtask::repo::root()), BUILD);
            assert_eq!(
                built.code,
                Some(0),
                "kinora cannot be built:\n{}",
                built.err
            );
        }
        let program = profile
            .join("kinora")
            .with_extension(env::consts::EXE_EXTENSION);
        assert!(
            program.is_file(),
            "{} is not there\nhelp: build it first: cargo build --release",
            program.display()
        );
        program
    })
}

/// How a command ended.
pub(crate) struct Ended {
    /// Its exit code, unless a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Ends its process when it is dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Waits until `done` holds, while the process runs.
    pub(crate) fn wait_until(&mut self, done: impl Fn() -> bool) {
        let began = Instant::now();
        while !done() {
            let status = self.0.try_wait().expect("a child can be asked");
            assert_eq!(status, None, "it ended too early");
            assert!(
                began.elapsed() < RUN,
                "nothing happened for {} s",
                RUN.as_secs()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end; its exit code, unless a signal ended it.
    pub(crate) fn end_within(mut self, limit: Duration) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("a child can be asked") {
                return status.code();
            }
            assert!(
                began.elapsed() < limit,
                "it still runs after {} s",
                limit.as_secs()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as `kill -9` does, unless it has ended by itself; whether it was ended.
    pub(crate) fn kill_if_running(mut self) -> bool {
        self.0.kill().expect("a child can be killed");
        let status = self.0.wait().expect("a child can be waited for");
        status.code().is_none()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("a running process can be killed");
        let status = self.0.wait().expect("a child can be waited for");
        assert_eq!(status.code(), None, "it ended before it was killed");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command, limit: Duration) -> Ended {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Running(command.spawn().expect("the command can be started"));
    let (out, err) = (child.0.stdout.take(), child.0.stderr.take());
    let (out, err) = (read(out.expect("piped")), read(err.expect("piped")));
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().expect("a child can be asked") {
            break status;
        }
        assert!(
            began.elapsed() < limit,
            "{command:?} has run for {} s",
            limit.as_secs()
        );
        thread::sleep(Duration::from_millis(2));
    };
    let text = |reader: thread::JoinHandle<String>| reader.join().expect("reading does not panic");
    Ended {
        code: status.code(),
        out: text(out),
        err: text(err),
    }
}

fn read(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = vec![];
        from.read_to_end(&mut bytes).expect("a pipe can be read");
        String::from_utf8(bytes).expect("the program writes text")
    })
}

/// A folder that the program is started in, with `smoke.toml` in it.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let smoke = xtask::repo::root().join("configs/smoke.toml");
        fs::copy(&smoke, folder.path().join("smoke.toml")).expect("configs/smoke.toml is there");
        Self(folder)
    }

    /// Writes `own.toml`: as `smoke.toml`, but nothing says how the data could be made.
    pub(crate) fn write_own(&self, data: &str) {
        let smoke = fs::read_to_string(self.at("smoke.toml")).unwrap();
        let (before, shapes) = smoke
            .split_once("[shapes]\n")
            .expect("smoke.toml makes its data");
        let (_, after) = shapes
            .split_once("\n[")
            .expect("[shapes] is not the last table");
        let own = format!("{before}[{after}").replace("datasets/smoke", data);
        fs::write(self.at("own.toml"), own).unwrap();
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// The names of what is in it, sorted.
    pub(crate) fn holds(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).current_dir(self.0.path());
        command
    }

    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Running(command.spawn().expect("the program can be started"))
    }

    /// Starts it, with what it says on the standard error going to a file.
    pub(crate) fn start_into(&self, args: &[&str], file: &str) -> Running {
        let file = fs::File::create(self.at(file)).unwrap();
        let mut command = self.command(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        Running(command.spawn().expect("the program can be started"))
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        finish(&mut self.command(args), RUN)
    }

    /// Runs it, and expects it to succeed; what it printed.
    pub(crate) fn succeed(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert_eq!(
            ended.code,
            Some(0),
            "kinora {}:\n{}",
            args.join(" "),
            ended.err
        );
        ended.out
    }

    /// As [`Place::succeed`], for verbs that print JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let out = self.succeed(args);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("kinora {args:?}: {error}\n{out}"))
    }

    /// Runs it, and expects it to refuse with exit code 2 and a message with these words.
    pub(crate) fn refuse(&self, args: &[&str], words: &[&str]) {
        let Ended { code, out, err } = self.run(args);
        let shown = format!("kinora {}:\n{err}{out}", args.join(" "));
        assert_eq!(code, Some(2), "{shown}");
        assert!(err.contains("error: "), "{shown}");
        for word in words {
            assert!(
                err.contains(word),
                "{word:?} is not in what was said by {shown}"
            );
        }
        assert!(!err.contains("panicked"), "{shown}");
    }
}
