//! Diagnostic files of a failed test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cluster::{Cluster, copy_files};
use crate::error::{Attempt, Result};

/// Kinds whose objects are written out, beside every custom resource.
const KINDS: &[&str] = &[
    "nodes",
    "namespaces",
    "pods",
    "deployments",
    "daemonsets",
    "replicasets",
    "services",
    "endpointslices",
    "leases",
    "configmaps",
    "customresourcedefinitions",
    "validatingwebhookconfigurations",
];

/// Commands whose output is collected on every machine.
const MACHINE: &[(&str, &[&str])] = &[
    ("addresses", &["ip", "address"]),
    ("neighbours", &["ip", "neighbour"]),
    ("routes", &["ip", "route"]),
    ("routes-ipv6", &["ip", "-6", "route"]),
    ("links", &["ip", "-statistics", "link"]),
];

impl Cluster {
    /// Writes into a directory: events, objects, logs of pods (of containers that ended, too), addresses,
    /// neighbours and routes of every machine, the bridge's forwarding table and multicast groups, the frames
    /// last seen on the bridge, and the processes' own logs. Files that cannot be collected are listed with
    /// the reason in `missing.txt`. Returns the directory.
    pub fn diagnose(&self, directory: &Path) -> Result<PathBuf> {
        let mut diagnosis = Diagnosis::new(directory)?;
        diagnosis.text("events.txt", self.kubectl(["get", "events", "-A", "--sort-by=.lastTimestamp"]))?;
        diagnosis.text("overview.txt", self.kubectl(["get", "all", "-A", "-o", "wide"]))?;
        for kind in KINDS.iter().map(ToString::to_string).chain(self.custom_kinds()) {
            diagnosis
                .text(&format!("objects/{kind}.yaml"), self.kubectl(["get", &kind, "-A", "-o", "yaml"]))?;
        }
        self.pod_logs(&mut diagnosis)?;
        let machines: Vec<_> = self.plan().machines().map(|machine| machine.name.clone()).collect();
        for machine in machines.iter().map(String::as_str).chain(["gateway"]) {
            for (what, words) in MACHINE {
                let answer = self.host(machine).and_then(|host| host.run(*words));
                diagnosis.text(&format!("machines/{machine}/{what}.txt"), answer)?;
            }
        }
        let bridge: [(&str, &[&str]); 3] = [
            ("bridge-forwarding.txt", &["bridge", "fdb", "show"]),
            ("bridge-groups.txt", &["bridge", "mdb", "show"]),
            ("faults.txt", &["nft", "list", "ruleset"]),
        ];
        for (name, words) in bridge {
            diagnosis.text(name, self.lan().gateway().run(words))?;
        }
        diagnosis.text("frames.txt", self.frames())?;
        copy_files(&self.logs(), &directory.join("logs"))?;
        diagnosis.finish()
    }

    /// Custom resources, by their full names.
    fn custom_kinds(&self) -> Vec<String> {
        let definitions = self.get(["customresourcedefinitions"]).unwrap_or_default();
        let items = definitions["items"].as_array().into_iter().flatten();
        items.filter_map(|item| Some(item["metadata"]["name"].as_str()?.to_owned())).collect()
    }

    fn pod_logs(&self, diagnosis: &mut Diagnosis) -> Result<()> {
        let pods = self.get(["pods", "-A"]).unwrap_or_default();
        for pod in pods["items"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (namespace, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
            let logs = |previous: &str| {
                self.kubectl(["logs", "-n", &namespace, &name, "--all-containers", "--timestamps", previous])
            };
            diagnosis.text(&format!("pods/{namespace}/{name}.log"), logs("--previous=false"))?;
            let restarts = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
            if restarts.into_iter().any(|status| status["restartCount"].as_u64().unwrap_or(0) > 0) {
                diagnosis.text(&format!("pods/{namespace}/{name}.previous.log"), logs("--previous=true"))?;
            }
        }
        Ok(())
    }

    /// The frames last seen on the bridge, a line for each.
    fn frames(&self) -> Result<String> {
        let directory = self.paths.frames();
        let entries = fs::read_dir(&directory).attempt(|| format!("reading {}", directory.display()))?;
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        // Two files that are written alternately: the older first.
        files.sort_by_key(|file| fs::metadata(file).and_then(|metadata| metadata.modified()).ok());
        let mut text = String::new();
        for file in files {
            let mut command = Command::new("tcpdump");
            // The last record may be incomplete, which tcpdump reports as a failure.
            let output = command.args(["-n", "-e", "-tttt", "-r"]).arg(&file).stdin(Stdio::null()).output();
            text += &String::from_utf8_lossy(&output.attempt(|| "running tcpdump".into())?.stdout);
        }
        Ok(text)
    }
}

/// The directory of a diagnosis.
struct Diagnosis {
    directory: PathBuf,
    missing: Vec<String>,
}

impl Diagnosis {
    fn new(directory: &Path) -> Result<Self> {
        if directory.exists() {
            // Files of an earlier run would be misleading.
            fs::remove_dir_all(directory).attempt(|| format!("removing {}", directory.display()))?;
        }
        fs::create_dir_all(directory).attempt(|| format!("making {}", directory.display()))?;
        Ok(Self { directory: directory.into(), missing: Vec::new() })
    }

    fn text(&mut self, name: &str, content: Result<String>) -> Result<()> {
        match content {
            Ok(content) => {
                let path = self.directory.join(name);
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).attempt(|| format!("making {}", parent.display()))?;
                }
                fs::write(&path, content).attempt(|| format!("writing {}", path.display()))
            }
            Err(error) => {
                self.missing.push(format!("{name}: {error}"));
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<PathBuf> {
        if !self.missing.is_empty() {
            let path = self.directory.join("missing.txt");
            fs::write(&path, self.missing.join("\n\n")).attempt(|| format!("writing {}", path.display()))?;
        }
        Ok(self.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn files_that_cannot_be_collected_are_listed_and_the_others_are_written() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("diagnosis");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("old.txt"), "of an earlier run").unwrap();
        let mut diagnosis = Diagnosis::new(&directory).unwrap();
        diagnosis.text("a/b.txt", Ok("content".into())).unwrap();
        diagnosis.text("c.txt", Err(Error::Options("the API server is down".into()))).unwrap();
        diagnosis.finish().unwrap();
        assert_eq!(fs::read_to_string(directory.join("a/b.txt")).unwrap(), "content");
        assert_eq!(
            fs::read_to_string(directory.join("missing.txt")).unwrap(),
            "c.txt: the API server is down"
        );
        assert!(!directory.join("old.txt").exists());
    }
}
