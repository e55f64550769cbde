//! Creation of a cluster, and access to it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cleanup::{self, Lock};
use crate::components::{Component, Static};
use crate::control_plane::{self, ControlPlane};
use crate::error::{Attempt, Error, Result};
use crate::host::Host;
use crate::node::{NodeSetup, routes_to_pods};
use crate::options::{KubeProxy, Options};
use crate::packages::{self, Purpose};
use crate::paths::Paths;
use crate::pki::Authority;
use crate::plan::Plan;
use crate::process::{Daemon, Namespace, until};
use crate::progress::Progress;
use crate::reaper::Reaper;
use crate::registry::{Images, Registry, WEB};
use crate::state::{Leftover, Owner, State, is_of_this_boot, leftover};
use crate::topology::{BRIDGE, Lan, ip_batch};

/// A real Kubernetes cluster on this machine. It is removed when this is dropped, unless it was created to be
/// kept.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) paths: Paths,
    pub(crate) state: State,
    pub(crate) control_plane: ControlPlane,
    pub(crate) nodes: Vec<NodeSetup>,
    lan: Lan,
    registry: Registry,
    reaper: Option<Reaper>,
    /// Whether it is removed when this handle is dropped.
    owned: bool,
}

impl Cluster {
    /// Builds a cluster and returns when all its nodes are Ready.
    ///
    /// The first time on a machine it builds Kubernetes from source, which takes some minutes; later 10 to 20
    /// s.
    pub fn up(options: Options) -> Result<Self> {
        let plan = Plan::new(&options)?;
        let progress = options.progress.clone();
        let purpose = if options.control_plane_only { Purpose::Network } else { Purpose::Nodes };
        let Prepared { binaries, crane, tools, images } = Prepared::ensure(purpose, &progress)?;

        let paths = Paths::new(&options.id);
        let lock = Lock::take(&paths)?;
        ensure_free(&paths, &progress)?;
        let api_port = free_port(options.api_port)?;
        let state = State {
            complete: false,
            plan,
            options,
            api_port,
            binaries,
            crane,
            tools: tools.directory().into(),
        };
        for directory in [paths.root().into(), paths.processes(), paths.logs(), paths.etc(), paths.frames()] {
            fs::create_dir_all(&directory).attempt(|| format!("making {}", directory.display()))?;
        }
        Owner::this_process()?.write(&paths)?;
        state.write(&paths)?;
        let reaper = if state.options.keep { None } else { Some(Reaper::start(&paths, &state.tools)?) };
        let mut cluster = Self::of(paths, state);
        cluster.reaper = reaper;
        cluster.owned = true;
        let built = cluster.build(images.as_ref(), &progress);
        drop(lock);
        if let Err(error) = built {
            return Err(cluster.failed(error));
        }
        cluster.owned = !cluster.state.options.keep;
        Ok(cluster)
    }

    /// Attaches to a cluster that another process has created and kept.
    pub fn attach(id: &str) -> Result<Self> {
        let paths = Paths::new(id);
        let state = State::read(&paths)?;
        if !state.complete || !is_of_this_boot(&paths) {
            return Err(Error::Prerequisite {
                problem: format!(
                    "the testbed {id:?} is incomplete: its creator has crashed, or is still running"
                ),
                hint: format!("wait, or remove it: `cargo xtask cluster down --id {id}`"),
            });
        }
        Ok(Self::of(paths, state))
    }

    /// The ids of all clusters on this machine, complete or not.
    pub fn list() -> Vec<String> {
        Paths::ids()
    }

    fn of(paths: Paths, state: State) -> Self {
        let (options, plan) = (&state.options, &state.plan);
        let lan = Lan::of(&paths, &plan.lan, &state.tools);
        let setups =
            plan.nodes.iter().map(|node| NodeSetup::new(&paths, options, node, &state.binaries)).collect();
        let registry =
            Registry::new(state.crane.join("crane"), &lan.gateway().namespace, plan.lan.gateway.v4.addr());
        let control_plane = ControlPlane::new(&paths, options, plan, &state.binaries);
        Self { paths, control_plane, nodes: setups, lan, registry, reaper: None, owned: false, state }
    }

