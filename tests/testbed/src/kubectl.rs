//! Access to the API server: kubeconfigs, kubectl, and its audit log.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::control_plane::{self, outside_url};
use crate::error::{Attempt, Error, Result};
use crate::pki::{Authority, Identity};
use crate::process::run;

impl Cluster {
    /// The administrator's kubeconfig: works on this machine, in no namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.paths.admin_kubeconfig()
    }

    /// A kubeconfig for another user, with a client certificate of its own.
    pub fn kubeconfig_for(&self, identity: &Identity) -> Result<PathBuf> {
        let path = self.paths.kubeconfig(&format!("{}.outside", identity.user.replace('/', "_")));
        let authority = Authority::open(&self.paths.pki())?;
        control_plane::kubeconfig(&authority, identity, &outside_url(self.state.api_port), &path)?;
        Ok(path)
    }

    /// The administrator's kubeconfig for use on the LAN, where 127.0.0.1 is another machine.
    pub fn kubeconfig_inside(&self) -> Result<PathBuf> {
        let path = self.paths.kubeconfig("admin.inside");
        if !path.exists() {
            let authority = Authority::open(&self.paths.pki())?;
            let url = control_plane::inside_url(&self.state.plan);
            control_plane::kubeconfig(&authority, &Identity::admin(), &url, &path)?;
        }
        Ok(path)
    }

    /// The URL of the API server from this machine.
    pub fn api_url(&self) -> String {
        outside_url(self.state.api_port)
    }

    /// The audit log: one line of JSON for each completed request, at level Metadata. An entry is written
    /// with a delay of at most a second.
    pub fn audit_log(&self) -> PathBuf {
        self.paths.audit_log()
    }

    /// The directory of the processes' logs.
    pub fn logs(&self) -> PathBuf {
        self.paths.logs()
    }

    /// A kubectl of the cluster's version, configured for the cluster.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.state.binaries.join("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            // A cache of discovery results must not be used for another cluster at the same port.
            .arg("--cache-dir")
            .arg(self.paths.root().join("kubectl-cache"));
        command
    }

    /// Runs kubectl and returns its output; its failure is an error.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        run(self.kubectl_command().args(arguments).stdin(Stdio::null()))
    }

    /// `kubectl get … -o json`.
    pub fn get<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Value> {
        let mut command = self.kubectl_command();
        let text = run(command.arg("get").args(["-o", "json"]).args(arguments).stdin(Stdio::null()))?;
        serde_json::from_str(&text).attempt(|| "parsing the output of kubectl".into())
    }

    /// `kubectl apply -f -` of YAML or JSON.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.kubectl_with_input(&["apply", "-f", "-"], manifests)
    }

    /// Runs kubectl with `manifests` as its standard input and returns its output; its failure is an error.
    pub fn kubectl_with_input(&self, arguments: &[&str], manifests: &str) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let attempted = || format!("running kubectl {}", arguments.join(" "));
        let mut child = command.spawn().attempt(attempted)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(manifests.as_bytes()).attempt(attempted)?;
        }
        let output = child.wait_with_output().attempt(attempted)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Command {
            command: format!("kubectl {}", arguments.join(" ")),
            status: output.status.to_string(),
            output: format!("{}given:\n{manifests}", String::from_utf8_lossy(&output.stderr)),
        })
    }

    /// `kubectl delete -f -` of YAML or JSON: waits until the objects are gone. Objects that do not exist are
    /// not an error.
    pub fn delete(&self, manifests: &str) -> Result<String> {
        self.kubectl_with_input(&["delete", "--ignore-not-found", "-f", "-"], manifests)
    }
}
