//! `kinora launch`: the ranks of another verb as processes.

use crate::cli::{Cli, Data, Launch, Verb};
use crate::config::{RunConfig, read, read_run};
use crate::failure::{Failure, OrRun, Outcome};
use crate::launched::{Launched, RANK, RENDEZVOUS, SIZE, TOKEN, TRANSPORT};
use crate::ranks::check_size;
use clap::Parser;
use kinora_launch::{Mpirun, Place, Program, Screen, Settings, supervise};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::BuildHasher;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How to get a program that can be started by `mpirun`.
pub(crate) const BUILD_MPI: &str = "build it with cargo build --release --features mpi, which needs an MPI with its headers, and libclang; or use kinora launch -n N, which needs neither";

pub(crate) fn launch(args: &Launch) -> Outcome {
    if Launched::from_env()? != Launched::Alone {
        return Err(Failure::input(
            "kinora launch starts all ranks itself, but another launcher has started several of it\n  help: start it once; or let mpirun start kinora without launch",
        ));
    }
    let config = configuration(&args.command)?;
    let ranks = ranks(args, &config)?;
    check_size(&config, ranks)?;
    let over_mpi = args.mpi || !args.hosts.is_empty();
    if over_mpi && !cfg!(feature = "mpi") {
        return Err(Failure::input(format!(
            "this program was built without MPI\n  help: {BUILD_MPI}"
        )));
    }
    let place = if over_mpi {
        Place::Mpirun(Mpirun::find(args.hosts.clone())?)
    } else {
        Place::Here
    };
    let program = Program {
        path: std::env::current_exe().or_run()?,
        args: args.command.clone(),
        ranks,
    };
    let (address, token) = (free_address()?, token());
    let env = |rank: Option<usize>| match rank {
        None => vec![(TRANSPORT, "mpi".to_string())],
        Some(rank) => vec![
            (TRANSPORT, "tcp".to_string()),
            (RANK, rank.to_string()),
            (SIZE, ranks.to_string()),
            (RENDEZVOUS, address.clone()),
            (TOKEN, token.clone()),
        ],
    };
    let asked = Arc::new(AtomicUsize::new(0));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let value = usize::try_from(signal).expect("a signal's number is small");
        flag::register_usize(signal, asked.clone(), value).or_run()?;
    }
    let stop = || match asked.load(Ordering::Relaxed) {
        0 => None,
        signal => i32::try_from(signal).ok(),
    };
    let starts = place.starts(&program, env);
    Ok(supervise(
        starts,
        &Settings::default(),
        &Screen::own(),
        stop,
    )?)
}

/// The configuration of the run that the ranks are to work on.
fn configuration(command: &[OsString]) -> Outcome<RunConfig> {
    let name = OsString::from("kinora");
    // Ends this process with a message if the ranks would not understand it.
    match Cli::parse_from([&name].into_iter().chain(command)).verb {
        Verb::Train(args) => read(&args.config.config, &args.config.changes.set),
        Verb::Verify(args) if args.here => read(&args.config.config, &args.config.changes.set),
        Verb::Data(Data::Encode(args)) => read(&args.config.config, &args.config.changes.set),
        Verb::Generate(args) => read_run(&args.run, &args.changes.set),
        Verb::Eval(args) => read_run(&args.run, &args.changes.set),
        _ => Err(Failure::input(format!(
            "kinora {} does not run on ranks\n  help: launch train, generate, eval, data encode or verify --here",
            command[0].display()
        ))),
    }
}

/// How many ranks to start, on all hosts together.
fn ranks(args: &Launch, config: &RunConfig) -> Outcome<usize> {
    let needed = config.mesh.ranks();
    match (args.ranks, args.hosts.len()) {
        (Some(0), _) => Err(Failure::input("-n 0\n  help: start at least 1 rank")),
        (None, 0) => Ok(needed),
        (Some(ranks), 0) => Ok(ranks),
        (Some(each), hosts) => Ok(each * hosts),
        (None, hosts) if needed.is_multiple_of(hosts) => Ok(needed),
        (None, hosts) => Err(Failure::input(format!(
            "the {needed} ranks of mesh {} cannot be shared by {hosts} hosts\n  help: change [mesh], or the hosts",
            config.mesh
        ))),
    }
}

/// Where rank 0 can listen.
fn free_address() -> Outcome<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).or_run()?;
    Ok(listener.local_addr().or_run()?.to_string())
}

/// What only the ranks of this launch know; the system's randomness seeds the hashes.
fn token() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}
