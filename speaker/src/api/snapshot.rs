//! The state that a restarted speaker needs while the API server is unavailable: the objects of its last
//! view, and what it owned. One file, in a directory that outlives the container (an emptyDir), replaced by
//! rename.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufWriter};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use announce::cluster::GroupId;
use announce::cluster::link::Link;
use announce::layer2::view::{View, ViewSettings};
use rules::LastValid;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::inputs::Inputs;
use crate::api::watches::Caches;
use crate::layer2::driver::Published;

const FILE: &str = "snapshot.json";
/// Version of the format. A file of another version is ignored: then the speaker waits for the API server.
const VERSION: u32 = 2;
/// How long changes are gathered before they are written.
const SETTLE: Duration = Duration::from_secs(1);

/// The content of the file.
#[derive(Serialize, Deserialize)]
pub(crate) struct Snapshot {
    version: u32,
    /// The groups that this node owned, with their epochs.
    claims: BTreeMap<IpAddr, u64>,
    #[serde(rename = "known")]
    inputs: Inputs,
}

/// The part of the file that every release can read.
#[derive(Deserialize)]
struct Format {
    version: u32,
}

impl Snapshot {
    /// Reads the file; none if it does not exist or cannot be read.
    pub(crate) fn read(directory: &Path) -> Option<Self> {
        let path = directory.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "cannot read the snapshot");
                }
                return None;
            }
        };
        // The version first: everything else may differ in another release.
        let format = serde_json::from_slice::<Format>(&bytes);
        if let Ok(Format { version }) = format
            && version != VERSION
        {
            tracing::info!(version, "the snapshot is ignored: it was written by another release");
            return None;
        }
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot parse the snapshot");
                None
            }
        }
    }

    /// The objects and configuration.
    pub(crate) fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// The last valid versions of configuration objects.
    pub(crate) fn last_valid(&self) -> LastValid {
        self.inputs.last_valid.clone()
    }

    /// The view at the time of the snapshot.
    pub(crate) fn view(self, settings: &ViewSettings, links: &[Link]) -> View {
        let mut view = Arc::unwrap_or_clone(self.inputs.view(settings, links));
        view.restore_claims(&settings.me, &self.claims);
        view
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        let new = directory.join("snapshot.json.new");
        let mut file = BufWriter::new(File::create(&new)?);
        serde_json::to_writer(&mut file, self)?;
        // After a power failure, some file systems would show the new name with an empty file.
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&new, directory.join(FILE))?;
        File::open(directory)?.sync_all()
    }
}

/// Writes the file whenever the view or what this node owns has changed; no other published change matters.
pub(crate) async fn run_writer(
    directory: PathBuf,
    caches: Caches,
    mut published: watch::Receiver<Published>,
    mut views: watch::Receiver<Option<Arc<View>>>,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    let mut complained = false;
    // Before the first lists are complete there is nothing to save.
    let ready = shutdown.run_until_cancelled(caches.ready()).await;
    if !matches!(ready, Some(Ok(()))) {
        shutdown.cancelled().await;
        return Ok(());
    }
    let mut written = Contents::default();
    loop {
        let begun = std::time::Instant::now();
        let contents = Contents {
            claims: Arc::clone(&published.borrow_and_update().owned),
            view: views.borrow_and_update().clone(),
        };
        if contents.is(&written) {
            let next = async {
                tokio::select! {
                    Ok(()) = published.changed() => {}
                    Ok(()) = views.changed() => {}
                    else => std::future::pending().await,
                }
            };
            match shutdown.run_until_cancelled(next).await {
                Some(()) => continue,
                None => return Ok(()),
            }
        }
        let claims = BTreeMap::clone(&contents.claims);
        written = contents;
        let result = tokio::task::block_in_place(|| {
            let inputs = caches.inputs().only_our_services();
            Snapshot { version: VERSION, claims, inputs }.write(&directory)
        });
        if let Err(error) = result
            && !std::mem::replace(&mut complained, true)
        {
            let path = directory.display();
            tracing::warn!(%path, %error, "cannot write the snapshot to --state-dir; restarts need the API server");
        }
        let pause = tokio::time::sleep(SETTLE.max(begun.elapsed() * 20));
        if shutdown.run_until_cancelled(pause).await.is_none() {
            return Ok(());
        }
    }
}

/// The versions of what the file is created from.
#[derive(Default)]
struct Contents {
    claims: Arc<BTreeMap<GroupId, u64>>,
    view: Option<Arc<View>>,
}

