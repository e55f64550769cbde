//! The process that holds a pod's namespaces. It collects the children that others leave to it, and ends on
//! SIGTERM.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn main() -> nix::Result<()> {
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGINT);
    awaited.add(Signal::SIGTERM);
    awaited.add(Signal::SIGCHLD);
    // Blocked, so that none is lost between two calls of wait. As process 1 of a namespace it would otherwise
    // never get one that it does not handle.
    awaited.thread_block()?;
    loop {
        if awaited.wait()? != Signal::SIGCHLD {
            return Ok(());
        }
        // Signals of one kind merge while they are blocked: one may stand for several children.
        while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(_) | Ok(WaitStatus::StillAlive)) {}
    }
}
