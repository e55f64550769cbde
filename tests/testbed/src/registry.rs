//! A real image registry on the LAN, with the images that manifests of all kinds name.
//!
//! Every containerd is configured to use it as a mirror of all registries, so that `nginx`, `quay.io/x/y` and
//! other images are pulled under their original names, also with `imagePullPolicy: Always`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache;
use crate::components::Static;
use crate::error::{Attempt, Error, Result};
use crate::image::{Image, sha256};
use crate::packages::find;
use crate::process::{Daemon, Namespace, run};
use crate::progress::Progress;

/// The port of the registry, at the gateway.
pub(crate) const PORT: u16 = 5000;

/// The image that holds a pod's namespaces.
pub(crate) const PAUSE: &str = "testbed/pause:1";

/// A web server that answers with its own name and the client's address: see [`crate::Cluster::web_image`].
pub(crate) const WEB: &str = "testbed/web:1";

/// The image names of nginx that tutorials use.
const NGINX: &[&str] = &["library/nginx:latest", "library/nginx:stable", "library/nginx:alpine"];

/// The registry of a testbed.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    crane: PathBuf,
    namespace: Namespace,
    /// `ADDRESS:PORT`.
    pub(crate) address: String,
}

impl Registry {
    pub(crate) fn new(crane: PathBuf, namespace: &Namespace, gateway: std::net::Ipv4Addr) -> Self {
        Self { crane, namespace: namespace.clone(), address: format!("{gateway}:{PORT}") }
    }

    pub(crate) fn daemon(&self) -> Daemon {
        Daemon::new("registry", &self.crane).inside(&self.namespace).args([
            "registry",
            "serve",
            "--address",
            &self.address,
        ])
    }

    /// Pushes an archive under a name without a registry: `library/nginx:latest`.
    pub(crate) fn push(&self, archive: &Path, name: &str) -> Result<()> {
        let target = format!("{}/{}", self.address, without_host(name));
        self.namespace
            .run(Command::new(&self.crane).args(["push", "--insecure"]).arg(archive).arg(target))
            .map(drop)
    }

    /// Pushes the images of every cluster.
    pub(crate) fn fill(&self, images: &Images) -> Result<()> {
        self.push(&images.pause, PAUSE)?;
        self.push(&images.web, WEB)?;
        for name in NGINX {
            self.push(&images.nginx, name)?;
        }
        Ok(())
    }

    /// containerd's configuration for it: one host for every registry.
    pub(crate) fn hosts_toml(&self) -> String {
        format!(
            "server = \"http://{0}\"\n\n[host.\"http://{0}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
            self.address
        )
    }
}

/// The archives that are pushed to each registry.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    pause: PathBuf,
    web: PathBuf,
    nginx: PathBuf,
}

impl Images {
    /// Builds them, or takes them from the cache.
    pub(crate) fn ensure(tools: &Static, progress: &Progress) -> Result<Self> {
        Ok(Self {
            pause: one_program(&tools.binary("pause"), PAUSE, "65535")?,
            web: one_program(&tools.binary("web"), WEB, "65534")?,
            nginx: nginx(progress)?,
        })
    }
}

/// An image of one static program.
fn one_program(binary: &Path, name: &str, user: &str) -> Result<PathBuf> {
    let content = fs::read(binary).attempt(|| format!("reading {}", binary.display()))?;
    let program = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let key = format!("{program}-{}", &sha256(&content)[..16]);
    let place = cache::entry("images", &key, |place| {
        let mut image = Image::new().bytes(&program, 0o755, content);
        image.entrypoint = vec![format!("/{program}")];
        image.user = user.into();
        image.write(&place.join("image.tar"), name).map(drop)
    })?;
    Ok(place.join("image.tar"))
}

/// As the official image has it: pages in /usr/share/nginx/html, servers in /etc/nginx/conf.d, logs to the
/// container's output, in the foreground.
const NGINX_CONF: &str = "\
user nobody nogroup;
worker_processes 1;
daemon off;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
";

const NGINX_DEFAULT_SERVER: &str = "\
server {
    listen 80;
    listen [::]:80;
    server_name localhost;
    location / {
        root /usr/share/nginx/html;
        index index.html index.htm;
    }
}
";

