//! Runs the conformance suite on ranks that MPI has started: `mpirun -n 5 conformance`. Checks of
//! larger worlds are left out, and it says so. Exits with 1 if a check fails.

#[cfg(feature = "mpi")]
fn main() -> std::process::ExitCode {
    suite::main()
}

#[cfg(not(feature = "mpi"))]
fn main() -> std::process::ExitCode {
    eprintln!("error: built without MPI\n  help: cargo run --features mpi");
    std::process::ExitCode::FAILURE
}

#[cfg(feature = "mpi")]
mod suite {
    use kinora_comm::conformance::{self, Check, Outcome, Wrong};
    use kinora_comm::local::OnStuck;
    use kinora_comm::mpi::Fabric;
    use kinora_comm::process::{self, Process, Settings};
    use kinora_comm::{Buffer, CommError, HostBuffer};
    use std::process::ExitCode;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    pub(super) fn main() -> ExitCode {
        let fabric = Fabric::join().unwrap_or_else(|error| panic!("{error}"));
        let all = fabric.world(fabric.size(), Duration::from_secs(60));
        let all = all.expect("every process is one of all");
        let start = Instant::now();
        let outcome = conformance::run(&[], |check, ranks| spawn(&fabric, &all, check, ranks));
        if all.rank() == 0 {
            let larger: usize = conformance::checks()
                .map(|check| check.ranks.iter().filter(|&&n| n > fabric.size()).count())
                .sum();
            println!(
                "{} checks over MPI on up to {} ranks in {:.1} s, without {larger} of larger worlds",
                conformance::checks().count(),
                fabric.size(),
                start.elapsed().as_secs_f64()
            );
            if let Err(wrongs) = &outcome {
                eprintln!("error: {wrongs}");
            }
        }
        drop(all);
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }

    /// Runs a check in a world of its own; every process learns how it ended on all ranks.
    fn spawn(
        fabric: &Fabric,
        all: &Process,
        check: &'static Check,
        ranks: usize,
    ) -> Vec<Option<Outcome>> {
        if ranks > fabric.size() {
            let left_out = |rank| {
                if check.falls == Some(rank) {
                    None
                } else {
                    Some(Ok(()))
                }
            };
            return (0..ranks).map(left_out).collect();
        }
        // Those who were not in the last world must not count the time that it took.
        let together = all.transport().barrier("next check");
        together.unwrap_or_else(|error| panic!("{error}"));
        let mine = fabric.world(ranks, check.deadline).map(|process| {
            let found = Arc::new(Mutex::new(None));
            let kept = found.clone();
            let settings = Settings {
                on_stuck: OnStuck::Leak,
                ..Settings::new(1)
            };
            let _ = process::run(&process, &settings, move |transport| {
                let outcome = check.run(&transport);
                *kept.lock().expect("nobody panics with it") = Some(outcome.clone());
                outcome
            });
            found.lock().expect("nobody panics with it").clone()
        });
        let outcomes = share(all, &mine.flatten());
        outcomes.unwrap_or_else(|error| panic!("{error}"))[..ranks].to_vec()
    }

    /// What each rank has found; nothing counts as not having come back.
    fn share(all: &Process, mine: &Option<Outcome>) -> Result<Vec<Option<Outcome>>, CommError> {
        let text = match mine {
            None => "none".to_string(),
            Some(Ok(())) => "ok".to_string(),
            Some(Err(Wrong(wrong))) => format!("!{wrong}"),
        };
        let world = all.transport();
        let lens = world.all_gather(
            vec![text.len() as i64].into(),
            vec![1; world.size()],
            "lengths",
        )?;
        let Buffer::Host(HostBuffer::I64(lens)) = lens else {
            unreachable!("a gather keeps the element type")
        };
        let lens: Vec<usize> = lens.into_iter().map(|len| len as usize).collect();
        let texts = world.all_gather(text.into_bytes().into(), lens.clone(), "outcomes")?;
        let Buffer::Host(HostBuffer::U8(texts)) = texts else {
            unreachable!("a gather keeps the element type")
        };
        let mut rest = &texts[..];
        let outcome = |len: usize| {
            let (text, after) = rest.split_at(len);
            rest = after;
            match String::from_utf8_lossy(text).as_ref() {
                "none" => None,
                "ok" => Some(Ok(())),
                wrong => Some(Err(Wrong(wrong[1..].to_string()))),
            }
        };
        Ok(lens.into_iter().map(outcome).collect())
    }
}
