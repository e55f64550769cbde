//! Container images as archives in the format of `docker save`, created without a container engine.
//!
//! Builds are reproducible: archives contain no timestamps, users or host names. They can be used with `crane
//! push` and `ctr image import`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use ring::digest::{Context, SHA256};
use serde_json::json;

use crate::error::{Attempt, Result};

/// An image of one layer, without a base.
#[derive(Clone, Debug, Default)]
pub struct Image {
    entries: BTreeMap<String, Entry>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The user that it runs as: `uid` or `uid:gid`; empty is root.
    pub user: String,
    /// The directory in which it starts; empty is `/`.
    pub working_directory: String,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// Exposed ports, such as `80/tcp`.
    pub ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
enum Entry {
    Directory { mode: u32 },
    Bytes { mode: u32, content: Vec<u8> },
    File { mode: u32, source: PathBuf },
    Link { target: PathBuf },
}

/// The result of [`Image::write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The digest of the image's configuration, which is its id: `sha256:…`.
    pub id: String,
    /// Size of the compressed layer in bytes, which is what a node downloads.
    pub compressed: u64,
}

impl Image {
    /// An empty image.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory. Parents need not be added.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, Entry::Directory { mode })
    }

    /// Adds a file with this content.
    #[must_use]
    pub fn bytes(self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.entry(path, Entry::Bytes { mode, content: content.into() })
    }

    /// Adds a file from this machine's disk, read when the archive is written.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, source: impl Into<PathBuf>) -> Self {
        self.entry(path, Entry::File { mode, source: source.into() })
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(self, path: &str, target: impl Into<PathBuf>) -> Self {
        self.entry(path, Entry::Link { target: target.into() })
    }

    /// Adds all that is below a directory of this machine's disk.
    pub fn tree(mut self, source: &Path) -> Result<Self> {
        let mut pending = vec![source.to_path_buf()];
        while let Some(directory) = pending.pop() {
            let entries = fs::read_dir(&directory).attempt(|| format!("reading {}", directory.display()))?;
            for entry in entries.flatten() {
                let path = entry.path();
                let attempted = || format!("reading {}", path.display());
                let kind = fs::symlink_metadata(&path).attempt(attempted)?;
                let inside = path.strip_prefix(source).unwrap_or(&path).to_string_lossy().into_owned();
                let mode = kind.permissions().mode() & 0o7777;
                if kind.is_symlink() {
                    self = self.link(&inside, fs::read_link(&path).attempt(attempted)?);
                } else if kind.is_dir() {
                    self = self.directory(&inside, mode);
                    pending.push(path);
                } else if kind.is_file() {
                    self = self.file(&inside, mode, path);
                }
            }
        }
        Ok(self)
    }

    fn entry(mut self, path: &str, entry: Entry) -> Self {
        let path = path.trim_matches('/').to_owned();
        // A container runtime would create missing parents with an unspecified mode.
        let mut parent = Path::new(&path).parent();
        while let Some(directory) = parent.filter(|directory| !directory.as_os_str().is_empty()) {
            let name = directory.to_string_lossy().into_owned();
            self.entries.entry(name).or_insert(Entry::Directory { mode: 0o755 });
            parent = directory.parent();
        }
        self.entries.insert(path, entry);
        self
    }

    /// Writes the archive of an image with this name (`lbstack/lbstack:dev`), atomically by a temporary file.
    pub fn write(&self, out: &Path, name: &str) -> Result<Written> {
        let attempted = || format!("writing image {}", out.display());
        let layer = self.layer().attempt(|| format!("creating the layer of {}", out.display()))?;
        let config = self.config(&layer.diff_id).to_string().into_bytes();
        let id = sha256(&config);
        let manifest = json!([{
            "Config": format!("{id}.json"),
            "RepoTags": [name],
            "Layers": [format!("{}.tar.gz", layer.digest)],
        }])
        .to_string();

        let partial = out.with_extension(format!("partial-{}", std::process::id()));
        let mut archive = tar::Builder::new(File::create(&partial).attempt(attempted)?);
        append(&mut archive, &format!("{id}.json"), 0o644, &config).attempt(attempted)?;
        append(&mut archive, &format!("{}.tar.gz", layer.digest), 0o644, &layer.compressed)
            .attempt(attempted)?;
        append(&mut archive, "manifest.json", 0o644, manifest.as_bytes()).attempt(attempted)?;
        archive.into_inner().and_then(|file| file.sync_all()).attempt(attempted)?;
        fs::rename(&partial, out).attempt(attempted)?;
        Ok(Written { id: format!("sha256:{id}"), compressed: layer.compressed.len() as u64 })
    }

    fn layer(&self) -> io::Result<Layer> {
        let compressed = Hashing::new(Vec::new());
        let gzip = GzBuilder::new().mtime(0).write(compressed, Compression::default());
        let mut archive = tar::Builder::new(Hashing::new(gzip));
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory { mode } => {
                    let mut header = header(*mode, 0, tar::EntryType::Directory);
                    archive.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Entry::Bytes { mode, content } => append(&mut archive, path, *mode, content)?,
                Entry::File { mode, source } => {
                    let mut content = Vec::new();
                    File::open(source)?.read_to_end(&mut content)?;
                    append(&mut archive, path, *mode, &content)?;
                }
                Entry::Link { target } => {
                    let mut header = header(0o777, 0, tar::EntryType::Symlink);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        let (gzip, diff_id) = archive.into_inner()?.finish();
        let (compressed, digest) = gzip.finish()?.finish();
        Ok(Layer { compressed, digest, diff_id })
    }

    fn config(&self, diff_id: &str) -> serde_json::Value {
        let ports: BTreeMap<&str, serde_json::Value> =
            self.ports.iter().map(|port| (port.as_str(), json!({}))).collect();
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": self.environment,
                "User": self.user,
                "WorkingDir": self.working_directory,
                "ExposedPorts": ports,
                "Labels": self.labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        })
    }
}

