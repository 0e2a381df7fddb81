//! One file a verb.

/// Prints a line of a report. A reader who has seen enough (`| head`) ends the program quietly.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::verbs::print_line(format_args!($($text)*))
    };
}

mod convert;
mod data;
mod doctor;
mod encode;
mod eval;
mod generate;
mod inspect;
pub(crate) mod launch;
mod plan;
mod train;
mod verify;

pub(crate) use doctor::cuda_parts;

use crate::cli::{Cli, Verb};
use crate::failure::Outcome;
use crate::ranks::Here;
use kinora_track::Console;
use std::io::Write;

pub(crate) fn dispatch(cli: Cli, here: &Here) -> Outcome {
    match cli.verb {
        Verb::Train(args) => train::train(&args, here),
        Verb::Generate(args) => generate::generate(&args, here),
        Verb::Eval(args) => eval::eval(&args, here),
        Verb::Launch(args) => launch::launch(&args),
        Verb::Plan(args) => plan::plan(&args),
        Verb::Verify(args) => verify::verify(&args, here),
        Verb::Convert(args) => convert::convert(&args),
        Verb::Data(args) => data::data(&args, here),
        Verb::Inspect(args) => inspect::inspect(&args),
        Verb::Doctor(args) => doctor::doctor(&args),
    }
}

fn console(quiet: bool) -> Console {
    if quiet { Console::Silent } else { Console::Bar }
}

fn json(value: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(value).expect("a report of numbers and strings");
    print_line(format_args!("{text}"));
}

fn print_line(line: std::fmt::Arguments<'_>) {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            let _ = writeln!(
                std::io::stderr(),
                "error: the report cannot be written: {error}"
            );
            std::process::exit(1);
        }
    }
}
