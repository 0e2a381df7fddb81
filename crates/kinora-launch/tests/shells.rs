//! Shells as children: who failed first, how the rest end, and what is printed.

use kinora_launch::{
    FOLLOWED, FOLLOWING, Failure, Flavor, How, LaunchError, Place, Program, Screen, Settings,
    Start, Who, supervise,
};
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const QUICK: Settings = Settings {
    grace: Duration::from_millis(300),
    deadline: Duration::from_millis(600),
};
// Far above what the deadlines allow, and below what the children would sleep.
const SOON: Duration = Duration::from_secs(15);

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs a script a rank; how it ended, and what was printed on the two streams.
fn run(scripts: &[&str]) -> (Result<(), LaunchError>, String, String) {
    run_until(scripts, || None)
}

fn run_until(
    scripts: &[&str],
    stop: impl Fn() -> Option<i32>,
) -> (Result<(), LaunchError>, String, String) {
    let starts = scripts.iter().enumerate().map(|(rank, script)| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let who = Who::Rank(rank);
        Start { who, command }
    });
    let (out, err) = (Paper::default(), Paper::default());
    let began = Instant::now();
    let screen = Screen::new(out.clone(), err.clone());
    let outcome = supervise(starts.collect(), &QUICK, &screen, stop);
    assert!(
        began.elapsed() < SOON,
        "it took {:.1} s",
        began.elapsed().as_secs_f64()
    );
    (outcome, out.text(), err.text())
}

fn failure(outcome: Result<(), LaunchError>) -> Failure {
    match outcome {
        Err(LaunchError::Failed(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_succeed() {
    let (outcome, out, err) = run(&["echo result", "echo note >&2; echo more"]);
    outcome.unwrap();
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[1] more", "result"]);
    assert_eq!(err, "[1] note\n");
}

#[test]
fn the_first_to_fail_is_named_and_the_rest_end() {
    let (outcome, _, err) = run(&[
        "exec sleep 60",
        "echo 'error: no data' >&2; echo '  help: make some' >&2; exit 2",
    ]);
    let failure = failure(outcome);
    assert_eq!(failure.to_string(), "rank 1: no data\n  help: make some");
    assert_eq!((failure.code(), failure.how), (2, How::Code(2)));
    assert_eq!(err, "");
}

#[test]
fn one_that_follows_is_not_the_first() {
    let follow = format!("echo \"error: {FOLLOWING}lost rank 1 at a sum\" >&2; exit {FOLLOWED}");
    let (outcome, ..) = run(&[&follow, "sleep 0.2; kill -9 $$"]);
    let failure = failure(outcome);
    assert_eq!(
        failure.to_string(),
        "rank 1 was killed by signal 9\n  rank 0 says: lost rank 1 at a sum"
    );
    assert_eq!(failure.code(), 1);
}

#[test]
fn of_mpirun_the_rank_that_failed_itself_is_named() {
    let mut command = Command::new("sh");
    let says = |rank: usize, words: &str| format!("echo \"[1,{rank}]<stderr>:error: {words}\" >&2");
    let followed = says(0, &format!("{FOLLOWING}lost rank 1"));
    command.args(["-c", &format!("{followed}; {}; exit 2", says(1, "no data"))]);
    let who = Who::Mpirun(Flavor::OpenMpi);
    let screen = Screen::new(std::io::sink(), std::io::sink());
    let outcome = supervise(vec![Start { who, command }], &QUICK, &screen, || None);
    let failure = failure(outcome);
    assert_eq!(failure.to_string(), "rank 1: no data");
    assert_eq!(failure.code(), 2);
}

#[test]
fn one_that_hangs_is_named_by_those_that_followed() {
    let follow = format!("echo \"error: {FOLLOWING}rank 1 is late\" >&2; exit {FOLLOWED}");
    // A stopped process gets no SIGTERM.
    let (outcome, ..) = run(&[&follow, "kill -STOP $$; sleep 60"]);
    let failure = failure(outcome);
    assert_eq!(
        failure.to_string(),
        "rank 1 did not end after the others had failed, and was killed\n  rank 0 says: rank 1 is late"
    );
    assert_eq!(failure.code(), 70);
}

#[test]
fn one_that_ignores_a_request_is_killed() {
    let began = Instant::now();
    let (outcome, ..) = run(&[
        "trap '' TERM; while :; do sleep 0.05; done",
        "sleep 0.2; exit 3",
    ]);
    assert_eq!(
        failure(outcome).to_string(),
        "rank 1 ended with exit code 3"
    );
    assert!(began.elapsed() >= QUICK.grace + QUICK.deadline);
}

#[test]
fn a_request_to_stop_ends_all() {
    let began = Instant::now();
    let stop = || (began.elapsed() > Duration::from_millis(200)).then_some(15);
    let (outcome, ..) = run_until(&["exec sleep 60", "exec sleep 60"], stop);
    let error = outcome.unwrap_err();
    assert!(
        matches!(error, LaunchError::Stopped { signal: 15 }),
        "{error}"
    );
    assert_eq!(error.code(), 143);
}

#[test]
fn one_that_cannot_be_started_ends_those_before_it() {
    let mut sleeper = Command::new("sleep");
    sleeper.arg("60");
    let starts = vec![
        Start {
            who: Who::Rank(0),
            command: sleeper,
        },
        Start {
            who: Who::Rank(1),
            command: Command::new("/nowhere/at all"),
        },
    ];
    let screen = Screen::new(std::io::sink(), std::io::sink());
    let began = Instant::now();
    let error = supervise(starts, &QUICK, &screen, || None).unwrap_err();
    assert!(error.to_string().contains("for rank 1"), "{error}");
    assert!(began.elapsed() < SOON);
}

#[test]
fn what_a_child_leaves_behind_holds_nobody_up() {
    // The sleeper keeps the pipes open.
    let (outcome, out, _) = run(&["sleep 30 & echo done"]);
    outcome.unwrap();
    assert_eq!(out, "done\n");
}

#[test]
fn the_standard_input_is_open_while_the_launcher_is_there() {
    // The first would end with 9 at the end of the file.
    let (outcome, ..) = run(&["read x; exit 9", "sleep 0.3; exit 4"]);
    assert_eq!(
        failure(outcome).to_string(),
        "rank 1 ended with exit code 4"
    );
}

#[test]
fn ranks_here_are_told_who_they_are() {
    let program = Program {
        path: "sh".into(),
        args: vec!["-c".into(), "echo rank $R of $0".into(), "2".into()],
        ranks: 2,
    };
    let env = |rank: Option<usize>| vec![("R", rank.expect("it is numbered").to_string())];
    let out = Paper::default();
    let screen = Screen::new(out.clone(), std::io::sink());
    supervise(Place::Here.starts(&program, env), &QUICK, &screen, || None).unwrap();
    let out = out.text();
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[1] rank 1 of 2", "rank 0 of 2"]);
}
