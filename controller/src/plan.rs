//! `lbstack plan`: the effects of changed objects on the Services of the cluster. Reads the cluster and
//! writes nothing.

mod overlay;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use crds::{LoadBalancerStack, ServiceKey};
use ipam::{Cluster, Effect, EffectKind, ExistingService, Occupant, Request};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::core::NamespaceResourceScope;
use rules::{ConfigKind as _, Configuration, Finding, LastValid, Objects, for_each_config_kind};
use runtime::client;
use runtime::decode::{Lenient, lenient};

use self::overlay::ClusterObjects;
use crate::conflict::{Conflict, NodeAddresses};
use crate::service;

/// Arguments of `lbstack plan`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// A file with changed or new objects; - reads standard input. May be repeated.
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,

    /// An object to delete, such as `IPAddressPool/lan` or `Service/shop/web`. May be repeated.
    #[arg(long, value_name = "KIND/NAME")]
    pub delete: Vec<String>,

    /// Namespace of the configuration. Default: the namespace of the cluster's LoadBalancerStack, or
    /// metallb-system if there is none.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: Option<String>,

    /// The class of the Services that are served; empty: Services without a class. Default: the class of the
    /// cluster's LoadBalancerStack.
    #[arg(long)]
    pub load_balancer_class: Option<String>,

    /// List the Services that would not change, too.
    #[arg(long)]
    pub all: bool,
}

/// Reads the cluster and the changed objects, and prints the effects on the Services.
///
/// # Errors
///
/// The files or the cluster cannot be read, or an object is of an unsupported kind.
pub async fn run(args: Args) -> anyhow::Result<()> {
    anyhow::ensure!(
        !(args.filename.is_empty() && args.delete.is_empty()),
        "nothing to plan: give changed objects with -f FILE, or objects to delete with --delete KIND/NAME"
    );
    let client = client::connect().await?;
    let before = read_cluster(&client, &args).await?;
    let mut after = before.clone();
    for file in &args.filename {
        let text = read_input(file)?;
        after.apply(&text).with_context(|| format!("in {}", file.display()))?;
    }
    for target in &args.delete {
        after.delete(target)?;
    }
    let findings = match rules::check(&before.objects, &after.objects) {
        Ok(findings) | Err(findings) => findings,
    };
    let effects = effects(&before, &after);
    print!("{}", report(&findings, &effects, args.all));
    Ok(())
}

fn read_input(file: &PathBuf) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

async fn read_cluster(client: &Client, args: &Args) -> anyhow::Result<ClusterObjects> {
    let stacks: Vec<Arc<LoadBalancerStack>> = list_all(Api::all(client.clone())).await?;
    let stack = stacks.first().map(|stack| stack.spec.clone()).unwrap_or_default();
    let namespace = args.namespace.clone().unwrap_or(stack.namespace);
    let class = args.load_balancer_class.clone().unwrap_or(stack.load_balancer_class);
    let namespace = &namespace;
    let mut objects = Objects::default();
    for_each_config_kind!(K => *K::of_mut(&mut objects) = list_in(client, namespace).await?);
    objects.namespaces = list_all(Api::all(client.clone())).await?;
    objects.node_addresses = node_addresses(client).await;
    Ok(ClusterObjects {
        objects,
        services: list_all(Api::all(client.clone())).await?,
        conflicts: list_in(client, namespace).await?,
        namespace: namespace.clone(),
        class,
    })
}

/// The addresses of the nodes; none, with a warning, if the user may not list nodes.
async fn node_addresses(client: &Client) -> BTreeMap<IpAddr, String> {
    let nodes: Vec<Arc<Node>> = match list_all(Api::all(client.clone())).await {
        Ok(nodes) => nodes,
        Err(error) => {
            eprintln!("warning: addresses of nodes are not taken into account: {error:#}");
            return BTreeMap::new();
        }
    };
    let known = nodes.iter().filter_map(|node| NodeAddresses::from_node((**node).clone()));
    known.flat_map(|of| of.addresses.into_iter().map(move |ip| (ip, of.node.clone()))).collect()
}

async fn list_in<K>(client: &Client, namespace: &str) -> anyhow::Result<Vec<Arc<K>>>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    list_all(Api::namespaced(client.clone(), namespace)).await
}

/// How often a list is retried after a temporary error of the API server.
const TEMPORARY_ATTEMPTS: usize = 5;
/// Delay between two attempts.
const TEMPORARY_PAUSE: Duration = Duration::from_secs(1);

/// Every object that can be decoded, with a warning about each that cannot. Empty if the cluster does not
/// have the kind: one with MetalLB lacks ours.
async fn list_all<K>(api: Api<K>) -> anyhow::Result<Vec<Arc<K>>>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api = lenient(&api, &(), api.clone().into_client());
    let call = || async { client::with_timeout(api.list(&ListParams::default())).await };
    let mut list = call().await;
    // For example just after the definition was created.
    for _ in 0..TEMPORARY_ATTEMPTS {
        if !list.as_ref().is_err_and(client::CallError::is_temporary) {
            break;
        }
        tokio::time::sleep(TEMPORARY_PAUSE).await;
        list = call().await;
    }
    if list.as_ref().is_err_and(client::CallError::is_not_found) {
        return Ok(Vec::new());
    }
    let list = list.with_context(|| format!("cannot list {}", K::plural(&())))?;
    Ok(list.items.into_iter().filter_map(decoded).map(Arc::new).collect())
}