    fn build(&mut self, images: Option<&Images>, progress: &Progress) -> Result<()> {
        let plan = self.state.plan.clone();
        progress.say(format!("creating the network {} and its machines", plan.lan.options.v4));
        self.lan.create()?;
        let control_plane = self.lan.plug_in(&plan.control_plane)?;
        self.lan.plug_in(&plan.client)?;
        // Machines that connect to pods directly need routes: the control plane for admission calls, the gateway
        // for responses to pods.
        for namespace in [&control_plane.namespace, &self.lan.gateway().namespace] {
            ip_batch(namespace, &routes_to_pods(&plan, None))?;
        }
        self.frames_daemon().start(&self.paths)?;

        progress.say("starting etcd and the Kubernetes API server");
        let authority = control_plane::make_certificates(&self.paths, &plan, self.state.api_port)?;
        control_plane::write_configuration(&self.paths)?;
        self.forward_daemon().start(&self.paths)?;
        self.control_plane.etcd.start(&self.paths)?;
        self.control_plane.api_server.start(&self.paths)?;
        let this = &*self;
        thread::scope(|scope| -> Result<()> {
            let machines = scope.spawn(|| match images {
                Some(images) => this.prepare_nodes(images, &authority, &plan),
                None => Ok(()),
            });
            this.wait_for_api(Duration::from_secs(60))?;
            this.control_plane.controller_manager.start(&this.paths)?;
            if images.is_some() {
                this.control_plane.scheduler.start(&this.paths)?;
            }
            if this.state.options.kube_proxy != KubeProxy::None {
                this.apply(&kube_proxy_binding().to_string())?;
            }
            machines.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;

        // Without it no pod can be created, and the controller manager needs a moment to create it.
        until(Duration::from_secs(60), "the service account of namespace default", || {
            self.kubectl(["get", "serviceaccount", "default"]).map(drop).map_err(|error| error.to_string())
        })?;
        if !self.nodes.is_empty() {
            progress.say(format!("starting {} nodes and waiting until they are Ready", self.nodes.len()));
            for node in &self.nodes {
                node.join()?;
            }
            self.wait_for_nodes(self.nodes.len(), Duration::from_secs(120))?;
        }
        self.state.complete = true;
        self.state.write(&self.paths)
    }

    /// The steps that do not need the API server: the registry with its images, and the nodes' machines with
    /// containerd.
    fn prepare_nodes(&self, images: &Images, authority: &Authority, plan: &Plan) -> Result<()> {
        self.registry.daemon().start(&self.paths)?;
        for node in &self.nodes {
            node.write_configuration(&self.state.options, plan, authority, &self.registry)?;
            node.power_on(&self.lan, plan)?;
        }
        let registry = self.registry.address.clone();
        until(Duration::from_secs(10), "the image registry", || {
            let connected = self.lan.gateway().enter(|| std::net::TcpStream::connect(&registry));
            connected.map_err(|error| error.to_string())?.map(drop).map_err(|error| error.to_string())
        })?;
        self.registry.fill(images)
    }

    pub(crate) fn wait_for_api(&self, at_most: Duration) -> Result<()> {
        until(at_most, "the API server", || {
            for daemon in [&self.control_plane.etcd, &self.control_plane.api_server] {
                if !daemon.is_running(&self.paths) {
                    return Err(format!("{} has ended:\n{}", daemon.name, daemon.log_tail(&self.paths)));
                }
            }
            self.kubectl(["get", "--raw", "/readyz"]).map(drop).map_err(|error| error.to_string())
        })
    }

    /// Waits until `count` nodes are Ready.
    pub fn wait_for_nodes(&self, count: usize, at_most: Duration) -> Result<()> {
        until(at_most, &format!("{count} Ready nodes"), || {
            let list = self.get(["nodes"]).map_err(|error| error.to_string())?;
            let ready = list["items"].as_array().into_iter().flatten().filter(|node| is_ready(node)).count();
            if ready >= count {
                return Ok(());
            }
            let ended: Vec<String> = self
                .nodes
                .iter()
                .flat_map(NodeSetup::daemons)
                .filter(|daemon| !daemon.is_running(&self.paths))
                .map(|daemon| format!("\n{} has ended:\n{}", daemon.name, daemon.log_tail(&self.paths)))
                .collect();
            Err(format!("{ready} are{}", ended.concat()))
        })
    }

    /// Removes the cluster. Dropping it does the same, but ignores errors.
    pub fn down(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        self.owned = false;
        if let Some(reaper) = self.reaper.take() {
            reaper.stop();
        }
        cleanup::down(self.paths.id()).map(drop)
    }

    /// Handles an error during creation: keeps the logs, and removes the rest.
    fn failed(mut self, error: Error) -> Error {
        let logs = std::env::temp_dir().join(format!("lbstack-testbed-{}", self.paths.id()));
        let kept = copy_files(&self.paths.logs(), &logs);
        let cleared = self.remove();
        let hint = match (kept, cleared) {
            (Ok(()), Ok(())) => format!("its logs are in {}", logs.display()),
            (Err(problem), Ok(())) => format!("its logs could not be kept: {problem}"),
            (_, Err(problem)) => format!("and it could not be removed: {problem}"),
        };
        Error::Up { cause: Box::new(error), hint }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        self.paths.id()
    }

    /// Its options.
    pub fn options(&self) -> &Options {
        &self.state.options
    }

    /// Its address plan.
    pub fn plan(&self) -> &Plan {
        &self.state.plan
    }

    /// The daemons of the testbed, and whether each is running.
    pub fn processes(&self) -> Vec<(String, bool)> {
        let parts = &self.control_plane;
        let mut daemons = vec![self.frames_daemon(), self.forward_daemon(), parts.etcd.clone()];
        daemons.extend([parts.api_server.clone(), parts.controller_manager.clone()]);
        if !self.state.options.control_plane_only {
            daemons.extend([parts.scheduler.clone(), self.registry.daemon()]);
        }
        daemons.extend(self.nodes.iter().flat_map(NodeSetup::daemons).cloned());
        daemons.into_iter().map(|daemon| (daemon.name.clone(), daemon.is_running(&self.paths))).collect()
    }

    /// A machine by its name: `client`, `cp`, `gateway`, `node1`, …
    pub fn host(&self, name: &str) -> Result<Host> {
        if name == self.state.plan.lan.gateway.name {
            return Ok(self.lan.gateway().clone());
        }
        let found = self.state.plan.machines().find(|machine| machine.name == name);
        found.map(|machine| self.lan.host(machine)).ok_or_else(|| {
            let names: Vec<&str> = self.state.plan.machines().map(|machine| machine.name.as_str()).collect();
            Error::Options(format!(
                "there is no machine {name:?}: choose among gateway, {}",
                names.join(", ")
            ))
        })
    }

    /// Pushes an image under a name. The testbed's registry is a mirror of all registries, so that
    /// `lbstack/lbstack:dev`, `docker.io/lbstack/lbstack:dev` and `quay.io/lbstack/lbstack:dev` are the same
    /// image.
    pub fn push(&self, archive: &Path, name: &str) -> Result<()> {
        self.registry.push(archive, name)
    }

    /// The name of an image of a server that answers by HTTP and UDP, at port 8080 of both, with its own name
    /// and the client's address (flags `--http-port`, `--udp-port`, `--name`).
    pub fn web_image(&self) -> &'static str {
        WEB
    }

    /// The LAN, for faults of the network.
    pub fn lan(&self) -> &Lan {
        &self.lan
    }

    /// The machine outside of the cluster.
    pub fn client(&self) -> Host {
        self.lan.host(&self.state.plan.client)
    }

    /// The machine of the API server.
    pub fn control_plane(&self) -> Host {
        self.lan.host(&self.state.plan.control_plane)
    }

    pub(crate) fn frames_daemon(&self) -> Daemon {
        let tcpdump = packages::find("tcpdump").unwrap_or_else(|| "tcpdump".into());
        // Two files of 8 MB alternately, which contain at least the last seconds, without the cluster's own
        // traffic.
        Daemon::new("frames", tcpdump).inside(&self.lan.gateway().namespace).args([
            "-i".into(),
            BRIDGE.into(),
            "-n".into(),
            "-U".into(),
            "-s".into(),
            "160".into(),
            "-Z".into(),
            "root".into(),
            "-C".into(),
            "8".into(),
            "-W".into(),
            "2".into(),
            "-w".into(),
            self.paths.frames().join("bridge").display().to_string(),
            format!(
                "not tcp port {} and not tcp port 10250 and not tcp port {}",
                control_plane::API_PORT,
                crate::registry::PORT
            ),
        ])
    }

    fn forward_daemon(&self) -> Daemon {
        let namespace = Namespace::new(self.paths.namespace(&self.state.plan.control_plane.name));
        Daemon::new("forward", self.state.tools.join("forward")).args([
            "--listen".into(),
            format!("127.0.0.1:{}", self.state.api_port),
            "--namespace".into(),
            namespace.path().display().to_string(),
            "--connect".into(),
            format!("127.0.0.1:{}", control_plane::API_PORT),
        ])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = self.remove()
        {
            let why = format!("the testbed {} could not be removed: {error}", self.id());
            self.state.options.progress.say(why);
        }
    }
}

/// Prerequisites that are built and downloaded once.
struct Prepared {
    binaries: PathBuf,
    crane: PathBuf,
    tools: Static,
    images: Option<Images>,
}

impl Prepared {
    fn ensure(purpose: Purpose, progress: &Progress) -> Result<Self> {
        packages::ensure(purpose, progress)?;
        let binaries = Component::Node.ensure(progress)?;
        let crane = Component::Crane.ensure(progress)?;
        let tools = Static::tools(progress)?;
        let images = if purpose == Purpose::Nodes { Some(Images::ensure(&tools, progress)?) } else { None };
        Ok(Self { binaries, crane, tools, images })
    }
}

/// Installs, builds and downloads everything that a testbed needs, so that the next [`Cluster::up`] is quick.
/// A missing prerequisite is an error with a hint.
pub fn prepare(progress: &Progress) -> Result<()> {
    Prepared::ensure(Purpose::Nodes, progress).map(drop)
}

/// Checks that the id is free, and removes an abandoned testbed.
pub(crate) fn ensure_free(paths: &Paths, progress: &Progress) -> Result<()> {
    match leftover(paths) {
        Leftover::Nothing => Ok(()),
        Leftover::InUse => Err(Error::Prerequisite {
            problem: format!("a testbed named {:?} exists already", paths.id()),
            hint: format!(
                "use it, remove it (`cargo xtask cluster down --id {}`), or choose another id",
                paths.id()
            ),
        }),
        Leftover::Abandoned => {
            progress.say(format!("removing the crashed testbed {}", paths.id()));
            cleanup::clear(paths).map(drop)
        }
    }
}

/// The requested port if it is free, or any free port if none is requested.
fn free_port(wanted: Option<u16>) -> Result<u16> {
    let port = wanted.unwrap_or(0);
    let listener = TcpListener::bind(("127.0.0.1", port)).map_err(|error| Error::Prerequisite {
        problem: format!("port {port} on 127.0.0.1 cannot be used for the API server: {error}"),
        hint: "choose another with --api-port, or omit it to use a free one".into(),
    })?;
    let address = listener.local_addr().attempt(|| "asking for the port".into())?;
    Ok(address.port())
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// kube-proxy's permission to watch Services, as kubeadm grants it.
fn kube_proxy_binding() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "testbed:kube-proxy" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy" }],
    })
}

/// Copies the files of a directory, not those below its subdirectories.
pub(crate) fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).attempt(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(from).attempt(|| format!("reading {}", from.display()))?.flatten() {
        let path = entry.path();
        if path.is_file() {
            fs::copy(&path, to.join(entry.file_name())).attempt(|| format!("copying {}", path.display()))?;
        }
    }
    Ok(())
}
