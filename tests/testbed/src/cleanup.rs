//! Removal of a testbed: complete in any state of it, and idempotent.
//!
//! No process is killed by its name. A process belongs to a testbed if it is recorded (pid and start time),
//! runs in one of its network namespaces, or is in one of its control groups; a mount, socket or file if it
//! is below its directory.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::cgroup;
use crate::error::{Attempt, Error, Result};
use crate::node::FIXED;
use crate::paths::Paths;
use crate::process::{ProcessId, recorded, run, until};

/// Removes the testbed with this id, whichever process created it and whether or not it is complete. Returns
/// whether it existed.
pub fn down(id: &str) -> Result<bool> {
    crate::plan::check_id(id)?;
    let paths = Paths::new(id);
    let _lock = Lock::take(&paths)?;
    clear(&paths)
}

/// One process at a time builds or clears the testbed of an id.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    pub(crate) fn take(paths: &Paths) -> Result<Self> {
        let path = paths.lock();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).attempt(|| format!("making {}", parent.display()))?;
        }
        loop {
            let file = File::create(&path).attempt(|| format!("opening {}", path.display()))?;
            file.lock().attempt(|| format!("locking {}", path.display()))?;
            // The previous holder may have removed the file, and a third process may have locked a new one.
            let ours = file.metadata().attempt(|| format!("reading metadata of {}", path.display()))?.ino();
            if fs::metadata(&path).is_ok_and(|now| now.ino() == ours) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        // The last testbed removes the common directory.
        if self.path.parent().is_some_and(|parent| fs::remove_dir(parent).is_ok()) {
            remove_mount_points();
        }
    }
}

/// As [`down`], with the lock held.
pub(crate) fn clear(paths: &Paths) -> Result<bool> {
    let group = format!("/{}", paths.prefix());
    let namespaces = paths.namespaces();
    let groups_there = cgroup::trees()?.iter().any(|tree| tree.join(paths.prefix()).exists());
    let existed = paths.root().exists() || !namespaces.is_empty() || groups_there;

    end_all(|| {
        let mut all = recorded_processes(paths);
        all.extend(cgroup::processes(&group)?);
        all.extend(processes_in_namespaces(&paths.namespaces()));
        Ok(all)
    })?;
    unmount_below(paths.root())?;
    cgroup::remove(&group)?;
    for namespace in paths.namespaces() {
        if let Some(name) = namespace.file_name() {
            run(Command::new("ip").arg("netns").arg("delete").arg(name))?;
        }
    }
    remove_tree(paths.root())?;
    Ok(existed)
}

/// Kills the processes that `find` returns until there are none. Repeated, because a process may start a
/// child meanwhile.
pub(crate) fn end_all(find: impl Fn() -> Result<Vec<ProcessId>>) -> Result<()> {
    let own = ourselves();
    let victims = || -> Result<Vec<ProcessId>> {
        Ok(find()?.into_iter().filter(|process| !own.contains(&process.pid)).collect())
    };
    until(Duration::from_secs(20), "the end of the testbed's processes", || {
        let alive = victims().map_err(|error| error.to_string())?;
        if alive.is_empty() {
            return Ok(());
        }
        for process in &alive {
            // It may have ended since; if it may not be killed, the time limit says so.
            let _ = process.signal(Signal::SIGKILL);
        }
        let described: Vec<String> = alive.iter().map(|process| describe(*process)).collect();
        Err(format!("still there: {}", described.join(", ")))
    })
}

fn describe(process: ProcessId) -> String {
    let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
    let words = String::from_utf8_lossy(&line).replace('\0', " ");
    format!("{} ({})", process.pid, words.trim())
}

/// This process and those that wait for it: `down` may be called from a shell inside of the testbed.
fn ourselves() -> HashSet<u32> {
    let mut line = HashSet::new();
    let mut pid = std::process::id();
    while pid > 1 && line.insert(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        pid = parent.unwrap_or(0);
    }
    line
}

fn recorded_processes(paths: &Paths) -> Vec<ProcessId> {
    let records = fs::read_dir(paths.processes()).into_iter().flatten().flatten();
    records.filter_map(|record| recorded(&record.path())).filter(|process| process.is_alive()).collect()
}

/// Every process whose network namespace is one of these.
pub(crate) fn processes_in_namespaces(namespaces: &[PathBuf]) -> Vec<ProcessId> {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let wanted: HashSet<(u64, u64)> = namespaces.iter().filter_map(|path| identity(path)).collect();
    let own = identity(Path::new("/proc/1/ns/net"));
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        identity(Path::new(&format!("/proc/{pid}/ns/net")))
            // A file left in place of a removed namespace has the identity of an ordinary file. The machine's
            // own namespace never belongs to a testbed, even if it is mounted there.
            .is_some_and(|namespace| wanted.contains(&namespace) && Some(namespace) != own)
    })
    .filter_map(ProcessId::of)
    .collect()
}

/// Unmounts everything below a directory, the innermost first.
pub(crate) fn unmount_below(root: &Path) -> Result<()> {
    // Repeated for mounts below other mounts.
    for _ in 0..3 {
        let mut mounts = mounts_below(root)?;
        if mounts.is_empty() {
            return Ok(());
        }
        mounts.reverse();
        for mount in mounts {
            umount2(&mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .attempt(|| format!("unmounting {}", mount.display()))?;
        }
    }
    Ok(())
}

fn mounts_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").attempt(|| "reading /proc/self/mountinfo".into())?;
    Ok(mount_points(&mounts).into_iter().filter(|mount| mount.starts_with(root)).collect())
}

/// The mount points in the order in which they were mounted. Spaces and other special characters are in
/// octal.
fn mount_points(mountinfo: &str) -> Vec<PathBuf> {
    let written = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    written
        .map(|path| path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into())
        .collect()
}

/// Removes the mount points of nodes if they are empty. Not while another testbed exists, since its mounts
/// would be removed too.
fn remove_mount_points() {
    for (place, _) in FIXED {
        let _ = fs::remove_dir(place);
    }
}

/// Removes a directory and its contents, unless something is mounted below it.
pub(crate) fn remove_tree(root: &Path) -> Result<()> {
    if let Some(mount) = mounts_below(root)?.first() {
        return Err(Error::Prerequisite {
            problem: format!("{} is still mounted", mount.display()),
            hint: format!("unmount it (`umount {}`) and call down again", mount.display()),
        });
    }
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).attempt(|| format!("removing {}", root.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_spaces_are_parsed() {
        let mountinfo = "\
30 1 8:1 / / rw - ext4 /dev/vda rw
31 30 0:5 / /a/b\\040c rw - tmpfs tmpfs rw";
        assert_eq!(mount_points(mountinfo), [Path::new("/"), Path::new("/a/b c")]);
    }

    #[test]
    fn this_process_and_its_ancestors_are_never_killed() {
        let own = ourselves();
        assert!(own.contains(&std::process::id()));
        assert!(own.len() > 1, "{own:?}");
    }

    #[test]
    fn a_process_in_the_machines_own_namespace_is_never_found() {
        let own = PathBuf::from("/proc/1/ns/net");
        assert!(processes_in_namespaces(&[own]).is_empty());
    }

    #[test]
    fn removing_a_tree_twice_is_not_an_error() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        fs::create_dir_all(tree.join("x/y")).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
