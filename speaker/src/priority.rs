//! Thread priorities: the driver's thread keeps that of the process, all other threads get a lower one. So an
//! answer never waits for building a view or writing to the API where processors are few. Lowering a priority
//! needs no capability; raising one would.

use std::io;

use rustix::process::{Pid, getpriority_process, setpriority_process};

/// The increment of niceness. One step is about a tenth of a processor's time.
const NICER: i32 = 5;
/// The lowest priority.
const NICEST: i32 = 19;

/// Lowers the priority of all threads but the calling one. Threads that they start later inherit it.
pub(crate) fn lower_others() -> io::Result<()> {
    let own = rustix::thread::gettid();
    let niceness = (getpriority_process(Some(own))? + NICER).min(NICEST);
    for task in std::fs::read_dir("/proc/self/task")? {
        let name = task?.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some(id) = id.filter(|id| *id != own) {
            match setpriority_process(Some(id), niceness) {
                // The thread has ended since.
                Err(rustix::io::Errno::SRCH) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_thread_and_its_later_threads_get_a_lower_priority() {
        let own = getpriority_process(None).unwrap();
        let (start, started) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            started.recv().unwrap();
            let of_this = || getpriority_process(Some(rustix::thread::gettid())).unwrap();
            [of_this(), std::thread::spawn(of_this).join().unwrap()]
        });
        let caller = std::thread::spawn(move || {
            lower_others().unwrap();
            start.send(()).unwrap();
            getpriority_process(Some(rustix::thread::gettid())).unwrap()
        });
        assert_eq!(caller.join().unwrap(), own);
        assert_eq!(other.join().unwrap(), [own + NICER; 2]);
    }
}
