//! Paths and names of a testbed. Every name contains the testbed's id.

use std::path::{Path, PathBuf};

/// The directory of all testbeds, each in a directory of its own. On disk and not below /run, since it
/// contains images and container filesystems.
const BASE: &str = "/var/lib/lbstack-testbed";

/// The directory of named network namespaces (iproute2).
const NAMESPACES: &str = "/run/netns";

/// The files and names of one testbed.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    id: String,
    root: PathBuf,
}

impl Paths {
    pub(crate) fn new(id: &str) -> Self {
        Self { id: id.into(), root: Path::new(BASE).join(id) }
    }

    /// The ids of all testbeds that have left a directory.
    pub(crate) fn ids() -> Vec<String> {
        let entries = std::fs::read_dir(BASE).into_iter().flatten().flatten();
        let mut ids: Vec<String> = entries
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        ids.sort();
        ids
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        Path::new(BASE).join(format!(".{}.lock", self.id))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    pub(crate) fn owner(&self) -> PathBuf {
        self.root.join("owner.json")
    }

    pub(crate) fn processes(&self) -> PathBuf {
        self.root.join("processes")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    pub(crate) fn kubeconfig(&self, identity: &str) -> PathBuf {
        self.root.join("kubeconfig").join(identity)
    }

    /// The administrator's kubeconfig, for use from the machine's own namespace.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig.yaml")
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.logs().join("audit.log")
    }

    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }

    pub(crate) fn etc(&self) -> PathBuf {
        self.root.join("etc")
    }

    pub(crate) fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    /// The frames last seen on the bridge.
    pub(crate) fn frames(&self) -> PathBuf {
        self.root.join("frames")
    }

    /// The prefix of all names that are not below the directory: namespaces, cgroups, CNI networks.
    pub(crate) fn prefix(&self) -> String {
        format!("lbstack-{}", self.id)
    }

    /// The name of a machine's network namespace, for `ip netns`. The underscore, which no id has, keeps the
    /// namespaces of testbed `a` and testbed `a-b` apart.
    pub(crate) fn namespace_name(&self, machine: &str) -> String {
        format!("{}_{machine}", self.prefix())
    }

    pub(crate) fn namespace(&self, machine: &str) -> PathBuf {
        Path::new(NAMESPACES).join(self.namespace_name(machine))
    }

    /// All network namespaces of this testbed.
    pub(crate) fn namespaces(&self) -> Vec<PathBuf> {
        let ours = self.namespace_name("");
        let entries = std::fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&ours))
            .map(|entry| entry.path())
            .collect()
    }

    /// The cgroup of a node, relative to the root of a hierarchy.
    pub(crate) fn node_cgroup(&self, node: &str) -> String {
        format!("/{}/{node}", self.prefix())
    }
}
