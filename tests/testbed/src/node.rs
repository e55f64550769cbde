//! A node: containerd, kubelet and kube-proxy in a network namespace, with their files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::cgroup;
use crate::cleanup::{end_all, processes_in_namespaces, unmount_below};
use crate::control_plane::{both, inside_url, kubeconfig};
use crate::error::{Attempt, Result};
use crate::options::{KubeProxy, Options};
use crate::paths::Paths;
use crate::pki::{Authority, Identity, write};
use crate::plan::{NodePlan, Plan};
use crate::process::{Daemon, Mounts, Namespace, until};
use crate::registry::{PAUSE, Registry};
use crate::topology::{Lan, ip_batch, set_sysctls};

/// Directories that components write to and have no option for. Each node has its own, or kubelets of one
/// machine would remove each other's socket, and one that binds it while another does ends. Below it, where a
/// node keeps it.
pub(crate) const FIXED: &[(&str, &str)] = &[
    // The kubelet's socket for device plugins.
    ("/var/lib/kubelet", "fixed/kubelet"),
    // Its links to the logs of containers.
    ("/var/log/containers", "fixed/containers"),
    // libcni's results.
    ("/var/lib/cni", "fixed/cni"),
    // The sockets of containerd's shims.
    ("/run/containerd", "fixed/containerd"),
];

/// The files and daemons of one node.
#[derive(Clone, Debug)]
pub(crate) struct NodeSetup {
    pub(crate) plan: NodePlan,
    paths: Paths,
    directory: PathBuf,
    containerd: Daemon,
    kubelet: Daemon,
    kube_proxy: Option<Daemon>,
}

impl NodeSetup {
    pub(crate) fn new(paths: &Paths, options: &Options, plan: &NodePlan, binaries: &Path) -> Self {
        let name = &plan.machine.name;
        let directory = paths.node(name);
        let namespace = Namespace::new(paths.namespace(name));
        let file = |name: &str| directory.join(name).display().to_string();
        let addresses: Vec<String> = plan.machine.addresses().iter().map(ToString::to_string).collect();
        let program = crate::packages::find("containerd").unwrap_or_else(|| "containerd".into());
        let containerd = Daemon::new(format!("{name}-containerd"), program)
            .inside(&namespace)
            .seeing(Mounts::Own(FIXED.iter().map(|(place, kept)| (*place, directory.join(kept))).collect()))
            .args(["--config".into(), file("containerd.toml")]);
        let kubelet = Daemon::new(format!("{name}-kubelet"), binaries.join("kubelet"))
            .inside(&namespace)
            // What it mounts for a pod, containerd must see.
            .seeing(Mounts::Of(containerd.name.clone()))
            .args([
                format!("--config={}", file("kubelet.json")),
                format!("--kubeconfig={}", file("kubelet.kubeconfig")),
                format!("--root-dir={}", file("kubelet")),
                format!("--cert-dir={}", file("certificates")),
                format!("--hostname-override={name}"),
                format!("--node-ip={}", addresses.join(",")),
            ]);
        let kube_proxy = (options.kube_proxy != KubeProxy::None).then(|| {
            Daemon::new(format!("{name}-kube-proxy"), binaries.join("kube-proxy")).inside(&namespace).args([
                format!("--config={}", file("kube-proxy.json")),
                format!("--hostname-override={name}"),
            ])
        });
        Self { plan: plan.clone(), paths: paths.clone(), directory, containerd, kubelet, kube_proxy }
    }

    fn name(&self) -> &str {
        &self.plan.machine.name
    }

    pub(crate) fn cgroup(&self) -> String {
        self.paths.node_cgroup(self.name())
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("containerd/containerd.sock")
    }

