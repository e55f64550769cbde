//! Control groups, version 1 (a tree per controller) and version 2 (one tree).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Attempt, Result};
use crate::process::{ProcessId, until};

/// The mount points of every tree.
pub(crate) fn trees() -> Result<Vec<PathBuf>> {
    let (v1, v2) = mounted_trees()?;
    Ok([v1, v2].concat())
}

/// The trees in which groups are created. On a machine with both versions, the one of version 2 has no
/// controllers, and runc creates its groups there by itself.
fn trees_with_controllers() -> Result<Vec<PathBuf>> {
    let (v1, v2) = mounted_trees()?;
    Ok(if v1.is_empty() { v2 } else { v1 })
}

fn mounted_trees() -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").attempt(|| "reading /proc/self/mountinfo".into())?;
    Ok(trees_of(&mounts))
}

/// The trees of version 1 and of version 2.
fn trees_of(mountinfo: &str) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mounted = |wanted: &str| -> Vec<PathBuf> {
        let lines = mountinfo.lines().filter_map(|line| line.split_once(" - "));
        lines
            .filter(|(_, kind)| kind.split_whitespace().next() == Some(wanted))
            .filter_map(|(mount, _)| mount.split_whitespace().nth(4))
            .map(PathBuf::from)
            .collect()
    };
    (mounted("cgroup"), mounted("cgroup2"))
}

/// Makes a group in each tree, with its parents.
pub(crate) fn create(group: &str) -> Result<()> {
    for tree in trees_with_controllers()? {
        let mut path = tree;
        delegate(&path);
        for part in group.trim_matches('/').split('/') {
            let parent = path.clone();
            path.push(part);
            fs::create_dir_all(&path).attempt(|| format!("making control group {}", path.display()))?;
            inherit_cpuset(&parent, &path)?;
            delegate(&path);
        }
    }
    Ok(())
}

/// Version 2: enables the controllers that a kubelet needs in the groups below. Errors are ignored: the
/// kubelet reports missing controllers itself.
fn delegate(group: &Path) {
    let control = group.join("cgroup.subtree_control");
    if control.exists() {
        for controller in ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"] {
            let _ = fs::write(&control, format!("+{controller}"));
        }
    }
}

/// Version 1: a new cpuset is empty, and no process can enter it until it has processors and memory.
fn inherit_cpuset(parent: &Path, group: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), group.join(file));
        // Version 2 has these files too, and there an empty one means "as the parent".
        if group.join("tasks").exists() && from.exists() {
            let value = fs::read_to_string(&from).attempt(|| format!("reading {}", from.display()))?;
            fs::write(&to, value.trim()).attempt(|| format!("writing {}", to.display()))?;
        }
    }
    Ok(())
}

/// Every process in a group or below it, in any tree.
pub(crate) fn processes(group: &str) -> Result<Vec<ProcessId>> {
    let mut pids: Vec<u32> = Vec::new();
    for tree in trees()? {
        for directory in below(&tree.join(group.trim_matches('/'))) {
            let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            pids.extend(list.lines().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids.into_iter().filter_map(ProcessId::of).collect())
}

/// The processes of all groups at and below `group`, in any tree, whose path contains `part`.
pub(crate) fn processes_in_groups_named(group: &str, part: &str) -> Result<Vec<ProcessId>> {
    let mut found: Vec<ProcessId> = Vec::new();
    for tree in trees()? {
        for directory in below(&tree.join(group.trim_matches('/'))) {
            if directory.to_string_lossy().contains(part) {
                let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
                let pids = list.lines().filter_map(|pid| pid.parse::<u32>().ok());
                found.extend(pids.filter_map(ProcessId::of));
            }
        }
    }
    found.sort_unstable_by_key(|process| process.pid);
    found.dedup();
    Ok(found)
}

/// Removes a group and all groups below it. Their processes must have ended; the kernel may need a moment to
/// notice that.
pub(crate) fn remove(group: &str) -> Result<()> {
    for tree in trees()? {
        let top = tree.join(group.trim_matches('/'));
        let mut groups = below(&top);
        // Deepest first.
        groups.reverse();
        for directory in groups {
            until(
                Duration::from_secs(5),
                &format!("removing control group {}", directory.display()),
                || match fs::remove_dir(&directory) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
                    _ => Ok(()),
                },
            )?;
        }
    }
    Ok(())
}

/// The group and all below it, parents first.
fn below(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if top.is_dir() {
        found.push(top.to_path_buf());
        let mut next = 0;
        while next < found.len() {
            let children = fs::read_dir(&found[next]).into_iter().flatten().flatten();
            found.extend(children.filter(|c| c.file_type().is_ok_and(|t| t.is_dir())).map(|c| c.path()));
            next += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
27 25 0:24 / /sys/fs/cgroup/cpuset rw,relatime shared:3 - cgroup cgroup rw,cpuset
28 25 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
    const V2: &str = "25 20 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn version_1_has_a_tree_for_each_controller_and_may_have_version_2_beside_them() {
        let (v1, v2) = trees_of(V1);
        assert_eq!(v1, [Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup/cpuset")]);
        assert_eq!(v2, [Path::new("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn version_2_has_one_tree() {
        let (v1, v2) = trees_of(V2);
        assert!(v1.is_empty());
        assert_eq!(v2, [Path::new("/sys/fs/cgroup")]);
    }

    #[test]
    fn groups_are_listed_with_parents_before_children() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("top/a/b")).unwrap();
        fs::create_dir_all(tree.path().join("top/c")).unwrap();
        let found = below(&tree.path().join("top"));
        let position = |name: &str| found.iter().position(|path| path.ends_with(name)).unwrap();
        assert_eq!(found.len(), 4);
        assert!(position("top") < position("a") && position("a") < position("b"));
    }

    #[test]
    fn a_new_cpuset_of_version_1_gets_what_its_parent_has() {
        let tree = tempfile::tempdir().unwrap();
        let group = tree.path().join("group");
        fs::create_dir(&group).unwrap();
        fs::write(tree.path().join("cpuset.cpus"), "0-1\n").unwrap();
        fs::write(group.join("tasks"), "").unwrap();
        inherit_cpuset(tree.path(), &group).unwrap();
        assert_eq!(fs::read_to_string(group.join("cpuset.cpus")).unwrap(), "0-1");
    }
}
