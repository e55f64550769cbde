//! Programs built from source: the Kubernetes components and crane from Go modules, our own from this
//! workspace.
//!
//! A component is a directory below `components/` with a go.mod. To add one, add the directory and a variant.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cache;
use crate::error::{Attempt, Error, Result};
use crate::image::sha256;
use crate::packages::find;
use crate::progress::Progress;

/// A program that is built from a Go module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// Kubernetes and etcd as one multi-call binary.
    Node,
    /// The registry and its client.
    Crane,
}

/// The version of Kubernetes. The same as in go.mod; without the stamp the server would report v0.0.0.
const KUBERNETES: (&str, &str, &str) = ("v1.34.4", "1", "34");

impl Component {
    fn directory(self) -> PathBuf {
        let name = match self {
            Self::Node => "node",
            Self::Crane => "crane",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("components").join(name)
    }

    /// The package to build, seen from the component's module.
    fn package(self) -> &'static str {
        match self {
            Self::Node => ".",
            Self::Crane => "github.com/google/go-containerregistry/cmd/crane",
        }
    }

    /// The names under which the binary is called.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Node => &[
                "etcd",
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
            ],
            Self::Crane => &["crane"],
        }
    }

    /// A description for progress messages.
    fn description(self) -> &'static str {
        match self {
            Self::Node => "Kubernetes and etcd (once; about five minutes on two cores)",
            Self::Crane => "the image registry (once; half a minute)",
        }
    }

    fn linker_flags(self) -> String {
        let stamp = match self {
            Self::Node => {
                let (version, major, minor) = KUBERNETES;
                let base = "k8s.io/component-base/version";
                format!(
                    " -X {base}.gitVersion={version} -X {base}.gitMajor={major} -X {base}.gitMinor={minor} \
                     -X {base}.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion={version}"
                )
            }
            Self::Crane => String::new(),
        };
        format!("-s -w{stamp}")
    }

    /// The directory that has the binary under each of its names, built first if need be.
    pub fn ensure(self, progress: &Progress) -> Result<PathBuf> {
        let key = self.key()?;
        cache::entry("components", &key, |place| self.build(place, progress))
    }

    /// Changes when anything that the binary is made from does.
    fn key(self) -> Result<String> {
        let directory = self.directory();
        let mut sources: Vec<PathBuf> = fs::read_dir(&directory)
            .attempt(|| format!("reading {}", directory.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .collect();
        sources.sort();
        let mut everything =
            format!("{} {} {}\n", self.package(), self.linker_flags(), std::env::consts::ARCH);
        for source in sources {
            let content = fs::read_to_string(&source).attempt(|| format!("reading {}", source.display()))?;
            everything +=
                &format!("{}\n{content}\n", source.file_name().unwrap_or_default().to_string_lossy());
        }
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(format!("{name}-{}", &sha256(everything.as_bytes())[..16]))
    }

    fn build(self, place: &Path, progress: &Progress) -> Result<()> {
        let go = find("go").or_else(|| find("/usr/local/go/bin/go")).ok_or_else(|| Error::Prerequisite {
            problem: "the testbed builds Kubernetes from source, and there is no Go here".into(),
            hint: "install Go 1.24 or later from https://go.dev/dl/ into /usr/local/go, and put /usr/local/go/bin \
                     into PATH"
                .into(),
        })?;
        let binary = place.join("binary");
        let mut command = Command::new(go);
        command
            .current_dir(self.directory())
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            .args([
                "build",
                "-v",
                "-buildvcs=false",
                "-trimpath",
                "-mod=readonly",
                "-ldflags",
                &self.linker_flags(),
                "-o",
            ])
            .arg(&binary)
            .arg(self.package());
        run_build(command, self.description(), progress)?;
        for name in self.names() {
            symlink("binary", place.join(name)).attempt(|| format!("naming {}", binary.display()))?;
        }
        Ok(())
    }
}

/// Runs a long build and reports its progress every ten seconds. `go build -v` prints the name of each
/// package that it compiles, cargo a line `Compiling …`; nothing is reported if nothing is compiled.
fn run_build(mut command: Command, description: &str, progress: &Progress) -> Result<()> {
    let start = Instant::now();
    let attempted = || format!("building {description}");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().attempt(attempted)?;
    let mut output = Vec::new();
    let mut compiled = 0;
    let mut last_reported: Option<Instant> = None;
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.attempt(attempted)?;
        if is_compiled(&line) {
            compiled += 1;
            if last_reported.is_none() {
                progress.say(format!("building {description}"));
                last_reported = Some(Instant::now());
            }
        } else {
            output.push(line);
        }
        if last_reported.is_some_and(|at| at.elapsed() > Duration::from_secs(10)) {
            last_reported = Some(Instant::now());
            progress.say(format!("  {compiled} packages after {} s", start.elapsed().as_secs()));
        }
    }
    let status = child.wait().attempt(attempted)?;
    if status.success() {
        return Ok(());
    }
    let output = output.split_off(output.len().saturating_sub(60)).join("\n");
    Err(Error::Command { command: format!("build of {description}"), status: status.to_string(), output })
}