    /// Writes all configuration files and certificates.
    pub(crate) fn write_configuration(
        &self,
        options: &Options,
        plan: &Plan,
        authority: &Authority,
        registry: &Registry,
    ) -> Result<()> {
        let name = self.name();
        let node = Identity::member(format!("system:node:{name}"), "system:nodes");
        let proxy = Identity::user("system:kube-proxy");
        let url = inside_url(plan);
        kubeconfig(authority, &node, &url, &self.directory.join("kubelet.kubeconfig"))?;
        kubeconfig(authority, &proxy, &url, &self.directory.join("kube-proxy.kubeconfig"))?;
        authority
            .server(&node, &[name], &self.plan.machine.addresses())?
            .write(&self.directory, "kubelet-server")?;

        write(&self.directory.join("containerd.toml"), &self.containerd_toml())?;
        write(&self.directory.join("registries/_default/hosts.toml"), &registry.hosts_toml())?;
        write(&self.directory.join("cni/10-testbed.conflist"), &self.cni_conflist())?;
        write(&self.directory.join("kubelet.json"), &self.kubelet_configuration(plan))?;
        write(&self.directory.join("kube-proxy.json"), &self.kube_proxy_configuration(options))
    }

    fn containerd_toml(&self) -> String {
        let at = |path: &str| self.directory.join(path).display().to_string();
        // The disabled plugins would log that their filesystems are missing.
        format!(
            r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE, as in a container, runc cannot lower the score and fails.
  restrict_oom_score_adj = true
  # So that no network namespace remains elsewhere.
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{registries}"
"#,
            root = at("containerd/root"),
            state = at("containerd/state"),
            socket = self.socket().display(),
            opt = at("containerd/opt"),
            cni = at("cni"),
            registries = at("registries"),
        )
    }

