//! Detection of remains of a testbed on the machine, independent of the testbed's own code.

use std::fs;
use std::path::Path;

use crate::{Outcome, check};

pub(crate) fn no_traces_of(id: &str) -> Outcome {
    let traces = traces_of(id);
    check(traces.is_empty(), format!("traces of {id}:\n{}", traces.join("\n")))
}

/// All processes, mounts and files on this machine that belong to the testbed with this id.
pub(crate) fn traces_of(id: &str) -> Vec<String> {
    let directory = format!("/var/lib/lbstack-testbed/{id}");
    let name = format!("lbstack-{id}");
    let mut traces = Vec::new();
    if Path::new(&directory).exists() {
        traces.push(directory.clone());
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let read = |file: &str| {
            String::from_utf8_lossy(&fs::read(process.path().join(file)).unwrap_or_default()).into_owned()
        };
        let command = read("cmdline").replace('\0', " ");
        // A zombie has no command line.
        if command.is_empty() {
            continue;
        }
        if command.contains(&format!("{directory}/")) || read("cgroup").contains(&format!("/{name}/")) {
            traces.push(format!("process {command}"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    traces
        .extend(mounts.lines().filter(|line| line.contains(&format!("{directory}/"))).map(ToOwned::to_owned));
    let listings = ["/run/netns", "/var/lib/cni/results", "/var/log/containers", "/sys/fs/cgroup"];
    let mut places: Vec<_> = listings.iter().map(|place| Path::new(place).to_path_buf()).collect();
    // On version 1 of control groups there is a tree for each controller.
    places.extend(fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()));
    for place in places {
        let entries = fs::read_dir(&place).into_iter().flatten().flatten();
        for entry in entries {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let own = entry.file_name().to_string_lossy().into_owned();
            if own == name || own.starts_with(&format!("{name}_")) || target.starts_with(&directory) {
                traces.push(entry.path().display().to_string());
            }
        }
    }
    traces
}