/// Whether a line says that a package is compiled: an import path without spaces, or cargo's line.
fn is_compiled(line: &str) -> bool {
    line.trim_start().starts_with("Compiling ") || (!line.is_empty() && !line.contains([' ', '\t', '#']))
}

/// Static binaries of this workspace.
#[derive(Clone, Debug)]
pub struct Static {
    directory: PathBuf,
}

impl Static {
    /// Builds packages of this workspace for this machine's architecture, statically linked, so that they run
    /// in an image without any file beside them.
    pub fn build(packages: &[&str], description: &str, progress: &Progress) -> Result<Self> {
        Self::build_in("static", "dist", packages, description, progress, &[])
    }

    /// Builds what runs inside of the testbed.
    pub(crate) fn tools(progress: &Progress) -> Result<Self> {
        // They mostly wait for the network, so a short build time matters more than fast code.
        let quick = [("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")];
        let packages = ["testbed-tools", "testbed"];
        Self::build_in("testbed", "release", &packages, "the testbed's own tools", progress, &quick)
    }

    /// A target directory of its own keeps a build from waiting for others: cargo locks it as a whole.
    fn build_in(
        place: &str,
        profile: &str,
        packages: &[&str],
        description: &str,
        progress: &Progress,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let workspace = workspace();
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let target_directory = target_directory().join(place);
        let variable = target.to_uppercase().replace('-', "_");
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(&workspace)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .envs(settings.iter().copied())
            .env(
                format!("CARGO_TARGET_{variable}_RUSTFLAGS"),
                "-C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\"",
            )
            .args(["build", "--profile", profile, "--bins", "--target", &target, "--target-dir"])
            .arg(&target_directory);
        for package in packages {
            command.args(["--package", package]);
        }
        run_build(command, description, progress)?;
        Ok(Self { directory: target_directory.join(target).join(profile) })
    }

    /// Where the binaries are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of a binary.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// The target directory of cargo.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_component_is_stable_and_names_it() {
        let key = Component::Node.key().unwrap();
        assert!(key.starts_with("node-"), "{key}");
        assert_eq!(key, Component::Node.key().unwrap());
        assert_ne!(key, Component::Crane.key().unwrap());
    }

    #[test]
    fn the_version_stamp_is_the_version_in_go_mod() {
        let go_mod = fs::read_to_string(Component::Node.directory().join("go.mod")).unwrap();
        assert!(go_mod.contains(&format!("k8s.io/kubernetes {}", KUBERNETES.0)));
    }

    #[test]
    fn lines_that_name_a_compiled_package_are_recognized() {
        assert!(is_compiled("k8s.io/kubernetes/pkg/kubelet"));
        assert!(is_compiled("   Compiling libc v0.2.191"));
        for other in
            ["", "go: downloading k8s.io/api v0.34.4", "# k8s.io/api", "    Blocking waiting for file lock"]
        {
            assert!(!is_compiled(other), "{other:?}");
        }
    }

    #[test]
    fn the_workspace_is_the_directory_with_the_lock_file() {
        assert!(workspace().join("Cargo.lock").is_file());
    }
}
