//! The keeper: a process that takes the testbed away when the one that made it is gone.
//!
//! It waits at a pipe whose other end only the owner holds. The kernel closes that end however the owner dies, by
//! kill -9 too.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::cleanup::down;
use crate::error::{Attempt, Result};
use crate::paths::Paths;
use crate::process::ProcessId;

/// The keeper of a testbed that is not to outlive its owner.
#[derive(Debug)]
pub(crate) struct Keeper(Child);

impl Keeper {
    /// Starts it. `tools` is where the static binaries are.
    pub(crate) fn start(paths: &Paths, tools: &Path) -> Result<Self> {
        let program = tools.join("testbed-keeper");
        let attempted = || format!("starting {}", program.display());
        let child = Command::new(&program)
            .arg(paths.id())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .attempt(attempted)?;
        if let Some(id) = ProcessId::of(child.id()) {
            let record = paths.processes().join("keeper");
            std::fs::write(&record, id.to_string()).attempt(|| format!("writing {}", record.display()))?;
        }
        Ok(Self(child))
    }

    /// Ends it, its work being done otherwise. Before its pipe is closed, or it would clear what comes next under the
    /// same id.
    pub(crate) fn dismiss(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the program `testbed-keeper` does: waits for the end of its input, then takes the testbed away.
pub fn keep_watch(id: &str) -> Result<()> {
    let mut ignored = Vec::new();
    std::io::stdin().read_to_end(&mut ignored).attempt(|| "waiting for the owner's end".into())?;
    down(id).map(drop)
}
