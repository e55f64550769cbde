//! The process that holds a pod's namespaces. It reaps orphaned children, and ends on SIGTERM.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn main() -> nix::Result<()> {
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGINT);
    awaited.add(Signal::SIGTERM);
    awaited.add(Signal::SIGCHLD);
    // Blocked, so that none is lost between two calls of wait. Process 1 of a namespace gets no signal that
    // it neither handles nor blocks.
    awaited.thread_block()?;
    loop {
        if awaited.wait()? != Signal::SIGCHLD {
            return Ok(());
        }
        // Blocked signals of one kind are merged: one may represent several children.
        while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(_) | Ok(WaitStatus::StillAlive)) {}
    }
}
