//! etcd, API server, controller manager and scheduler: their certificates, flags and order.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::{Attempt, Result};
use crate::options::{Options, Ranges};
use crate::paths::Paths;
use crate::pki::{Authority, Identity, service_account_key, write};
use crate::plan::Plan;
use crate::process::{Daemon, Namespace};

/// The port of the API server on the LAN.
pub(crate) const API_PORT: u16 = 6443;

/// Users of the control plane's own processes.
pub(crate) const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
pub(crate) const SCHEDULER: &str = "system:kube-scheduler";

/// The daemons of the control plane.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    pub(crate) etcd: Daemon,
    pub(crate) api_server: Daemon,
    pub(crate) controller_manager: Daemon,
    pub(crate) scheduler: Daemon,
}

impl ControlPlane {
    pub(crate) fn new(paths: &Paths, options: &Options, plan: &Plan, binaries: &Path) -> Self {
        let namespace = Namespace::new(paths.namespace(&plan.control_plane.name));
        Self {
            etcd: etcd(paths, binaries).inside(&namespace),
            api_server: api_server(paths, options, plan, binaries).inside(&namespace),
            controller_manager: controller_manager(paths, options, binaries).inside(&namespace),
            scheduler: Daemon::new("kube-scheduler", binaries.join("kube-scheduler"))
                .args([
                    format!("--kubeconfig={}", paths.kubeconfig(SCHEDULER).display()),
                    "--leader-elect=false".into(),
                ])
                .inside(&namespace),
        }
    }
}

/// Makes the authority, the API server's certificates, and the kubeconfigs of the control plane and the
/// administrator.
pub(crate) fn make_certificates(paths: &Paths, plan: &Plan, api_port: u16) -> Result<Authority> {
    let pki = paths.pki();
    let authority = Authority::create(&pki)?;
    service_account_key(&pki)?;
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    let mut addresses: Vec<IpAddr> = vec![IpAddr::from([127, 0, 0, 1])];
    addresses.extend(plan.control_plane.addresses());
    addresses.extend(&plan.api_service);
    authority.server(&Identity::user("kube-apiserver"), &names, &addresses)?.write(&pki, "api-server")?;
    authority
        .client(&Identity::member("kube-apiserver-kubelet-client", "system:masters"))?
        .write(&pki, "kubelet-client")?;

    let inside = inside_url(plan);
    for user in [CONTROLLER_MANAGER, SCHEDULER] {
        kubeconfig(&authority, &Identity::user(user), &inside, &paths.kubeconfig(user))?;
    }
    kubeconfig(&authority, &Identity::admin(), &outside_url(api_port), &paths.admin_kubeconfig())?;
    Ok(authority)
}

/// The URL of the API server on the LAN.
pub(crate) fn inside_url(plan: &Plan) -> String {
    format!("https://{}:{API_PORT}", plan.control_plane.v4.addr())
}

/// The URL of the API server on the machine itself, through the forwarder.
pub(crate) fn outside_url(api_port: u16) -> String {
    format!("https://127.0.0.1:{api_port}")
}

/// Writes a kubeconfig with a client certificate of its own. JSON is YAML.
pub(crate) fn kubeconfig(authority: &Authority, identity: &Identity, url: &str, path: &Path) -> Result<()> {
    let pair = authority.client(identity)?;
    let certificate = authority.certificate();
    let ca = std::fs::read(&certificate).attempt(|| format!("reading {}", certificate.display()))?;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "testbed",
            "cluster": { "server": url, "certificate-authority-data": base64(&ca) },
        }],
        "users": [{
            "name": identity.user,
            "user": {
                "client-certificate-data": base64(pair.certificate.as_bytes()),
                "client-key-data": base64(pair.key.as_bytes()),
            },
        }],
        "contexts": [{ "name": "testbed", "context": { "cluster": "testbed", "user": identity.user } }],
        "current-context": "testbed",
    });
    write(path, &format!("{config:#}\n"))
}