/// This machine's architecture by the name that images use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

struct Layer {
    compressed: Vec<u8>,
    /// Of the compressed bytes.
    digest: String,
    /// Of the bytes before compression.
    diff_id: String,
}

fn header(mode: u32, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append<W: Write>(archive: &mut tar::Builder<W>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut header = header(mode, content.len() as u64, tar::EntryType::Regular);
    archive.append_data(&mut header, path, content)
}

/// The SHA-256 of some bytes in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&SHA256, bytes).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A writer that hashes the data.
struct Hashing<W> {
    inner: W,
    context: Context,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, context: Context::new(&SHA256) }
    }

    fn finish(self) -> (W, String) {
        (self.inner, hex(self.context.finish().as_ref()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.context.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        let mut image = Image::new()
            .directory("/tmp", 0o1777)
            .bytes("/bin/hello", 0o755, "hello")
            .link("/hi", "/bin/hello");
        image.entrypoint = vec!["/bin/hello".into()];
        image.user = "65534".into();
        image
    }

    fn members(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(File::open(archive).unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), content)
        });
        entries.collect()
    }

    #[test]
    fn the_digests_in_an_archive_are_those_of_its_members() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("image.tar");
        let written = image().write(&out, "test/hello:1").unwrap();
        let members = members(&out);
        let manifest: serde_json::Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "test/hello:1");

        let config = &members[manifest[0]["Config"].as_str().unwrap()];
        assert_eq!(written.id, format!("sha256:{}", sha256(config)));
        let config: serde_json::Value = serde_json::from_slice(config).unwrap();
        assert_eq!(config["config"]["User"], "65534");

        let layer_name = manifest[0]["Layers"][0].as_str().unwrap();
        let layer = &members[layer_name];
        assert_eq!(layer_name, format!("{}.tar.gz", sha256(layer)));
        assert_eq!(written.compressed, layer.len() as u64);
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(layer.as_slice()).read_to_end(&mut tar).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(&tar)));
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        image().write(&a, "x").unwrap();
        image().write(&b, "x").unwrap();
        assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no temporary file remains");
    }

    #[test]
    fn a_tree_keeps_modes_and_links_and_missing_parents_are_added() {
        let source = tempfile::tempdir().unwrap();
        fs::create_dir(source.path().join("etc")).unwrap();
        fs::write(source.path().join("etc/passwd"), "root").unwrap();
        std::os::unix::fs::symlink("passwd", source.path().join("etc/link")).unwrap();
        let image = Image::new().tree(source.path()).unwrap().bytes("/a/b/c", 0o600, "");
        let layer = image.layer().unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.compressed.as_slice()));
        let members: Vec<(String, u32, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                (entry.path().unwrap().display().to_string(), header.mode().unwrap(), header.mtime().unwrap())
            })
            .collect();
        let names: Vec<&str> = members.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["a/", "a/b/", "a/b/c", "etc/", "etc/link", "etc/passwd"]);
        assert!(members.iter().all(|(_, _, mtime)| *mtime == 0));
        assert_eq!(members[2].1, 0o600);
    }
}
