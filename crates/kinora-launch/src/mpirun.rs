//! The command line of `mpirun`, in the two dialects that there are.

use crate::LaunchError;
use crate::place::{Program, Start, Who};
use std::process::{Command, Stdio};

/// Whose `mpirun` it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// Open MPI's.
    OpenMpi,
    /// Hydra, of MPICH, MVAPICH and Intel MPI.
    Hydra,
}

/// How `mpirun` starts ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mpirun {
    /// Whose it is.
    pub flavor: Flavor,
    /// The machines, with as many ranks each; none for this one.
    pub hosts: Vec<String>,
}

impl Mpirun {
    /// Asks the `mpirun` that is found for its kind.
    ///
    /// # Errors
    /// [`LaunchError::Mpirun`] if there is none, or of another kind.
    pub fn find(hosts: Vec<String>) -> Result<Self, LaunchError> {
        let refused = |what: String| LaunchError::Mpirun { what };
        let answer = Command::new("mpirun")
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| refused(error.to_string()))?;
        let text = String::from_utf8_lossy(&answer.stdout);
        let flavor = flavor(&text).ok_or_else(|| {
            let first = text.lines().next().unwrap_or("nothing");
            refused(format!("`mpirun --version` says {first:?}"))
        })?;
        Ok(Self { flavor, hosts })
    }

    pub(crate) fn start(&self, program: &Program, env: &[(&'static str, String)]) -> Start {
        let mut command = Command::new("mpirun");
        command.args(self.args(program.ranks, env, rustix::process::geteuid().is_root()));
        command.arg(&program.path).args(&program.args);
        let who = Who::Mpirun(self.flavor);
        Start { who, command }
    }

    /// What stands before the program.
    fn args(&self, ranks: usize, env: &[(&'static str, String)], root: bool) -> Vec<String> {
        let each = ranks / self.hosts.len().max(1);
        let mut args: Vec<String> = vec![];
        let mut add = |words: &[&str]| args.extend(words.iter().map(ToString::to_string));
        match self.flavor {
            Flavor::OpenMpi => {
                if root {
                    add(&["--allow-run-as-root"]);
                }
                // Ranks have threads: one bound to a core would compute with a single one.
                add(&["--oversubscribe", "--bind-to", "none", "--tag-output"]);
                for (name, value) in env {
                    add(&["-x", &format!("{name}={value}")]);
                }
                if !self.hosts.is_empty() {
                    let slots = self.hosts.iter().map(|host| format!("{host}:{each}"));
                    add(&["--host", &slots.collect::<Vec<_>>().join(",")]);
                }
            }
            Flavor::Hydra => {
                add(&["-prepend-rank"]);
                for (name, value) in env {
                    add(&["-genv", name, value]);
                }
                if !self.hosts.is_empty() {
                    add(&["-hosts", &self.hosts.join(","), "-ppn", &each.to_string()]);
                }
            }
        }
        add(&["-n", &ranks.to_string()]);
        args
    }
}

fn flavor(version: &str) -> Option<Flavor> {
    let says = |word: &str| version.contains(word);
    if says("Open MPI") || says("OpenRTE") || says("PRRTE") {
        Some(Flavor::OpenMpi)
    } else if says("HYDRA") || says("MPICH") || says("Intel(R) MPI") {
        Some(Flavor::Hydra)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(flavor: Flavor, hosts: &[&str], root: bool) -> String {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        Mpirun { flavor, hosts }
            .args(4, &[("A", "b".into())], root)
            .join(" ")
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(flavor("mpirun (Open MPI) 4.1.4\n"), Some(Flavor::OpenMpi));
        assert_eq!(
            flavor("HYDRA build details:\n  Version: 4.0"),
            Some(Flavor::Hydra)
        );
        assert_eq!(
            flavor("Intel(R) MPI Library for Linux* OS, Version 2021.9"),
            Some(Flavor::Hydra)
        );
        assert_eq!(flavor("poe 1.0"), None);
    }

    #[test]
    fn each_kind_is_spoken_to_in_its_dialect() {
        assert_eq!(
            line(Flavor::OpenMpi, &[], false),
            "--oversubscribe --bind-to none --tag-output -x A=b -n 4"
        );
        assert_eq!(
            line(Flavor::OpenMpi, &["one", "two"], true),
            "--allow-run-as-root --oversubscribe --bind-to none --tag-output -x A=b --host one:2,two:2 -n 4"
        );
        assert_eq!(
            line(Flavor::Hydra, &[], true),
            "-prepend-rank -genv A b -n 4"
        );
        assert_eq!(
            line(Flavor::Hydra, &["one", "two"], false),
            "-prepend-rank -genv A b -hosts one,two -ppn 2 -n 4"
        );
    }
}
