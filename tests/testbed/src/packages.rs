//! Prerequisites of the machine: root, Linux with network namespaces, Go, and some Debian packages.

use std::path::Path;
use std::process::Command;

use crate::error::{Attempt, Error, Result};
use crate::process::run;
use crate::progress::Progress;

/// A required program and its Debian package.
struct Needed {
    program: &'static str,
    package: &'static str,
}

const fn needed(program: &'static str, package: &'static str) -> Needed {
    Needed { program, package }
}

/// For namespaces and faults alone.
const NETWORK: &[Needed] =
    &[needed("ip", "iproute2"), needed("nft", "nftables"), needed("tcpdump", "tcpdump")];

/// For nodes.
const NODE: &[Needed] = &[
    needed("containerd", "containerd"),
    needed("runc", "runc"),
    needed("/usr/lib/cni/bridge", "containernetworking-plugins"),
    needed("/usr/lib/cni/host-local", "containernetworking-plugins"),
    needed("/usr/lib/cni/portmap", "containernetworking-plugins"),
    needed("iptables", "iptables"),
    needed("conntrack", "conntrack"),
    needed("mount", "mount"),
    needed("curl", "curl"),
];

/// What a testbed is used for, which determines its prerequisites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Machines on a LAN.
    Network,
    /// Those, and Kubernetes nodes.
    Nodes,
}

/// Checks the prerequisites, and installs missing packages.
pub(crate) fn ensure(purpose: Purpose, progress: &Progress) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Prerequisite {
            problem: "the testbed makes network namespaces, mounts and control groups, and you are not root"
                .into(),
            hint: "run the same command as root (`sudo -E env PATH=\"$PATH\" …`), or in a virtual machine"
                .into(),
        });
    }
    let mut packages = missing(purpose);
    if !packages.is_empty() {
        install(&packages, progress)?;
        packages = missing(purpose);
    }
    if !packages.is_empty() {
        return Err(not_installed(&packages, "they were installed, but their programs are missing"));
    }
    if purpose == Purpose::Nodes { raise_limits(progress) } else { Ok(()) }
}

/// Minimum values of machine-wide limits that three nodes may reach. kubelets watch many files, each by an
/// inotify instance, of which a user has 128 by default.
const LIMITS: &[(&str, u64)] =
    &[("/proc/sys/fs/inotify/max_user_instances", 4096), ("/proc/sys/fs/inotify/max_user_watches", 262_144)];

/// Raises the limits. They apply to the whole machine, not to a namespace, so this is reported.
fn raise_limits(progress: &Progress) -> Result<()> {
    for (file, wanted) in LIMITS {
        let now = std::fs::read_to_string(file).attempt(|| format!("reading {file}"))?;
        if now.trim().parse::<u64>().is_ok_and(|now| now < *wanted) {
            progress.say(format!("raising {file} from {} to {wanted}", now.trim()));
            std::fs::write(file, wanted.to_string()).attempt(|| format!("raising {file} to {wanted}"))?;
        }
    }
    Ok(())
}

/// The packages whose programs are missing, without duplicates.
fn missing(purpose: Purpose) -> Vec<&'static str> {
    let nodes: &[Needed] = if purpose == Purpose::Nodes { NODE } else { &[] };
    let mut packages: Vec<&str> = Vec::new();
    for need in NETWORK.iter().chain(nodes) {
        if find(need.program).is_none() && !packages.contains(&need.package) {
            packages.push(need.package);
        }
    }
    packages
}

/// The path of a program, searched in the directories of system programs too if PATH lacks them.
pub(crate) fn find(program: &str) -> Option<std::path::PathBuf> {
    if program.starts_with('/') {
        return Path::new(program).exists().then(|| program.into());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let directories = path.split(':').chain([
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]);
    directories.map(|directory| Path::new(directory).join(program)).find(|candidate| candidate.is_file())
}

fn install(packages: &[&str], progress: &Progress) -> Result<()> {
    if find("apt-get").is_none() {
        return Err(not_installed(packages, "there is no apt-get here to install them with"));
    }
    progress.say(format!("installing the Debian packages {}", packages.join(", ")));
    let apt = |arguments: &[&str]| {
        run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(arguments))
    };
    let wanted = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    // A machine that never fetched its package lists, or has old ones, finds nothing at first.
    if apt(&wanted).is_ok() {
        return Ok(());
    }
    let outcome = apt(&["update"]).and_then(|_| apt(&wanted));
    outcome
        .map(drop)
        .map_err(|error| not_installed(packages, &format!("apt-get could not install them: {error}")))
}

fn not_installed(packages: &[&str], why: &str) -> Error {
    let list = packages.join(" ");
    Error::Prerequisite {
        problem: format!("the testbed needs the Debian packages {list}, and {why}"),
        hint: format!(
            "`apt-get update && apt-get install {list}` on Debian 12 or later; elsewhere install the programs of the same names"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_name_or_by_path() {
        assert!(find("sh").is_some());
        assert!(find("/bin/sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
        assert!(find("/no/such/program").is_none());
    }

    #[test]
    fn the_error_names_each_package_and_the_command_to_type() {
        let text =
            not_installed(&["runc", "nftables"], "there is no apt-get here to install them with").to_string();
        assert!(text.contains("apt-get install runc nftables"), "{text}");
    }
}
