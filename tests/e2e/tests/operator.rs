//! The operator's reactions to changes by users and tools, on a real cluster with the rendered roles.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "this file contains only tests, in which a failure is a panic"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{Env, Suite, wait};
use serde_json::Value;
use testbed::Options;

const OPERATOR: &str = "system:serviceaccount:lbstack-system:lbstack-operator";
const NAMESPACE: &str = "--namespace=metallb-system";
/// Timeout of a repair. It takes less than a second, but more on a busy machine.
const REPAIRED: Duration = Duration::from_secs(20);

fn main() -> std::process::ExitCode {
    let operator = Suite::new("operator", || {
        Env::installed(Options { id: "e2e-operator".into(), ..Options::default() })
    })
    .test("an_old_config_map_is_imported_updated_and_removed_with_its_source", old_config_map)
    .test("inline_pools_follow_the_spec_and_do_not_replace_pools_of_the_user", inline_pools)
    .test("applying_the_manifest_of_metallb_over_the_stack_changes_only_annotations", metallb_over_ours)
    .test("a_repeated_change_is_accepted_and_the_status_names_its_manager", repeated_change)
    .test("an_invalid_spec_changes_no_object", invalid_spec)
    .test("a_deleted_namespace_is_created_again", namespace_deleted)
    .test("a_restart_of_the_operator_writes_only_its_lease", restart)
    .test("a_deletion_is_completed_if_the_operator_is_stopped_right_after_it", deletion_and_stop)
    .test("a_namespace_that_the_operator_created_is_removed_with_the_stack_if_it_is_empty", own_namespace)
    .test("every_permission_of_the_operator_is_used", permissions);
    e2e::run(vec![operator])
}

/// A condition of the stack as `True Reason: message`; empty if there is none.
fn condition(env: &Env, type_: &str) -> String {
    let Ok(stack) = env.cluster.get(["lbs", "default"]) else { return String::new() };
    let conditions = stack["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == type_);
    let word = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    found.map_or_else(String::new, |c| {
        format!("{} {}: {}", word(c, "status"), word(c, "reason"), word(c, "message"))
    })
}

/// Waits until the condition starts with `start` and returns its text.
fn until_condition(env: &Env, type_: &str, start: &str) -> String {
    wait::poll(&format!("{type_} is {start}"), REPAIRED, || {
        Some(condition(env, type_)).filter(|text| text.starts_with(start))
    })
}

fn names(env: &Env, kind: &str) -> BTreeSet<String> {
    let list = env.cluster.get([kind, NAMESPACE]).unwrap();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn until_names(env: &Env, kind: &str, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|&name| name.to_owned()).collect();
    wait::poll(&format!("the {kind} are {wanted:?}"), REPAIRED, || {
        (names(env, kind) == wanted).then_some(())
    });
}

fn field(env: &Env, object: &str, pointer: &str) -> Value {
    env.cluster.get([object, NAMESPACE]).unwrap().pointer(pointer).cloned().unwrap_or_default()
}

fn old_config_map(env: &Env) {
    env.stack_up();
    let map = |text: &str| {
        let lines: String = text.lines().map(|line| format!("    {line}\n")).collect();
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config, namespace: metallb-system}}\ndata:\n  config: |\n{lines}"
        )
    };
    env.apply(&map("\
        bfd-profiles: [{name: quick, receive-interval: 300}]\n\
        bgp-communities: {vpn: \"1234:1\"}\n\
        peers: [{peer-address: 10.0.0.1, peer-asn: 64501, my-asn: 64500, bfd-profile: quick}]\n\
        address-pools:\n\
        - {name: old, protocol: layer2, addresses: [192.168.33.40-192.168.33.45]}\n\
        - {name: routed, protocol: bgp, addresses: [198.51.100.0/24], bgp-advertisements: [{communities: [vpn]}]}\n\
        - {name: odd, protocol: layer3, addresses: [192.168.33.50-192.168.33.51]}\n"));
    until_names(env, "ipaddresspools", &["odd", "old", "routed"]);
    for kind in ["bgppeers", "bfdprofiles", "communities", "bgpadvertisements", "l2advertisements"] {
        wait::poll(&format!("there are {kind}"), REPAIRED, || (!names(env, kind).is_empty()).then_some(()));
    }
    let text = until_condition(env, "ConfigurationValid", "False InvalidConfiguration");
    assert!(text.contains("line 7"), "the finding names its line: {text}");
    env.apply(&map("address-pools: [\n"));
    wait::poll("the text cannot be read", REPAIRED, || {
        condition(env, "ConfigurationValid").contains("not valid YAML").then_some(())
    });
    until_names(env, "ipaddresspools", &["odd", "old", "routed"]);
    env.kubectl(&["delete", "configmap", "config", NAMESPACE]);
    for kind in
        ["ipaddresspools", "bgppeers", "bfdprofiles", "communities", "bgpadvertisements", "l2advertisements"]
    {
        until_names(env, kind, &[]);
    }
    until_condition(env, "ConfigurationValid", "True Valid");

    let pool = "apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {name: older, namespace: metallb-system}\n\
                spec: {protocol: layer2, addresses: [192.168.33.60-192.168.33.61]}\n";
    env.apply(pool);
    until_names(env, "ipaddresspools", &["older"]);
    env.delete(pool);
    until_names(env, "ipaddresspools", &[]);
}

