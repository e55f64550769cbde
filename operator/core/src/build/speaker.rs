//! The speaker's DaemonSet and the Secret with the key that signs beacons.

use std::collections::BTreeMap;

use crds::names::{BEACON_KEY_SECRET, MEMBERLIST_SECRET, SECRET_KEY, SPEAKER};
use crds::{SpeakerSettings, SpeakerUpdateStrategy, UpdateType};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, PodSpec, PodTemplateSpec, Secret, SecretVolumeSource, Toleration,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod;
use crate::object::Object;
use crate::stack::ValidatedStack;

const STATE_DIR: &str = "/var/lib/lbstack";
/// The user's key and the operator's; speakers prefer the user's. Name of the volume, Secret and mount path.
const KEY_VOLUMES: [(&str, &str, &str); 2] = [
    ("memberlist", MEMBERLIST_SECRET, "/etc/lbstack/memberlist"),
    ("beacon-key", BEACON_KEY_SECRET, "/etc/lbstack/beacon-key"),
];

pub(crate) fn objects(stack: &ValidatedStack) -> Vec<Object> {
    vec![beacon_key_secret(stack).into(), daemon_set(stack).into()]
}

fn beacon_key_secret(stack: &ValidatedStack) -> Secret {
    Secret {
        metadata: stack.meta.namespaced(BEACON_KEY_SECRET, Some(SPEAKER)),
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(SECRET_KEY.to_owned(), stack.beacon_key.bytes())])),
        ..Secret::default()
    }
}

fn daemon_set(stack: &ValidatedStack) -> DaemonSet {
    let SpeakerSettings { pod: settings, update_strategy, .. } = &stack.speaker;
    let mut tolerations = tolerate_all();
    tolerations.extend(settings.tolerations.iter().cloned());
    let spec = PodSpec {
        service_account_name: Some(SPEAKER.to_owned()),
        // Set explicitly: the service account may be edited by others.
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        host_network: Some(true),
        dns_policy: Some("ClusterFirstWithHostNet".to_owned()),
        // Long enough to hand over every address to another node.
        termination_grace_period_seconds: Some(30),
        priority_class_name: Some(
            settings.priority_class_name.clone().unwrap_or_else(|| "system-node-critical".to_owned()),
        ),
        node_selector: Some(pod::node_selector(settings)),
        tolerations: Some(tolerations),
        affinity: settings.affinity.clone(),
        topology_spread_constraints: pod::non_empty(&settings.topology_spread_constraints),
        security_context: Some(pod::pod_security_context()),
        containers: vec![container(stack)],
        volumes: Some(volumes()),
        ..PodSpec::default()
    };
    DaemonSet {
        metadata: stack.meta.namespaced(SPEAKER, Some(SPEAKER)),
        spec: Some(DaemonSetSpec {
            revision_history_limit: Some(3),
            selector: pod::selector(SPEAKER),
            update_strategy: Some(rolling_update(update_strategy)),
            template: PodTemplateSpec { metadata: Some(pod::metadata(SPEAKER, settings)), spec: Some(spec) },
            ..DaemonSetSpec::default()
        }),
        status: None,
    }
}

/// One node at a time; each speaker hands over its addresses first. Never two speakers on one node.
fn rolling_update(strategy: &SpeakerUpdateStrategy) -> DaemonSetUpdateStrategy {
    let rolling = RollingUpdateDaemonSet {
        max_surge: Some(IntOrString::Int(0)),
        max_unavailable: Some(strategy.max_unavailable.clone().unwrap_or(IntOrString::Int(1))),
    };
    DaemonSetUpdateStrategy {
        type_: Some(strategy.type_.as_str().to_owned()),
        rolling_update: (strategy.type_ == UpdateType::RollingUpdate).then_some(rolling),
    }
}

fn container(stack: &ValidatedStack) -> Container {
    let speaker = &stack.speaker;
    let mut args = pod::common_args("speaker", stack.log_level.as_str(), speaker.admin_port);
    args.push(format!("--namespace={}", stack.meta.namespace));
    args.push("--node-name=$(NODE_NAME)".to_owned());
    args.push(format!("--load-balancer-class={}", stack.load_balancer_class));
    args.push(format!("--state-dir={STATE_DIR}"));
    args.push(format!("--beacon-port={}", speaker.beacon.port));
    args.push(format!("--beacon-interval-ms={}", speaker.beacon.interval_ms));
    args.push(format!("--beacon-misses={}", speaker.beacon.misses));
    args.push(format!("--placement={}", speaker.placement.as_str()));
    args.push(format!("--conflict-detection={}", speaker.conflict_detection.as_str()));
    args.push(format!("--exclude-label={}", speaker.exclude_label.as_str()));
    args.push(format!("--exclude-interfaces={}", speaker.exclude_interfaces.join(",")));
    let shared = pod::container(SPEAKER, &stack.image, stack.image_pull_policy, args, speaker.admin_port);
    let mut ports = shared.ports.clone().unwrap_or_default();
    ports.push(pod::port("beacons", speaker.beacon.port, "UDP"));
    Container {
        ports: Some(ports),
        env: Some(vec![
            pod::env_from_field("NODE_NAME", "spec.nodeName"),
            pod::env_from_field("POD_NAME", "metadata.name"),
            pod::env_from_field("POD_NAMESPACE", "metadata.namespace"),
            pod::env_from_field("POD_IP", "status.podIP"),
        ]),
        resources: Some(
            speaker.pod.resources.clone().unwrap_or_else(|| pod::resource_requests("50m", "32Mi")),
        ),
        // Root: for any other user the capability is lost on exec, since Kubernetes sets no ambient
        // capabilities. All other capabilities of root are dropped.
        security_context: Some(pod::restricted_security_context(0, &["NET_RAW"])),
        volume_mounts: Some(mounts()),
        ..shared
    }
}

fn volumes() -> Vec<Volume> {
    let state = Volume {
        name: "state".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let keys = KEY_VOLUMES.iter().map(|&(name, secret, _)| Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(0o400),
            optional: Some(true),
            items: None,
        }),
        ..Volume::default()
    });
    std::iter::once(state).chain(keys).collect()
}

fn mounts() -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: Option<bool>| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    let keys = KEY_VOLUMES.iter().map(|&(name, _, path)| mount(name, path, Some(true)));
    std::iter::once(mount("state", STATE_DIR, None)).chain(keys).collect()
}

/// A tainted node may still have addresses to announce or to hand over.
fn tolerate_all() -> Vec<Toleration> {
    ["NoSchedule", "NoExecute"]
        .into_iter()
        .map(|effect| Toleration {
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        })
        .collect()
}