/// The object; prints a warning if it cannot be decoded.
fn decoded<K: kube::Resource<DynamicType = ()>>(Lenient(object): Lenient<K>) -> Option<K> {
    object
        .inspect_err(|undecoded| {
            let (kind, name) = (K::kind(&()), undecoded.metadata.name.as_deref().unwrap_or_default());
            eprintln!("warning: {kind} {name} cannot be decoded and is ignored: {}", undecoded.reason);
        })
        .ok()
}

/// The effects on the Services. If a changed object has an error, its present version stays in force, as in a
/// running controller.
fn effects(before: &ClusterObjects, after: &ClusterObjects) -> Vec<Effect> {
    let mut last_valid = LastValid::default();
    let mut configure = |state: &ClusterObjects| last_valid.configure(&state.objects).0;
    let (old, new) = (configure(before), configure(after));
    ipam::plan(&cluster(before, old), &cluster(after, new), Timestamp::now())
}

fn cluster(state: &ClusterObjects, configuration: Configuration) -> Cluster {
    let (ours, others): (Vec<_>, Vec<_>) =
        state.services.iter().partition(|service| service::is_ours(service, &state.class));
    let services = ours.into_iter().map(|service| existing_service(service)).collect();
    // A Service that is no longer a load balancer is cleared.
    let stays = others.into_iter().filter(|service| !service::has_leftovers(service));
    let others = stays.map(|service| (ServiceKey::of(service), service::stored_addresses(service)));
    let others = others.filter(|(_, stored)| !stored.is_empty()).collect();
    let reported = state.conflicts.iter().map(|conflict| &conflict.spec);
    let reported =
        reported.filter_map(|spec| Some((spec.address.parse().ok()?, Conflict::from_spec(spec).occupant)));
    let nodes = state.objects.node_addresses.iter().map(|(ip, node)| (*ip, Occupant::Node(node.clone())));
    let quarantine = reported.chain(nodes).collect();
    Cluster { configuration: Arc::new(configuration), services, others, quarantine }
}

fn existing_service(service: &Service) -> ExistingService {
    ExistingService {
        service: ServiceKey::of(service),
        request: Request::from_service(service),
        current: service::stored_addresses(service),
        pool: service::annotated_pool(service).map(str::to_owned),
        waiting_since: service::waiting_since(service),
    }
}

fn report(findings: &[Finding], effects: &[Effect], all: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let severity = match finding.severity {
            rules::Severity::Error => "error",
            rules::Severity::Warning => "warning",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{severity}: {}: {finding}", finding.object);
    }
    let list = |addresses: &[IpAddr]| {
        if addresses.is_empty() {
            "nothing".to_owned()
        } else {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
    };
    for effect in effects.iter().filter(|effect| all || effect.kind != EffectKind::Keeps) {
        let (word, what) = match effect.kind {
            EffectKind::Loses => ("loses", format!("{} -> {}", list(&effect.before), list(&effect.after))),
            EffectKind::Moves => ("moves", format!("{} -> {}", list(&effect.before), list(&effect.after))),
            EffectKind::Gains => ("gains", list(&effect.after)),
            EffectKind::Waits => ("waits", String::new()),
            EffectKind::Keeps => ("keeps", list(&effect.after)),
        };
        let _ = write!(text, "{word}  {}  {what}", effect.service);
        if let Some(refusal) = &effect.refusal {
            let _ = write!(text, "  ({refusal})");
        }
        text.push('\n');
    }
    let count = |kind| effects.iter().filter(|effect| effect.kind == kind).count();
    let _ = writeln!(
        text,
        "{} Services: {} lose, {} move, {} gain, {} wait, {} keep their addresses. Nothing was written.",
        effects.len(),
        count(EffectKind::Loses),
        count(EffectKind::Moves),
        count(EffectKind::Gains),
        count(EffectKind::Waits),
        count(EffectKind::Keeps),
    );
    text
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    #[test]
    fn a_plan_shows_that_an_invalid_edit_withdraws_no_address() {
        let state = |allocation: serde_json::Value| {
            let spec = json!({"addresses": ["10.0.0.1/32"], "serviceAllocation": allocation});
            let status = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}});
            ClusterObjects {
                objects: Objects {
                    pools: vec![Arc::new(fixtures::object("IPAddressPool", "lan", &json!({"spec": spec})))],
                    namespaces: vec![Arc::new(fixtures::namespace("shop", &json!({})))],
                    ..Objects::default()
                },
                services: vec![Arc::new(fixtures::service("shop", "web", &json!({"status": status})))],
                conflicts: Vec::new(),
                namespace: "metallb-system".into(),
                class: String::new(),
            }
        };
        for invalid in
            [json!({"namespaces": ["shp"]}), json!({"namespaceSelectors": [{"matchLabels": {"-": "x"}}]})]
        {
            let effects = effects(&state(json!({"namespaces": ["shop"]})), &state(invalid));
            assert_eq!(effects[0].kind, EffectKind::Keeps, "{effects:?}");
        }
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_decoded_is_skipped() {
        let answer = |_: Request<Body>| async {
            let items = json!([{"metadata": {"name": "bad"}, "spec": 7}, {"metadata": {"name": "good"}}]);
            let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items});
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(list.to_string().into_bytes())))
        };
        let client = Client::new(tower::service_fn(answer), "shop");
        let services: Vec<Arc<Service>> = list_all(Api::all(client)).await.unwrap();
        let names: Vec<_> = services.iter().filter_map(|service| service.metadata.name.as_deref()).collect();
        assert_eq!(names, ["good"]);
    }
}