    fn cni_conflist(&self) -> String {
        let pods = &self.plan.pods;
        let ranges: Vec<_> = [Some(pods.v4.to_string()), pods.v6.map(|v6| v6.to_string())]
            .into_iter()
            .flatten()
            .map(|subnet| json!([{ "subnet": subnet }]))
            .collect();
        let routes: Vec<_> = [Some("0.0.0.0/0"), pods.v6.map(|_| "::/0")]
            .into_iter()
            .flatten()
            .map(|destination| json!({ "dst": destination }))
            .collect();
        let conflist = json!({
            "cniVersion": "0.4.0",
            "name": self.paths.namespace_name(self.name()),
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": true,
                    "hairpinMode": true,
                    // No masquerading: machines on the LAN that connect to pods have routes to them.
                    "ipMasq": false,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": self.directory.join("cni-addresses"),
                        "ranges": ranges,
                        "routes": routes,
                    },
                },
                { "type": "portmap", "capabilities": { "portMappings": true } },
            ],
        });
        format!("{conflist:#}\n")
    }

    fn kubelet_configuration(&self, plan: &Plan) -> String {
        let at = |path: &str| self.directory.join(path);
        let configuration = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": self.paths.pki().join("ca.crt") },
            },
            "authorization": { "mode": "Webhook" },
            "tlsCertFile": at("kubelet-server.crt"),
            "tlsPrivateKeyFile": at("kubelet-server.key"),
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup(),
            "failCgroupV1": false,
            "enforceNodeAllocatable": [],
            "failSwapOn": false,
            "clusterDNS": [plan.dns_service],
            "clusterDomain": "cluster.local",
            // The machine's own resolver is not reachable from the LAN.
            "resolvConf": "",
            "podLogsDir": at("pod-logs"),
            "volumePluginDir": at("volume-plugins"),
            "staticPodPath": "",
            // The disk is shared with the machine, so its usage must not cause evictions.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "localStorageCapacityIsolation": false,
            "serializeImagePulls": false,
            "registerWithTaints": [],
            "maxPods": 200,
        });
        format!("{configuration:#}\n")
    }

    fn kube_proxy_configuration(&self, options: &Options) -> String {
        let configuration = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": options.kube_proxy.as_str(),
            "clientConnection": { "kubeconfig": self.directory.join("kube-proxy.kubeconfig") },
            "clusterCIDR": both(&options.pods),
            // These cannot be set in a network namespace.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        });
        format!("{configuration:#}\n")
    }

    /// Creates the machine and its control group, and starts containerd.
    pub(crate) fn power_on(&self, lan: &Lan, plan: &Plan) -> Result<()> {
        lan.plug_in(&self.plan.machine)?;
        let namespace = Namespace::new(self.paths.namespace(self.name()));
        ip_batch(&namespace, &routes_to_pods(plan, Some(self.name())))?;
        set_sysctls(
            &namespace,
            &[
                ("net.ipv4.ip_forward", "1"),
                ("net.ipv6.conf.all.forwarding", "1"),
                // Needed for kube-proxy's rules to apply between pods of one node.
                ("net.bridge.bridge-nf-call-iptables", "1"),
                ("net.bridge.bridge-nf-call-ip6tables", "1"),
            ],
        )?;
        let own =
            ["containerd", "pod-logs", "volume-plugins", "kubelet"].map(|name| self.directory.join(name));
        let fixed = FIXED.iter().flat_map(|(place, kept)| [PathBuf::from(place), self.directory.join(kept)]);
        for path in own.into_iter().chain(fixed) {
            fs::create_dir_all(&path).attempt(|| format!("making {}", path.display()))?;
        }
        cgroup::create(&self.cgroup())?;
        self.containerd.start(&self.paths)
    }

    /// Starts kubelet and kube-proxy, once containerd answers.
    pub(crate) fn join(&self) -> Result<()> {
        until(Duration::from_secs(20), &format!("containerd of {}", self.name()), || {
            if !self.containerd.is_running(&self.paths) {
                return Err(format!("it has ended:\n{}", self.containerd.log_tail(&self.paths)));
            }
            std::os::unix::net::UnixStream::connect(self.socket())
                .map(drop)
                .map_err(|error| error.to_string())
        })?;
        self.kubelet.start(&self.paths)?;
        self.kube_proxy.as_ref().map_or(Ok(()), |proxy| proxy.start(&self.paths))
    }

    /// Ends everything at once, as a power cut does: first the link, then every process. Everything in memory
    /// is lost: the network, mounts and the state of containers. The disk is kept.
    pub(crate) fn power_off(&self, lan: &Lan) -> Result<()> {
        let namespace = self.paths.namespace(self.name());
        if namespace.exists() {
            lan.cable(self.name(), false)?;
        }
        end_all(|| {
            let mut all = cgroup::processes(&self.cgroup())?;
            all.extend(processes_in_namespaces(std::slice::from_ref(&namespace)));
            Ok(all)
        })?;
        unmount_below(&self.directory)?;
        for lost in ["containerd/state", "cni-addresses", "fixed/containerd"] {
            crate::cleanup::remove_tree(&self.directory.join(lost))?;
        }
        cgroup::remove(&self.cgroup())?;
        lan.unplug(self.name())
    }

    pub(crate) fn kubelet(&self) -> &Daemon {
        &self.kubelet
    }

    pub(crate) fn kube_proxy(&self) -> Option<&Daemon> {
        self.kube_proxy.as_ref()
    }

    /// The daemons, for diagnosis.
    pub(crate) fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        [&self.containerd, &self.kubelet].into_iter().chain(&self.kube_proxy)
    }
}

/// Routes to the pod networks of all nodes but one, as `ip` commands.
pub(crate) fn routes_to_pods(plan: &Plan, except: Option<&str>) -> String {
    let mut batch = String::new();
    for node in plan.nodes.iter().filter(|node| except != Some(node.machine.name.as_str())) {
        batch += &format!("route replace {} via {}\n", node.pods.v4, node.machine.v4.addr());
        if let (Some(pods), Some(v6)) = (node.pods.v6, node.machine.v6) {
            batch += &format!("route replace {pods} via {}\n", v6.addr());
        }
    }
    batch
}
