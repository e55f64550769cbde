//! `cargo xtask image`: the container image, made without a container engine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use testbed::{Image, Static, Written};

/// The name of the image under test.
pub(crate) const TEST_TAG: &str = "lbstack/lbstack:test";

/// The user and group `nobody`, as which operator and controller run. The speaker's DaemonSet requests root,
/// and drops all capabilities except for raw sockets.
const NOBODY: &str = "65534:65534";

/// Arguments of `cargo xtask image`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the image, such as registry.example.com/lbstack/lbstack:0.1.0.
    #[arg(long)]
    tag: String,
    /// File to write; `crane push` and `ctr image import` take it.
    #[arg(long)]
    out: PathBuf,
}

/// A built image.
pub(crate) struct Built {
    /// The image as an archive.
    pub(crate) archive: PathBuf,
    /// The binary in it, which also runs outside of a container.
    pub(crate) binary: PathBuf,
    /// Its id and size.
    pub(crate) written: Written,
}

impl Built {
    /// The environment variables that pass it to tests and benchmarks.
    pub(crate) fn environment(&self) -> [(&str, &OsStr); 2] {
        [("LBSTACK_TEST_IMAGE", self.archive.as_os_str()), ("LBSTACK_TEST_BINARY", self.binary.as_os_str())]
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let built = build_to(&args.tag, &args.out)?;
    println!(
        "{}: {} for linux/{}\n  id {}\n  {:.1} MB to download",
        args.out.display(),
        args.tag,
        testbed::architecture(),
        built.written.id,
        megabytes(built.written.compressed),
    );
    println!("\nTo push it:  crane push {} {}", args.out.display(), args.tag);
    println!("Into a node: ctr --namespace k8s.io image import {}", args.out.display());
    Ok(())
}

/// Builds the image under this name into cargo's target directory.
pub(crate) fn build(tag: &str) -> anyhow::Result<Built> {
    let file = format!("{}.tar", tag.replace(['/', ':'], "-"));
    let directory = testbed::target_directory().join("images");
    std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    build_to(tag, &directory.join(file))
}

fn build_to(tag: &str, out: &Path) -> anyhow::Result<Built> {
    let binary =
        Static::build(&["lbstack"], "lbstack for its image", &crate::cluster::progress())?.binary("lbstack");
    let written = image(&binary).write(out, tag)?;
    Ok(Built { archive: out.into(), binary, written })
}

/// One static binary, and a directory for temporary files. The same as in the Dockerfile.
fn image(binary: &Path) -> Image {
    let mut image = Image::new().file("/lbstack", 0o755, binary).directory("/tmp", 0o1777);
    image.entrypoint = vec!["/lbstack".into()];
    image.user = NOBODY.into();
    let labels = [
        ("org.opencontainers.image.title", "lbstack"),
        ("org.opencontainers.image.description", "Load balancing for bare-metal Kubernetes"),
        ("org.opencontainers.image.licenses", "Apache-2.0"),
        ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
    ];
    image.labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    image
}

#[allow(clippy::cast_precision_loss, reason = "images are much smaller than 2^52 bytes")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_makes_the_same_image() {
        let dockerfile = std::fs::read_to_string(crate::top().join("Dockerfile")).unwrap();
        for line in ["FROM scratch", &format!("USER {NOBODY}"), "ENTRYPOINT [\"/lbstack\"]"] {
            assert!(dockerfile.lines().any(|have| have == line), "the Dockerfile lacks {line:?}");
        }
        let toolchain = std::fs::read_to_string(crate::top().join("rust-toolchain.toml")).unwrap();
        let version =
            toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
        let minor = version.rsplit_once('.').unwrap().0;
        assert!(
            dockerfile.contains(&format!("FROM rust:{minor}")),
            "the Dockerfile does not build with Rust {minor}"
        );
    }
}