/// Debian's own nginx, with the libraries that it is linked to.
fn nginx(progress: &Progress) -> Result<PathBuf> {
    let recipe = format!("1{NGINX_CONF}{NGINX_DEFAULT_SERVER}{}", std::env::consts::ARCH);
    let key = format!("nginx-{}", &sha256(recipe.as_bytes())[..16]);
    let place = cache::entry("images", &key, |place| {
        progress.say("making an image of nginx from Debian's packages (once)");
        let unpacked = place.join("unpacked");
        download(&["nginx", "nginx-common"], place, &unpacked)?;
        let binary = unpacked.join("usr/sbin/nginx");
        let mut image = Image::new()
            .file("/usr/sbin/nginx", 0o755, &binary)
            .file("/etc/nginx/mime.types", 0o644, unpacked.join("etc/nginx/mime.types"))
            .bytes("/etc/nginx/nginx.conf", 0o644, NGINX_CONF)
            .bytes("/etc/nginx/conf.d/default.conf", 0o644, NGINX_DEFAULT_SERVER)
            .file("/usr/share/nginx/html/index.html", 0o644, unpacked.join("usr/share/nginx/html/index.html"))
            .bytes("/etc/passwd", 0o644, "root:x:0:0::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")
            .bytes("/etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n")
            .directory("/run", 0o755)
            .directory("/tmp", 0o1777)
            .directory("/var/log/nginx", 0o755)
            .directory("/var/lib/nginx", 0o755);
        for library in libraries(&binary)? {
            image = image.file(&library.to_string_lossy(), 0o755, &library);
        }
        image.entrypoint = vec!["/usr/sbin/nginx".into()];
        image.ports = vec!["80/tcp".into()];
        image.write(&place.join("image.tar"), NGINX[0])?;
        fs::remove_dir_all(&unpacked).attempt(|| format!("removing {}", unpacked.display()))
    })?;
    Ok(place.join("image.tar"))
}

/// Downloads Debian packages and unpacks them, without installing.
fn download(packages: &[&str], work: &Path, into: &Path) -> Result<()> {
    let list = packages.join(" ");
    if find("apt-get").is_none() || find("dpkg").is_none() {
        return Err(Error::Prerequisite {
            problem: format!(
                "the image is made from the Debian packages {list}, and there is no apt-get here"
            ),
            hint: "run the testbed on Debian 12 or later".into(),
        });
    }
    let get = || run(Command::new("apt-get").current_dir(work).args(["-qq", "download"]).args(packages));
    if get().is_err() {
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        get().map_err(|error| Error::Prerequisite {
            problem: format!("apt-get could not download {list}: {error}"),
            hint: "make sure that /etc/apt/sources.list names a Debian mirror that this machine can reach"
                .into(),
        })?;
    }
    let archives = fs::read_dir(work).attempt(|| format!("reading {}", work.display()))?;
    for archive in
        archives.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "deb"))
    {
        run(Command::new("dpkg").arg("-x").arg(&archive).arg(into))?;
        fs::remove_file(&archive).attempt(|| format!("removing {}", archive.display()))?;
    }
    Ok(())
}

/// The shared libraries of a program, and its loader, as this machine has them.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    let listing = run(Command::new("ldd").arg(binary))?;
    libraries_in(&listing).map_err(|missing| Error::Prerequisite {
        problem: format!("{} needs the library {missing}, which is not installed here", binary.display()),
        hint: "`apt-get install nginx` brings it (and may be removed again but for its dependencies)".into(),
    })
}

fn libraries_in(listing: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for line in listing.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name, "=>", "not", "found"] => return Err((*name).into()),
            [_, "=>", path, ..] | [path, ..] if path.starts_with('/') => found.push(PathBuf::from(path)),
            _ => {}
        }
    }
    Ok(found)
}

/// The image's name without its registry's host (a first part with a dot or a port; the reference grammar of
/// `distribution`).
fn without_host(name: &str) -> &str {
    match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => rest,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_of_a_registry_is_removed_from_a_name() {
        let stripped =
            ["lbstack/web:1", "quay.io/lbstack/web:1", "10.0.0.1:5000/web", "web:1"].map(without_host);
        assert_eq!(stripped, ["lbstack/web:1", "lbstack/web:1", "web", "web:1"]);
    }

    #[test]
    fn libraries_and_the_loader_are_read_from_ldd() {
        let listing = "\
\tlinux-vdso.so.1 (0x00007ffd)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f)";
        let expected = ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries_in(listing).unwrap(), expected);
    }

    #[test]
    fn a_library_that_is_missing_is_named() {
        assert_eq!(libraries_in("\tlibpcre2-8.so.0 => not found").unwrap_err(), "libpcre2-8.so.0");
    }
}
