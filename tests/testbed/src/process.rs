//! Processes: run in a network namespace, and recorded by pid and start time so that they are found after a
//! crash.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Attempt, Error, Result};
use crate::paths::Paths;

/// A named network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    path: PathBuf,
}

impl Namespace {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its file, for `nsenter --net=FILE`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread in this network namespace. Sockets opened and processes started there stay in
    /// it.
    ///
    /// Only the network namespace changes: `ip netns exec` would also mount another /sys, without the
    /// cgroups.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(&self.path).attempt(|| format!("opening namespace {}", self.path.display()))?;
        let outcome = thread::scope(|scope| {
            let inside = scope.spawn(|| -> nix::Result<T> {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        outcome.attempt(|| format!("entering network namespace {}", self.path.display()))
    }

    /// Runs a command in this namespace to its end.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let line = line(command);
        self.enter(|| command.output())?.attempt(|| format!("running `{line}`"))
    }

    /// Runs a command in this namespace and returns its output; its failure is an error.
    pub fn run(&self, command: &mut Command) -> Result<String> {
        let output = self.output(command)?;
        succeeded(command, &output)
    }

    /// Starts a command in this namespace. It is killed when the handle is dropped.
    pub fn spawn(&self, command: &mut Command) -> Result<Running> {
        let line = line(command);
        let child =
            self.enter(|| command.process_group(0).spawn())?.attempt(|| format!("starting `{line}`"))?;
        Ok(Running { child: Some(child), line })
    }
}

/// A process that ends with its handle.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    line: String,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        send(self.pid(), signal).attempt(|| format!("sending {signal} to `{}`", self.line))
    }

    /// Sends `signal`, waits until the process has ended, and returns its output, if it was piped.
    pub fn end(mut self, signal: Signal) -> Result<String> {
        self.signal(signal)?;
        self.wait()
    }

    /// Waits until the process has ended and returns its output, if it was piped; its failure is an error.
    pub fn finish(mut self) -> Result<String> {
        self.wait()
    }

    fn wait(&mut self) -> Result<String> {
        let Some(child) = self.child.take() else { return Ok(String::new()) };
        let output = child.wait_with_output().attempt(|| format!("waiting for `{}`", self.line))?;
        succeeded_line(&self.line, &output)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Either may fail because the process has just ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a command to its end; its failure is an error with its output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().attempt(|| format!("running `{}`", line(command)))?;
    succeeded(command, &output)
}

fn succeeded(command: &Command, output: &Output) -> Result<String> {
    succeeded_line(&line(command), output)
}

fn succeeded_line(line: &str, output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    Err(Error::Command {
        command: line.into(),
        status: output.status.to_string(),
        output: format!("{}{}", stdout, String::from_utf8_lossy(&output.stderr)).trim_end().into(),
    })
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A process that runs as long as the testbed, such as an API server.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Its network namespace; none means the machine's own.
    pub(crate) namespace: Option<Namespace>,
    pub(crate) mounts: Mounts,
}

/// Which mounts a daemon sees.
#[derive(Clone, Debug)]
pub(crate) enum Mounts {
    /// The machine's.
    Machine,
    /// A mount namespace of its own, in which each second directory is mounted over the first, which must
    /// exist.
    Own(Vec<(&'static str, PathBuf)>),
    /// The mount namespace of the daemon with this name, which must run.
    Of(String),
}

/// A shell script whose arguments are pairs of a directory and a mount point, `--`, and a command line.
const BIND_AND_EXEC: &str =
    r#"while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done; shift; exec "$@""#;

impl Daemon {
    pub(crate) fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            namespace: None,
            mounts: Mounts::Machine,
        }
    }

