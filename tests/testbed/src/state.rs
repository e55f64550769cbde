//! The state of a testbed on disk, so that another process can use or remove it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Attempt, Error, Result};
use crate::options::Options;
use crate::paths::Paths;
use crate::plan::Plan;
use crate::process::ProcessId;

/// The contents of `owner.json`: the process that builds or uses the testbed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// The boot id of the machine; process ids of another boot are meaningless.
    boot: String,
    process: ProcessId,
}

/// The contents of `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// Whether it was built completely.
    pub(crate) complete: bool,
    pub(crate) options: Options,
    pub(crate) plan: Plan,
    pub(crate) api_port: u16,
    /// The Kubernetes components.
    pub(crate) binaries: PathBuf,
    /// The directory of crane, which serves the image registry.
    pub(crate) crane: PathBuf,
    /// The directory of the testbed's own tools.
    pub(crate) tools: PathBuf,
}

/// The state of an existing directory of a testbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// It does not exist.
    Nothing,
    /// It is in use: a kept testbed, or one whose owner is alive.
    InUse,
    /// Its owner has ended.
    Abandoned,
}

impl Owner {
    /// This process, now.
    pub(crate) fn this_process() -> Result<Self> {
        let process = ProcessId::of(std::process::id()).ok_or_else(|| Error::Prerequisite {
            problem: "this process is not in /proc".into(),
            hint: "mount /proc".into(),
        })?;
        Ok(Self { boot: boot_id(), process })
    }

    pub(crate) fn write(&self, paths: &Paths) -> Result<()> {
        write(&paths.owner(), self)
    }

    /// The state of a directory with this owner: `alive` if its process is, `kept` if it is a complete
    /// testbed that was created to be kept.
    fn leftover(&self, boot: &str, alive: bool, kept: bool) -> Leftover {
        if self.boot == boot && (alive || kept) { Leftover::InUse } else { Leftover::Abandoned }
    }
}

impl State {
    pub(crate) fn write(&self, paths: &Paths) -> Result<()> {
        write(&paths.state(), self)
    }

    pub(crate) fn read(paths: &Paths) -> Result<Self> {
        read(&paths.state())?.ok_or_else(|| Error::Prerequisite {
            problem: format!("there is no cluster named {:?}", paths.id()),
            hint: format!("`cargo xtask cluster up --id {}` makes one", paths.id()),
        })
    }
}

fn write(path: &Path, content: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(content).attempt(|| format!("writing {}", path.display()))?;
    fs::write(path, text).attempt(|| format!("writing {}", path.display()))
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    let Ok(text) = fs::read(path) else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).attempt(|| format!("reading {}", path.display()))
}

/// The state of the directory of an id.
pub(crate) fn leftover(paths: &Paths) -> Leftover {
    match read::<Owner>(&paths.owner()) {
        Ok(Some(owner)) => {
            let kept = State::read(paths).is_ok_and(|state| state.options.keep && state.complete);
            owner.leftover(&boot_id(), owner.process.is_alive(), kept)
        }
        // A directory without a readable owner was left by a process that had just started.
        _ if paths.root().exists() || !paths.namespaces().is_empty() => Leftover::Abandoned,
        _ => Leftover::Nothing,
    }
}

/// Whether the testbed was created since the machine booted.
pub(crate) fn is_of_this_boot(paths: &Paths) -> bool {
    read::<Owner>(&paths.owner()).is_ok_and(|owner| owner.is_some_and(|owner| owner.boot == boot_id()))
}

/// The boot id of the machine.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner { boot: "this".into(), ..Owner::this_process().unwrap() }
    }

    #[test]
    fn a_testbed_is_in_use_while_its_owner_lives() {
        assert_eq!(owner().leftover("this", true, false), Leftover::InUse);
        assert_eq!(owner().leftover("this", false, false), Leftover::Abandoned);
    }

    #[test]
    fn a_kept_testbed_is_in_use_without_its_owner() {
        assert_eq!(owner().leftover("this", false, true), Leftover::InUse);
    }

    #[test]
    fn no_testbed_outlives_the_machines_restart() {
        assert_eq!(owner().leftover("another", true, true), Leftover::Abandoned);
    }

    #[test]
    fn owner_and_state_survive_being_written_and_read() {
        let directory = tempfile::tempdir().unwrap();
        let (owner_file, state_file) = (directory.path().join("owner"), directory.path().join("state"));
        let options = Options { nodes: 2, ..Options::default() };
        let state = State {
            complete: true,
            plan: Plan::new(&options).unwrap(),
            options,
            api_port: 1,
            binaries: PathBuf::new(),
            crane: PathBuf::new(),
            tools: PathBuf::new(),
        };
        write(&owner_file, &owner()).unwrap();
        write(&state_file, &state).unwrap();
        assert_eq!(read(&owner_file).unwrap(), Some(owner()));
        assert_eq!(read::<State>(&state_file).unwrap().unwrap().plan.nodes, state.plan.nodes);
    }

    #[test]
    fn a_state_that_is_not_there_says_how_to_make_one() {
        let error = State::read(&Paths::new("no-such-testbed")).unwrap_err().to_string();
        assert!(error.contains("cargo xtask cluster up --id no-such-testbed"), "{error}");
    }
}
