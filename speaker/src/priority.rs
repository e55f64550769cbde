//! The priority of the driver's thread: that of the process, and all other threads get a lower one. So an answer never waits
//! for the making of a view or for a write to the API where processors are few. That needs no capability; to raise
//! one's own priority would.

use std::io;

use rustix::process::{Pid, getpriority_process, setpriority_process};

/// How much "nicer" the others are. One step is about a tenth of a processor's time.
const NICER: i32 = 5;
/// The lowest priority that there is.
const NICEST: i32 = 19;

/// Lowers the priority of all threads but the one that calls. Those that they start later inherit it.
pub(crate) fn lower_others() -> io::Result<()> {
    let own = rustix::thread::gettid();
    let niceness = (getpriority_process(Some(own))? + NICER).min(NICEST);
    for task in std::fs::read_dir("/proc/self/task")? {
        let name = task?.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some(id) = id.filter(|id| *id != own) {
            match setpriority_process(Some(id), niceness) {
                // It has ended since.
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
    fn every_thread_but_the_one_that_calls_gets_a_lower_priority_and_so_do_those_that_it_starts() {
        let own = getpriority_process(None).unwrap();
        let (asks, asked) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            asked.recv().unwrap();
            let of_this = || getpriority_process(Some(rustix::thread::gettid())).unwrap();
            [of_this(), std::thread::spawn(of_this).join().unwrap()]
        });
        let caller = std::thread::spawn(move || {
            lower_others().unwrap();
            asks.send(()).unwrap();
            getpriority_process(Some(rustix::thread::gettid())).unwrap()
        });
        assert_eq!(caller.join().unwrap(), own);
        assert_eq!(other.join().unwrap(), [own + NICER; 2]);
    }
}