    pub(crate) fn inside(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    pub(crate) fn seeing(mut self, mounts: Mounts) -> Self {
        self.mounts = mounts;
        self
    }

    pub(crate) fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Starts it, and records it so that any process can end it.
    pub(crate) fn start(&self, paths: &Paths) -> Result<()> {
        let attempted = || format!("starting {} ({})", self.name, self.program.display());
        let log_path = paths.log(&self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .attempt(|| format!("opening {}", log_path.display()))?;
        let errors = log.try_clone().attempt(attempted)?;
        let mut command = self.command(paths)?;
        command
            .current_dir(paths.root())
            // Proxy settings and other variables of the user's shell must not affect it.
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", paths.root())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C at the terminal ends this process, which stops the daemons in order.
            .process_group(0);
        let spawned = match &self.namespace {
            Some(namespace) => namespace.enter(|| command.spawn())?,
            None => command.spawn(),
        };
        let mut child = spawned.attempt(attempted)?;
        let record = paths.processes().join(&self.name);
        if let Some(id) = ProcessId::of(child.id()) {
            fs::write(&record, id.to_string()).attempt(|| format!("writing {}", record.display()))?;
        }
        // Without a wait it would be a zombie after its end.
        thread::spawn(move || child.wait());
        Ok(())
    }

    /// The command line of the daemon: each wrapper replaces itself by the next program, so that the pid
    /// stays the same.
    fn command(&self, paths: &Paths) -> Result<Command> {
        let mut command = match &self.mounts {
            Mounts::Machine => Command::new(&self.program),
            Mounts::Own(directories) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation", "slave", "sh", "-c", BIND_AND_EXEC, "sh"]);
                for (place, directory) in directories {
                    command.arg(directory).arg(place);
                }
                command.arg("--").arg(&self.program);
                command
            }
            Mounts::Of(other) => {
                let record = paths.processes().join(other);
                let process = recorded(&record).filter(|process| process.is_alive());
                let process = process.ok_or_else(|| {
                    Error::Options(format!("{} needs {other}, which does not run", self.name))
                })?;
                let mut command = Command::new("nsenter");
                command.arg(format!("--mount=/proc/{}/ns/mnt", process.pid)).arg("--").arg(&self.program);
                command
            }
        };
        command.args(&self.args);
        Ok(command)
    }

    /// Kills it, if it runs, and waits for its end.
    pub(crate) fn kill(&self, paths: &Paths) -> Result<()> {
        end_recorded(&paths.processes().join(&self.name), Signal::SIGKILL)
    }

    pub(crate) fn is_running(&self, paths: &Paths) -> bool {
        recorded(&paths.processes().join(&self.name)).is_some_and(ProcessId::is_alive)
    }

    /// The end of its log, for error messages.
    pub(crate) fn log_tail(&self, paths: &Paths) -> String {
        tail(&paths.log(&self.name), 15)
    }
}

/// The last lines of a file.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// Clock ticks from boot to its start.
    started: u64,
}

impl ProcessId {
    /// The process with this pid; none if it does not exist or is a zombie.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // A zombie with other threads that have not ended still holds its files and sockets.
        parse_stat(&stat)
            .filter(|(state, threads, _)| !matches!(state, 'Z' | 'X') || *threads > 1)
            .map(|(_, _, started)| Self { pid, started })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal to this very process.
    pub(crate) fn signal(self, signal: Signal) -> nix::Result<()> {
        if self.is_alive() { send(self.pid, signal) } else { Ok(()) }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.started)
    }
}

impl std::str::FromStr for ProcessId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pid, started) = text.trim().split_once(' ').ok_or(())?;
        Ok(Self { pid: pid.parse().map_err(|_| ())?, started: started.parse().map_err(|_| ())? })
    }
}

/// State, number of threads and start time from /proc/PID/stat; the name in parentheses may contain spaces
/// and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u32, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    // Fields 20 and 22 of the line; the state was field 3.
    let threads = fields.nth(16)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    Some((state, threads, started))
}

fn send(pid: u32, signal: Signal) -> nix::Result<()> {
    match i32::try_from(pid) {
        // 0 and negative numbers would mean groups.
        Ok(pid) if pid > 0 => kill(Pid::from_raw(pid), signal),
        _ => Ok(()),
    }
}

/// The process that a record file names.
pub(crate) fn recorded(record: &Path) -> Option<ProcessId> {
    fs::read_to_string(record).ok()?.parse().ok()
}

/// Ends the process of a record file, waits until it is gone, and removes the record.
pub(crate) fn end_recorded(record: &Path, signal: Signal) -> Result<()> {
    if let Some(id) = recorded(record) {
        id.signal(signal).attempt(|| format!("sending {signal} to process {}", id.pid))?;
        until(Duration::from_secs(10), &format!("the end of process {}", id.pid), || {
            if id.is_alive() { Err("it is still running".into()) } else { Ok(()) }
        })?;
    }
    match fs::remove_file(record) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).attempt(|| format!("removing {}", record.display()))
        }
        _ => Ok(()),
    }
}

/// Polls `probe` until it succeeds or the timeout is over; its last error is part of the returned one.
pub fn until<T>(at_most: Duration, awaited: &str, mut probe: impl FnMut() -> Result<T, String>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(detail) if start.elapsed() >= at_most => {
                return Err(Error::Timeout { awaited: awaited.into(), after: at_most, detail });
            }
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_name_with_parentheses() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 11 12";
        assert_eq!(parse_stat(stat), Some(('S', 1, 98765)));
    }

    #[test]
    fn our_own_process_is_alive_and_one_with_another_start_time_is_not() {
        let us = ProcessId::of(std::process::id()).unwrap();
        assert!(us.is_alive());
        assert!(!ProcessId { started: us.started + 1, ..us }.is_alive());
    }

    #[test]
    fn a_process_id_survives_being_written_and_read() {
        let id = ProcessId { pid: 7, started: 123 };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("7".parse::<ProcessId>(), Err(()));
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
        until(Duration::from_secs(5), "the end of `true`", || {
            if ProcessId::of(child.id()).is_none() { Ok(()) } else { Err("alive".into()) }
        })
        .unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_error_of_a_failed_command_contains_its_output() {
        let error = run(Command::new("sh").args(["-c", "echo because >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("because"), "{error}");
    }

    #[test]
    fn a_timeout_names_what_was_awaited_and_the_last_error() {
        let error =
            until(Duration::ZERO, "three nodes", || Err::<(), _>("there are two".into())).unwrap_err();
        assert_eq!(error.to_string(), "three nodes: not after 0.0 s\nthere are two");
    }
}