fn inline_pools(env: &Env) {
    let by_hand = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: hand, namespace: metallb-system}\n\
                   spec: {addresses: [192.168.33.70-192.168.33.71]}\n";
    env.apply(by_hand);
    let pools = r#"{"spec":{"addressPools":[
        {"name":"lan","addresses":["192.168.33.20-192.168.33.30"],"reserved":[{"addresses":"192.168.33.21"}],
         "quotas":[{"maxAddresses":3}]},
        {"name":"hand","addresses":["192.168.33.80-192.168.33.81"]},
        {"name":"bad","addresses":["192.168.33.300"]}]}}"#;
    env.kubectl(&["patch", "lbs", "default", "--type=merge", "--patch", pools]);
    until_names(env, "ipaddresspools", &["hand", "lan"]);
    until_names(env, "poolpolicies", &["lan"]);
    let text = until_condition(env, "Degraded", "True ForeignObject");
    assert!(text.contains("IPAddressPool hand") && text.contains("kubectl"), "it names the creator: {text}");
    assert_eq!(field(env, "ipaddresspool/hand", "/spec/addresses/0"), "192.168.33.70-192.168.33.71");
    let text = until_condition(env, "ConfigurationValid", "False InvalidConfiguration");
    assert!(text.contains("spec.addressPools[2].addresses"), "{text}");
    env.delete(by_hand);
    wait::poll("the pool of the stack replaces it", REPAIRED, || {
        let pool = env.cluster.get(["ipaddresspool/hand", NAMESPACE]).ok()?;
        (pool["spec"]["addresses"][0] == "192.168.33.80-192.168.33.81").then_some(())
    });
    env.kubectl(&["patch", "lbs", "default", "--type=merge", "--patch", r#"{"spec":{"addressPools":null}}"#]);
    for kind in ["ipaddresspools", "l2advertisements", "poolpolicies"] {
        until_names(env, kind, &[]);
    }
    env.stack_available();
}

/// From MetalLB's own manifest, with fields that the rendered Deployment does not have.
const METALLB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller, namespace: metallb-system, labels: {app: metallb, component: controller}}
spec:
  selector: {matchLabels: {app: metallb, component: controller}}
  template:
    metadata:
      annotations: {prometheus.io/port: \"9120\"}
      labels: {app: metallb, component: controller}
    spec:
      containers:
      - name: controller
        image: quay.io/metallb/controller:v0.16.1
        args: [--port=9120, --log-level=info]
        env: [{name: METALLB_ML_SECRET_NAME, value: memberlist}]
        ports: [{containerPort: 9443, name: webhook-server}]
        volumeMounts: [{mountPath: /certs, name: cert, readOnly: true}]
        securityContext: {capabilities: {drop: [all]}}
      - {name: more, image: example.test/more}
      hostNetwork: true
      securityContext: {fsGroup: 65534, runAsNonRoot: true}
      terminationGracePeriodSeconds: 0
      volumes: [{name: cert, secret: {secretName: metallb-webhook-cert}}]
";

fn metallb_over_ours(env: &Env) {
    let spec = || {
        let mut spec = field(env, "deployment/controller", "/spec");
        spec["template"]["metadata"].as_object_mut().unwrap().remove("annotations");
        spec
    };
    let before = spec();
    env.apply(METALLB);
    wait::poll("the Deployment is as rendered", REPAIRED, || (spec() == before).then_some(()));
    let annotation = "/spec/template/metadata/annotations/prometheus.io~1port";
    assert_eq!(field(env, "deployment/controller", annotation), "9120", "foreign annotations stay");
    env.stack_available();
}

fn repeated_change(env: &Env) {
    let image = "/spec/template/spec/containers/0/image";
    let ours = field(env, "daemonset/speaker", image);
    let set = |image: &str| {
        env.kubectl(&["set", "image", "daemonset/speaker", &format!("speaker={image}"), NAMESPACE])
    };
    for round in 1..=3 {
        set(&format!("example.test/other:{round}"));
        wait::poll("the image is restored", REPAIRED, || {
            (field(env, "daemonset/speaker", image) == ours).then_some(())
        });
    }
    set("example.test/other:4");
    let text = until_condition(env, "Degraded", "True ContestedObject");
    assert!(
        text.contains("DaemonSet speaker") && text.contains("kubectl-set"),
        "it names the manager: {text}"
    );
    assert_eq!(field(env, "daemonset/speaker", image), "example.test/other:4");
    set(ours.as_str().unwrap());
    env.stack_available();
}

fn invalid_spec(env: &Env) {
    let before = env.inventory();
    let bad = r#"{"spec":{"speaker":{"labels":{"app":"mine"},"excludeInterfaces":["("]}}}"#;
    env.kubectl(&["patch", "lbs", "default", "--type=merge", "--patch", bad]);
    let text = until_condition(env, "Degraded", "True InvalidSpec");
    assert!(
        text.contains("spec.speaker.labels") && text.contains("spec.speaker.excludeInterfaces[0]"),
        "{text}"
    );
    assert!(condition(env, "Available").starts_with("True"), "the stack stays available");
    assert_eq!(env.inventory(), before);
    let remove = r#"[{"op":"remove","path":"/spec/speaker"}]"#;
    env.kubectl(&["patch", "lbs", "default", "--type=json", "--patch", remove]);
    env.stack_available();
}

fn namespace_deleted(env: &Env) {
    let uid = || {
        let namespace = env.cluster.get(["namespace", "metallb-system"]).ok()?;
        namespace["metadata"]["uid"].as_str().map(ToOwned::to_owned)
    };
    let before = uid();
    env.kubectl(&["delete", "namespace", "metallb-system", "--timeout=90s"]);
    wait::poll("there is a new namespace", Duration::from_secs(60), || {
        uid().filter(|uid| Some(uid) != before.as_ref())
    });
    env.stack_available();
}

fn restart(env: &Env) {
    env.kubectl(&["rollout", "restart", "deployment/lbstack-operator", "--namespace=lbstack-system"]);
    env.kubectl(&[
        "rollout",
        "status",
        "deployment/lbstack-operator",
        "--namespace=lbstack-system",
        "--timeout=60s",
    ]);
    let writes = env.writes_within(Duration::from_secs(20));
    let surplus: Vec<_> =
        writes.iter().filter(|write| write.user == OPERATOR && write.resource != "leases").collect();
    assert!(surplus.is_empty(), "{surplus:#?}");
}

fn deletion_and_stop(env: &Env) {
    env.kubectl(&["delete", "lbs", "default", "--wait=false"]);
    // Independent of whether the operator has observed the deletion.
    env.kubectl(&["scale", "deployment/lbstack-operator", "--replicas=0", "--namespace=lbstack-system"]);
    env.kubectl(&["wait", "--for=delete", "lbs/default", "--timeout=40s"]);
    // The operator created this namespace itself, after an earlier test deleted the one of the installation.
    env.kubectl(&["wait", "--for=delete", "namespace/metallb-system", "--timeout=60s"]);
    env.kubectl(&["scale", "deployment/lbstack-operator", "--replicas=1", "--namespace=lbstack-system"]);
}

fn own_namespace(env: &Env) {
    let stack = |namespace: &str| {
        format!(
            "apiVersion: lbstack.dev/v1alpha1\nkind: LoadBalancerStack\nmetadata: {{name: default}}\nspec: {{namespace: {namespace}}}\n"
        )
    };
    env.apply(&stack("shared"));
    env.stack_available();
    env.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: foreign, namespace: shared}\n");
    env.kubectl(&["delete", "lbs", "default", "--timeout=90s"]);
    let namespace = env.cluster.get(["namespace", "shared"]).unwrap();
    assert!(namespace["metadata"]["deletionTimestamp"].is_null(), "it contains a ConfigMap of a user");
    env.kubectl(&["delete", "namespace", "shared"]);

    env.apply(&stack("alone"));
    env.stack_available();
    env.kubectl(&["delete", "lbs", "default", "--timeout=90s"]);
    env.kubectl(&["wait", "--for=delete", "namespace/alone", "--timeout=60s"]);
    assert!(env.rejected_requests().is_empty(), "{:#?}", env.rejected_requests());
}

/// Compares the table in `docs/reference/rbac.md` with the audit log of all tests above.
fn permissions(env: &Env) {
    let used: BTreeSet<(String, String)> = env
        .requests_by(OPERATOR)
        .into_iter()
        .flat_map(|request| {
            // An apply that creates an object needs the permissions to patch and to create.
            let created = (request.verb == "patch" && request.code == 201).then(|| "create".to_owned());
            [Some(request.verb), created]
                .into_iter()
                .flatten()
                .map(move |verb| (request.resource.clone(), verb))
        })
        .collect();
    let table = include_str!("../../../docs/reference/rbac.md");
    let rows = table.lines().skip_while(|line| *line != "## Operator").filter(|line| line.starts_with("| "));
    let mut unused = Vec::new();
    for row in rows.filter(|row| !row.starts_with("| where")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        for resource in cells[2].split(", ") {
            for verb in cells[4].split(", ") {
                if !used.contains(&(resource.to_owned(), verb.to_owned())) {
                    unused.push(format!("{verb} {resource}"));
                }
            }
        }
    }
    assert!(unused.is_empty(), "permissions that are not used: {unused:?}");
}