fn etcd(paths: &Paths, binaries: &Path) -> Daemon {
    Daemon::new("etcd", binaries.join("etcd")).args([
        format!("--data-dir={}", paths.etcd().display()),
        // The data need not survive a crash, and fsync takes most of the time.
        "--unsafe-no-fsync".into(),
        "--listen-client-urls=http://127.0.0.1:2379".into(),
        "--advertise-client-urls=http://127.0.0.1:2379".into(),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        "--log-level=warn".into(),
    ])
}

fn api_server(paths: &Paths, options: &Options, plan: &Plan, binaries: &Path) -> Daemon {
    let pki = paths.pki();
    let file = |name: &str| pki.join(name).display().to_string();
    Daemon::new("kube-apiserver", binaries.join("kube-apiserver"))
        .args([
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--secure-port={API_PORT}"),
            format!("--advertise-address={}", plan.control_plane.v4.addr()),
            format!("--service-cluster-ip-range={}", both(&options.services)),
            format!("--tls-cert-file={}", file("api-server.crt")),
            format!("--tls-private-key-file={}", file("api-server.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
            format!("--kubelet-client-key={}", file("kubelet-client.key")),
            format!("--kubelet-certificate-authority={}", file("ca.crt")),
            "--kubelet-preferred-address-types=InternalIP".into(),
            format!("--service-account-key-file={}", file("service-accounts.pub")),
            format!("--service-account-signing-key-file={}", file("service-accounts.key")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            // Admission calls go to the pods themselves, which the control plane has routes to; there is no
            // kube-proxy there.
            "--enable-aggregator-routing=true".into(),
            format!("--audit-policy-file={}", audit_policy(paths).display()),
            format!("--audit-log-path={}", paths.audit_log().display()),
            "--audit-log-mode=batch".into(),
            "--audit-log-batch-max-wait=1s".into(),
            // Certificates of a throwaway cluster need no event per second of lease traffic.
            "--profiling=false".into(),
        ])
        .args(options.api_server_flags.iter().cloned())
}

fn controller_manager(paths: &Paths, options: &Options, binaries: &Path) -> Daemon {
    let pki = paths.pki();
    Daemon::new("kube-controller-manager", binaries.join("kube-controller-manager"))
        .args([
            format!("--kubeconfig={}", paths.kubeconfig(CONTROLLER_MANAGER).display()),
            "--use-service-account-credentials=true".into(),
            format!("--service-account-private-key-file={}", pki.join("service-accounts.key").display()),
            // Without it pods get an empty ca.crt.
            format!("--root-ca-file={}", pki.join("ca.crt").display()),
            format!("--cluster-signing-cert-file={}", pki.join("ca.crt").display()),
            format!("--cluster-signing-key-file={}", pki.join("ca.key").display()),
            "--leader-elect=false".into(),
        ])
        .args(options.controller_manager_flags.iter().cloned())
}

fn audit_policy(paths: &Paths) -> PathBuf {
    paths.etc().join("audit-policy.yaml")
}

/// Writes the files that the flags name.
pub(crate) fn write_configuration(paths: &Paths) -> Result<()> {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        // One line for each request, when it is answered.
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{ "level": "Metadata" }],
    });
    write(&audit_policy(paths), &format!("{policy:#}\n"))
}

/// Both families of a range as flags want them: `10.96.0.0/16,fd00:10:96::/112`.
pub(crate) fn both(ranges: &Ranges) -> String {
    ranges.v6.map_or_else(|| ranges.v4.to_string(), |v6| format!("{},{v6}", ranges.v4))
}

/// RFC 4648, section 4.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for position in 0..4 {
            if position <= group.len() {
                text.push(char::from(ALPHABET[(word >> (18 - 6 * position) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn the_api_server_serves_both_families_and_writes_an_audit_log() {
        let options = Options::default();
        let plan = Plan::new(&options).unwrap();
        let control_plane = ControlPlane::new(&Paths::new("x"), &options, &plan, Path::new("/bin"));
        let args = control_plane.api_server.args;
        assert!(
            args.contains(&"--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112".to_owned()),
            "{args:?}"
        );
        assert!(
            args.contains(&"--audit-log-path=/var/lib/lbstack-testbed/x/logs/audit.log".to_owned()),
            "{args:?}"
        );
    }
}
