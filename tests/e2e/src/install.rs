//! Installation of lbstack in a cluster, as described in the README.

use std::path::PathBuf;

use testbed::Cluster;

use crate::suite::top;

/// The image of the manifest.
///
/// # Panics
///
/// The manifest has no image.
fn image_of(manifest: &str) -> &str {
    let line = manifest.lines().find_map(|line| line.trim().strip_prefix("image: "));
    line.expect("deploy/install.yaml names an image")
}

/// Pushes the image under test under the name that `deploy/install.yaml` gives it, and applies that file.
///
/// # Panics
///
/// A step fails, or the tests are not run by `cargo xtask test`, which builds the image.
pub(crate) fn install(cluster: &Cluster) {
    let archive = std::env::var_os("LBSTACK_TEST_IMAGE").map(PathBuf::from);
    let archive = archive.expect("LBSTACK_TEST_IMAGE is not set: run these tests by `cargo xtask test`");
    let manifest = std::fs::read_to_string(top().join("deploy/install.yaml")).unwrap();
    cluster.push(&archive, image_of(&manifest)).unwrap_or_else(|error| panic!("{error}"));
    cluster.apply(&manifest).unwrap_or_else(|error| panic!("{error}"));
    let rollout =
        ["rollout", "status", "deployment/lbstack-operator", "--namespace=lbstack-system", "--timeout=60s"];
    cluster.kubectl(rollout).unwrap_or_else(|error| panic!("{error}"));
}
