//! The reaper: a process that removes the testbed when the process that created it has ended.
//!
//! It reads from a pipe whose other end only the owner holds. The kernel closes that end when the owner ends,
//! also after SIGKILL.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::cleanup::down;
use crate::error::{Attempt, Result};
use crate::paths::Paths;
use crate::process::ProcessId;

/// The reaper of a testbed that must not outlive its owner.
#[derive(Debug)]
pub(crate) struct Reaper(Child);

impl Reaper {
    /// Starts it. `tools` is the directory of the static binaries.
    pub(crate) fn start(paths: &Paths, tools: &Path) -> Result<Self> {
        let program = tools.join("testbed-reaper");
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
            let record = paths.processes().join("reaper");
            std::fs::write(&record, id.to_string()).attempt(|| format!("writing {}", record.display()))?;
        }
        Ok(Self(child))
    }

    /// Stops it. To be called before its pipe is closed, or it would remove the next testbed of the same id.
    pub(crate) fn stop(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program `testbed-reaper`: waits for the end of its input, then removes the testbed.
pub fn run_reaper(id: &str) -> Result<()> {
    let mut ignored = Vec::new();
    std::io::stdin().read_to_end(&mut ignored).attempt(|| "waiting for the owner to end".into())?;
    down(id).map(drop)
}