impl Contents {
    /// Whether both result in the same file.
    fn is(&self, other: &Self) -> bool {
        let (view, known) = (self.view.as_ref().map(Arc::as_ptr), other.view.as_ref().map(Arc::as_ptr));
        view == known && self.claims == other.claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use announce::EthernetAddress;
    use announce::cluster::ExcludeLabel;
    use announce::layer2::placement::Placement;
    use serde_json::json;

    fn settings() -> ViewSettings {
        ViewSettings { me: "node1".into(), placement: Placement::Balanced, exclude_label: ExcludeLabel::Auto }
    }

    fn inputs() -> Inputs {
        let web = json!({"namespace": "default", "name": "web"});
        serde_json::from_value(json!({
            "facts": {
                "services": [
                    {"key": web, "addresses": ["10.0.0.5"], "labels": [], "local": false, "shared": false},
                ],
                "slices": [{"service": web, "nodes": ["node1"]}],
                "nodes": [{"name": "node1", "labels": {}, "usable": true, "cordoned": false}],
                "pods": [{"node": "node1", "address": "192.168.0.1", "ready": true, "generation": 1}],
                "statuses": [],
                "links": {},
            },
            "pools": [{
                "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
                "metadata": {"name": "lan"}, "spec": {"addresses": ["10.0.0.0/24"]},
            }],
            "l2_advertisements": [{
                "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": {"name": "lan"},
            }],
        }))
        .unwrap()
    }

    #[test]
    fn owned_groups_are_restored_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let claims = BTreeMap::from([("10.0.0.5".parse().unwrap(), 7)]);
        Snapshot { version: VERSION, claims, inputs: inputs() }.write(directory.path()).unwrap();
        let eth0 = Link {
            index: 2,
            name: "eth0".into(),
            mac: EthernetAddress([2, 0, 0, 0, 0, 1]),
            broadcast: true,
            link_local: None,
            subnets: std::collections::BTreeSet::from([("10.0.0.1".parse().unwrap(), 24)]),
            carrier_ups: 0,
        };
        let view = Snapshot::read(directory.path()).unwrap().view(&settings(), &[eth0]);
        let group = &view.groups[&"10.0.0.5".parse().unwrap()];
        assert_eq!(group.last, Some(("node1".into(), 7)));
        assert!(group.admits("node1"));
    }

    #[test]
    fn requirement_6_what_is_published_of_foreign_hosts_does_not_rewrite_the_snapshot() {
        let view = Arc::new(View::default());
        let of = |claims: &[(GroupId, u64)], view: &Arc<View>| Contents {
            claims: Arc::new(claims.iter().copied().collect()),
            view: Some(Arc::clone(view)),
        };
        let (id, none) = ("10.0.0.5".parse().unwrap(), Contents::default());
        assert!(!of(&[], &view).is(&none), "the first view");
        assert!(of(&[(id, 1)], &view).is(&of(&[(id, 1)], &view)), "a publication about anything else");
        assert!(!of(&[(id, 1)], &view).is(&of(&[(id, 2)], &view)));
        assert!(!of(&[(id, 1)], &view).is(&of(&[(id, 1)], &Arc::default())));
    }

    #[test]
    fn a_restart_without_an_api_server_keeps_the_last_valid_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let mut known = serde_json::to_value(inputs()).unwrap();
        known["pools"][0]["spec"]["addresses"] = json!(["10.0.0.0/240"]);
        known["l2_advertisements"][0]["spec"] =
            json!({"nodeSelectors": [{"matchExpressions": [{"key": "k", "operator": "Is"}]}]});
        known["last_valid"] = json!({
            "pools": {"/lan": {"spec": {"addresses": ["10.0.0.0/24"]}, "missed": false}},
            "l2_advertisements": {"/lan": {"spec": {"interfaces": ["eth0"]}, "missed": false}},
        });
        let known = serde_json::from_value(known).unwrap();
        Snapshot { version: VERSION, claims: BTreeMap::new(), inputs: known }
            .write(directory.path())
            .unwrap();
        let snapshot = Snapshot::read(directory.path()).unwrap();
        let eth0 = Link {
            index: 2,
            name: "eth0".into(),
            mac: EthernetAddress([2, 0, 0, 0, 0, 1]),
            broadcast: true,
            link_local: None,
            subnets: std::collections::BTreeSet::new(),
            carrier_ups: 0,
        };
        let view = snapshot.view(&settings(), &[eth0]);
        let address = "10.0.0.5".parse().unwrap();
        let group = &view.groups[&address];
        assert!(group.admits("node1"));
        let scope = group.addresses.get(address).unwrap();
        assert!(scope.covers("eth0") && !scope.covers("eth1"), "the last valid interfaces");
    }

    #[test]
    fn a_missing_a_damaged_and_a_foreign_file_are_ignored() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Snapshot::read(directory.path()).is_none());
        for damaged in ["", "{", "{\"version\": 2}"] {
            std::fs::write(directory.path().join(FILE), damaged).unwrap();
            assert!(Snapshot::read(directory.path()).is_none());
        }
        let other = Snapshot { version: VERSION + 1, claims: BTreeMap::new(), inputs: inputs() };
        other.write(directory.path()).unwrap();
        assert!(Snapshot::read(directory.path()).is_none());
    }
}
