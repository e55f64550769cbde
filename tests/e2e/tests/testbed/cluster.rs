//! A whole cluster: pods, Services, permissions, faults, diagnosis, and complete removal.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libtest_mimic::Failed;
use testbed::{Cluster, Identity, Options, Progress, Signal, until};

use crate::traces::{no_traces_of, traces_of};
use crate::{Outcome, SOON, check, reaches};

/// The cluster that the tests share, created by the first that needs it.
static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);

/// Its id.
const ID: &str = "selftest";

pub(crate) fn shared() -> MutexGuard<'static, Option<Cluster>> {
    CLUSTER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a test on the shared cluster.
fn on_cluster(test: impl FnOnce(&Cluster) -> Outcome) -> Outcome {
    let mut shared = shared();
    if shared.is_none() {
        *shared = Some(Cluster::up(Options {
            id: ID.into(),
            nodes: 2,
            // NotReady in the time of a test; the kubelet reports every 10 s.
            controller_manager_flags: vec!["--node-monitor-grace-period=21s".into()],
            progress: Progress::to(|line| eprintln!("  {line}")),
            ..Options::default()
        })?);
    }
    let cluster = shared.as_ref().ok_or("there is no cluster")?;
    test(cluster)
}

const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers: [{name: web, image: testbed/web:1, imagePullPolicy: Always}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
";

/// The web pods, one on each node.
fn web(cluster: &Cluster) -> Outcome {
    cluster.apply(WEB)?;
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"])?;
    Ok(())
}

pub(crate) fn pods_are_reached() -> Outcome {
    on_cluster(|cluster| {
        web(cluster)?;
        let client = cluster.client();
        for node in cluster.nodes() {
            for (address, own) in [(node.host.v4.to_string(), client.v4.to_string())]
                .into_iter()
                .chain(node.host.v6.zip(client.v6).map(|(v6, own)| (format!("[{v6}]"), own.to_string())))
            {
                let url = format!("http://{address}:30080/");
                let answer = until(SOON, &url, || client.curl(&url).map_err(|error| error.to_string()))?;
                check(answer.contains("name web-"), format!("{url} is answered by a pod: {answer}"))?;
                check(
                    answer.contains(&format!("client {own}\n")),
                    format!("{url} comes from {own}: {answer}"),
                )?;
            }
        }
        Ok(())
    })
}

pub(crate) fn nginx_is_pulled() -> Outcome {
    on_cluster(|cluster| {
        cluster.kubectl([
            "run",
            "nginx",
            "--image=docker.io/library/nginx:latest",
            "--image-pull-policy=Always",
        ])?;
        cluster.kubectl(["wait", "--for=condition=Ready", "pod/nginx", "--timeout=60s"])?;
        let pod = cluster.get(["pod", "nginx"])?;
        let address = pod["status"]["podIP"].as_str().ok_or("the pod has no address")?;
        let page = cluster.control_plane().curl(&format!("http://{address}/"))?;
        check(page.contains("Welcome to nginx"), page)?;
        cluster.delete("{apiVersion: v1, kind: Pod, metadata: {name: nginx}}")?;
        Ok(())
    })
}

/// The kubelet binds it at a fixed path. If two kubelets share the path, one of two that start together
/// fails.
pub(crate) fn kubelets_have_their_own_sockets() -> Outcome {
    on_cluster(|cluster| {
        for node in cluster.nodes() {
            let name = &node.host.name;
            let socket = format!(
                "/var/lib/lbstack-testbed/{ID}/nodes/{name}/fixed/kubelet/device-plugins/kubelet.sock"
            );
            check(fs::exists(&socket)?, format!("{socket} is not there"))?;
        }
        let shared = "/var/lib/kubelet/device-plugins";
        check(!fs::exists(shared)?, format!("{shared} is used by all"))
    })
}

pub(crate) fn identities_are_real() -> Outcome {
    on_cluster(|cluster| {
        let jane = cluster.kubeconfig_for(&Identity::user("jane"))?;
        let can = |verb: &str| {
            let mut command = cluster.kubectl_command();
            command.arg(format!("--kubeconfig={}", jane.display())).args(["auth", "can-i", verb, "pods"]);
            Ok::<_, Failed>(command.output()?.status.success())
        };
        check(!can("list")?, "jane has no permissions at first")?;
        cluster.kubectl(["create", "clusterrolebinding", "jane", "--clusterrole=view", "--user=jane"])?;
        until(SOON, "jane's permission to list pods", || match can("list") {
            Ok(true) => Ok(()),
            Ok(false) => Err("she has none".to_owned()),
            Err(error) => Err(format!("{error:?}")),
        })?;
        check(!can("delete")?, "jane has only read permissions")
    })
}

pub(crate) fn requests_are_audited() -> Outcome {
    on_cluster(|cluster| {
        let _ = cluster.kubectl(["get", "configmap", "requested-by-a-test"]);
        until(SOON, "an entry in the audit log", || {
            let log = fs::read_to_string(cluster.audit_log()).map_err(|error| error.to_string())?;
            let entry = log.lines().find(|line| line.contains("requested-by-a-test"));
            let entry = entry.ok_or("there is none yet")?;
            let fields = ["\"user\":{\"username\":\"admin\"", "\"code\":404", "\"verb\":\"get\""];
            if fields.iter().all(|field| entry.contains(field)) { Ok(()) } else { Err(entry.to_owned()) }
        })?;
        Ok(())
    })
}

pub(crate) fn pods_take_signals() -> Outcome {
    on_cluster(|cluster| {
        web(cluster)?;
        let pods = cluster.get(["pods", "-l", "app=web"])?;
        let pod = &pods["items"][0];
        let (name, address) = (
            pod["metadata"]["name"].as_str().ok_or("no name")?,
            pod["status"]["podIP"].as_str().ok_or("no address")?,
        );
        let url = format!("http://{address}:8080/");
        let answers = || cluster.control_plane().curl(&url);
        answers()?;
        cluster.pod("default", name)?.signal(Signal::SIGSTOP)?;
        check(answers().is_err(), "a stopped pod does not answer")?;
        cluster.pod("default", name)?.signal(Signal::SIGCONT)?;
        answers()?;
        cluster.pod("default", name)?.signal(Signal::SIGKILL)?;
        until(SOON, "the pod's new container", || {
            let pod = cluster.get(["pod", name]).map_err(|error| error.to_string())?;
            let status = &pod["status"]["containerStatuses"][0];
            let restarted = status["restartCount"] == 1 && status["ready"] == true;
            if restarted { Ok(()) } else { Err(status.to_string()) }
        })?;
        check(answers()?.contains(name), "the pod keeps its address")
    })
}

pub(crate) fn servers_stop_and_start() -> Outcome {
    on_cluster(|cluster| {
        cluster.api().stop()?;
        check(cluster.kubectl(["get", "nodes"]).is_err(), "a stopped API server does not answer")?;
        cluster.api().start()?;
        cluster.kubectl(["get", "nodes"])?;
        cluster.etcd().stop()?;
        check(
            cluster.kubectl(["create", "configmap", "x", "--request-timeout=2s"]).is_err(),
            "nothing can be stored",
        )?;
        cluster.etcd().start()?;
        until(SOON, "storing", || {
            cluster.kubectl(["create", "configmap", "y"]).map_err(|error| error.to_string())
        })?;
        cluster.kubectl(["delete", "configmap", "y"])?;
        Ok(())
    })
}

pub(crate) fn a_node_loses_power() -> Outcome {
    on_cluster(|cluster| {
        web(cluster)?;
        let (client, node) = (cluster.client(), cluster.node("node2")?);
        node.power_off()?;
        check(!reaches(&client, node.host.v4.into()), "a node without power does not answer")?;
        cluster.kubectl(["wait", "--for=condition=Ready=Unknown", "node/node2", "--timeout=60s"])?;
        node.power_on()?;
        cluster.wait_for_nodes(2, Duration::from_secs(60))?;
        check(
            client.neighbour(node.host.v4.into())?.is_none_or(|mac| mac == node.host.mac),
            "it has its old address",
        )?;
        let url = format!("http://{}:30080/", node.host.v4);
        until(Duration::from_secs(60), "the pod on the node that came back", || {
            client.curl(&url).map(drop).map_err(|error| error.to_string())
        })?;
        node.cable(false)?;
        check(!reaches(&client, node.host.v4.into()), "a node without a cable does not answer")?;
        node.cable(true)?;
        until(SOON, "the node with its cable", || {
            if reaches(&client, node.host.v4.into()) { Ok(()) } else { Err("no".into()) }
        })?;
        Ok(())
    })
}

pub(crate) fn a_diagnosis_is_complete() -> Outcome {
    on_cluster(|cluster| {
        web(cluster)?;
        let directory = std::env::temp_dir().join("lbstack-testbed-selftest-diagnosis");
        cluster.diagnose(&directory)?;
        for (file, content) in [
            ("events.txt", "Scheduled"),
            ("objects/services.yaml", "nodePort: 30080"),
            ("machines/node1/neighbours.txt", "lladdr"),
            ("machines/client/addresses.txt", "192.168.33.100/24"),
            ("bridge-forwarding.txt", "02:00:c0:a8:21:0b"),
            ("frames.txt", "ethertype ARP"),
            ("logs/kube-apiserver.log", "Serving securely"),
            ("logs/node1-kubelet.log", "kubelet"),
        ] {
            let path = directory.join(file);
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            check(text.contains(content), format!("{} lacks {content:?}", path.display()))?;
        }
        let logs = directory.join("pods/default");
        check(fs::read_dir(&logs)?.count() >= 2, format!("{} has no logs of pods", logs.display()))?;
        fs::remove_dir_all(directory)?;
        Ok(())
    })
}

pub(crate) fn nothing_remains() -> Outcome {
    on_cluster(|cluster| {
        web(cluster)?;
        check(traces_of(cluster.id()).len() > 10, "a running cluster has traces")
    })?;
    if let Some(cluster) = shared().take() {
        cluster.down()?;
    }
    no_traces_of(ID)?;
    check(!testbed::down(ID)?, "a second removal has nothing to do")
}
