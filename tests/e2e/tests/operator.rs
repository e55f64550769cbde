//! What the operator does when people and tools do what they do: on a real cluster, under its rendered rights.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "all of this is tests: what is not as expected is a panic"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{Bed, Suite, wait};
use serde_json::Value;
use testbed::Options;

const OPERATOR: &str = "system:serviceaccount:lbstack-system:lbstack-operator";
const NAMESPACE: &str = "--namespace=metallb-system";
/// What is changed by hand is changed back within a second; a machine that is busy gets more.
const REPAIRED: Duration = Duration::from_secs(20);

fn main() -> std::process::ExitCode {
    let operator = Suite::new("operator", || {
        Bed::installed(Options { id: "e2e-operator".into(), ..Options::default() })
    })
    .test("an_old_config_map_is_imported_kept_in_step_and_removed_with_its_source", old_config_map)
    .test("inline_pools_come_and_go_with_the_spec_and_yield_to_those_made_by_hand", inline_pools)
    .test("a_whole_manifest_of_metallb_over_ours_leaves_nothing_but_annotations", metallb_over_ours)
    .test("who_insists_gets_his_way_and_the_status_says_who", insisting)
    .test("an_invalid_spec_leaves_what_runs_as_it_is", invalid_spec)
    .test("a_namespace_that_somebody_deletes_is_made_anew_once_it_is_gone", namespace_deleted)
    .test("a_restart_of_the_operator_writes_nothing_but_its_lease", restart)
    .test("a_deletion_is_finished_when_the_operator_is_asked_to_stop_right_after_it", deletion_and_stop)
    .test("a_namespace_of_the_operators_own_making_goes_with_the_stack_if_it_is_empty", own_namespace)
    .test("every_right_of_the_operator_is_used", rights);
    e2e::run(vec![operator])
}

/// A condition of the stack as `True Reason: message`; empty if there is none.
fn condition(bed: &Bed, type_: &str) -> String {
    let Ok(stack) = bed.cluster.get(["lbs", "default"]) else { return String::new() };
    let conditions = stack["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == type_);
    let word = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    found.map_or_else(String::new, |c| {
        format!("{} {}: {}", word(c, "status"), word(c, "reason"), word(c, "message"))
    })
}

/// Waits until the condition begins with `start` and returns its text.
fn until_condition(bed: &Bed, type_: &str, start: &str) -> String {
    wait::poll(&format!("{type_} is {start}"), REPAIRED, || {
        Some(condition(bed, type_)).filter(|text| text.starts_with(start))
    })
}

fn names(bed: &Bed, kind: &str) -> BTreeSet<String> {
    let list = bed.cluster.get([kind, NAMESPACE]).unwrap();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn until_names(bed: &Bed, kind: &str, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|&name| name.to_owned()).collect();
    wait::poll(&format!("the {kind} are {wanted:?}"), REPAIRED, || {
        (names(bed, kind) == wanted).then_some(())
    });
}

fn field(bed: &Bed, object: &str, pointer: &str) -> Value {
    bed.cluster.get([object, NAMESPACE]).unwrap().pointer(pointer).cloned().unwrap_or_default()
}

fn old_config_map(bed: &Bed) {
    bed.stack_up();
    let map = |text: &str| {
        let lines: String = text.lines().map(|line| format!("    {line}\n")).collect();
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config, namespace: metallb-system}}\ndata:\n  config: |\n{lines}"
        )
    };
    bed.apply(&map("\
        bfd-profiles: [{name: quick, receive-interval: 300}]\n\
        bgp-communities: {vpn: \"1234:1\"}\n\
        peers: [{peer-address: 10.0.0.1, peer-asn: 64501, my-asn: 64500, bfd-profile: quick}]\n\
        address-pools:\n\
        - {name: old, protocol: layer2, addresses: [192.168.33.40-192.168.33.45]}\n\
        - {name: routed, protocol: bgp, addresses: [198.51.100.0/24], bgp-advertisements: [{communities: [vpn]}]}\n\
        - {name: odd, protocol: layer3, addresses: [192.168.33.50-192.168.33.51]}\n"));
    until_names(bed, "ipaddresspools", &["odd", "old", "routed"]);
    for kind in ["bgppeers", "bfdprofiles", "communities", "bgpadvertisements", "l2advertisements"] {
        wait::poll(&format!("there are {kind}"), REPAIRED, || (!names(bed, kind).is_empty()).then_some(()));
    }
    let text = until_condition(bed, "ConfigurationValid", "False InvalidConfiguration");
    assert!(text.contains("line 7"), "the finding names its line: {text}");
    bed.apply(&map("address-pools: [\n"));
    wait::poll("the text cannot be read", REPAIRED, || {
        condition(bed, "ConfigurationValid").contains("no YAML").then_some(())
    });
    until_names(bed, "ipaddresspools", &["odd", "old", "routed"]);
    bed.kubectl(&["delete", "configmap", "config", NAMESPACE]);
    for kind in
        ["ipaddresspools", "bgppeers", "bfdprofiles", "communities", "bgpadvertisements", "l2advertisements"]
    {
        until_names(bed, kind, &[]);
    }
    until_condition(bed, "ConfigurationValid", "True Valid");

    let pool = "apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {name: older, namespace: metallb-system}\n\
                spec: {protocol: layer2, addresses: [192.168.33.60-192.168.33.61]}\n";
    bed.apply(pool);
    until_names(bed, "ipaddresspools", &["older"]);
    bed.delete(pool);
    until_names(bed, "ipaddresspools", &[]);
}

fn inline_pools(bed: &Bed) {
    let by_hand = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: hand, namespace: metallb-system}\n\
                   spec: {addresses: [192.168.33.70-192.168.33.71]}\n";
    bed.apply(by_hand);
    let pools = r#"{"spec":{"addressPools":[
        {"name":"lan","addresses":["192.168.33.20-192.168.33.30"],"reserved":[{"addresses":"192.168.33.21"}],
         "quotas":[{"maxAddresses":3}]},
        {"name":"hand","addresses":["192.168.33.80-192.168.33.81"]},
        {"name":"bad","addresses":["192.168.33.300"]}]}}"#;
    bed.kubectl(&["patch", "lbs", "default", "--type=merge", "--patch", pools]);
    until_names(bed, "ipaddresspools", &["hand", "lan"]);
    until_names(bed, "poolpolicies", &["lan"]);
    let text = until_condition(bed, "Degraded", "True ForeignObject");
    assert!(text.contains("IPAddressPool hand") && text.contains("kubectl"), "it says who made it: {text}");
    assert_eq!(field(bed, "ipaddresspool/hand", "/spec/addresses/0"), "192.168.33.70-192.168.33.71");
    let text = until_condition(bed, "ConfigurationValid", "False InvalidConfiguration");
    assert!(text.contains("spec.addressPools[2].addresses"), "{text}");
    bed.delete(by_hand);
    wait::poll("the stack's own takes its place", REPAIRED, || {
        let pool = bed.cluster.get(["ipaddresspool/hand", NAMESPACE]).ok()?;
        (pool["spec"]["addresses"][0] == "192.168.33.80-192.168.33.81").then_some(())
    });
    bed.kubectl(&["patch", "lbs", "default", "--type=merge", "--patch", r#"{"spec":{"addressPools":null}}"#]);
    for kind in ["ipaddresspools", "l2advertisements", "poolpolicies"] {
        until_names(bed, kind, &[]);
    }
    bed.stack_available();
}

/// As MetalLB's own manifest has it, with what ours lacks.
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

fn metallb_over_ours(bed: &Bed) {
    let spec = || {
        let mut spec = field(bed, "deployment/controller", "/spec");
        spec["template"]["metadata"].as_object_mut().unwrap().remove("annotations");
        spec
    };
    let before = spec();
    bed.apply(METALLB);
    wait::poll("the Deployment is as rendered", REPAIRED, || (spec() == before).then_some(()));
    let annotation = "/spec/template/metadata/annotations/prometheus.io~1port";
    assert_eq!(field(bed, "deployment/controller", annotation), "9120", "foreign annotations stay");
    bed.stack_available();
}

fn insisting(bed: &Bed) {
    let image = "/spec/template/spec/containers/0/image";
    let ours = field(bed, "daemonset/speaker", image);
    let set = |image: &str| {
        bed.kubectl(&["set", "image", "daemonset/speaker", &format!("speaker={image}"), NAMESPACE])
    };
    for round in 1..=3 {
        set(&format!("example.test/other:{round}"));
        wait::poll("the image is put back", REPAIRED, || {
            (field(bed, "daemonset/speaker", image) == ours).then_some(())
        });
    }
    set("example.test/other:4");
    let text = until_condition(bed, "Degraded", "True ContestedObject");
    assert!(text.contains("DaemonSet speaker") && text.contains("kubectl-set"), "it says who: {text}");
    assert_eq!(field(bed, "daemonset/speaker", image), "example.test/other:4");
    set(ours.as_str().unwrap());
    bed.stack_available();
}

fn invalid_spec(bed: &Bed) {
    let before = bed.inventory();
    let bad = r#"{"spec":{"speaker":{"labels":{"app":"mine"},"excludeInterfaces":["("]}}}"#;
    bed.kubectl(&["patch", "lbs", "default", "--type=merge", "--patch", bad]);
    let text = until_condition(bed, "Degraded", "True InvalidSpec");
    assert!(
        text.contains("spec.speaker.labels") && text.contains("spec.speaker.excludeInterfaces[0]"),
        "{text}"
    );
    assert!(condition(bed, "Available").starts_with("True"), "what runs keeps running");
    assert_eq!(bed.inventory(), before);
    let remove = r#"[{"op":"remove","path":"/spec/speaker"}]"#;
    bed.kubectl(&["patch", "lbs", "default", "--type=json", "--patch", remove]);
    bed.stack_available();
}

fn namespace_deleted(bed: &Bed) {
    let uid = || {
        let namespace = bed.cluster.get(["namespace", "metallb-system"]).ok()?;
        namespace["metadata"]["uid"].as_str().map(ToOwned::to_owned)
    };
    let before = uid();
    bed.kubectl(&["delete", "namespace", "metallb-system", "--timeout=90s"]);
    wait::poll("there is a new namespace", Duration::from_secs(60), || {
        uid().filter(|uid| Some(uid) != before.as_ref())
    });
    bed.stack_available();
}

fn restart(bed: &Bed) {
    bed.kubectl(&["rollout", "restart", "deployment/lbstack-operator", "--namespace=lbstack-system"]);
    bed.kubectl(&[
        "rollout",
        "status",
        "deployment/lbstack-operator",
        "--namespace=lbstack-system",
        "--timeout=60s",
    ]);
    let writes = bed.writes_within(Duration::from_secs(20));
    let surplus: Vec<_> =
        writes.iter().filter(|write| write.user == OPERATOR && write.resource != "leases").collect();
    assert!(surplus.is_empty(), "{surplus:#?}");
}

fn deletion_and_stop(bed: &Bed) {
    bed.kubectl(&["delete", "lbs", "default", "--wait=false"]);
    // Whether the operator has seen it or not.
    bed.kubectl(&["scale", "deployment/lbstack-operator", "--replicas=0", "--namespace=lbstack-system"]);
    bed.kubectl(&["wait", "--for=delete", "lbs/default", "--timeout=40s"]);
    // It made that namespace itself, after somebody had deleted the one of the installation.
    bed.kubectl(&["wait", "--for=delete", "namespace/metallb-system", "--timeout=60s"]);
    bed.kubectl(&["scale", "deployment/lbstack-operator", "--replicas=1", "--namespace=lbstack-system"]);
}

fn own_namespace(bed: &Bed) {
    let stack = |namespace: &str| {
        format!(
            "apiVersion: lbstack.dev/v1alpha1\nkind: LoadBalancerStack\nmetadata: {{name: default}}\nspec: {{namespace: {namespace}}}\n"
        )
    };
    bed.apply(&stack("shared"));
    bed.stack_available();
    bed.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: foreign, namespace: shared}\n");
    bed.kubectl(&["delete", "lbs", "default", "--timeout=90s"]);
    let namespace = bed.cluster.get(["namespace", "shared"]).unwrap();
    assert!(namespace["metadata"]["deletionTimestamp"].is_null(), "somebody else's ConfigMap is in it");
    bed.kubectl(&["delete", "namespace", "shared"]);

    bed.apply(&stack("alone"));
    bed.stack_available();
    bed.kubectl(&["delete", "lbs", "default", "--timeout=90s"]);
    bed.kubectl(&["wait", "--for=delete", "namespace/alone", "--timeout=60s"]);
    assert!(bed.requests_refused().is_empty(), "{:#?}", bed.requests_refused());
}

/// The table in `docs/reference/rbac.md` against the audit log of all of the above.
fn rights(bed: &Bed) {
    let used: BTreeSet<(String, String)> = bed
        .requests_by(OPERATOR)
        .into_iter()
        .flat_map(|request| {
            // An apply that makes an object is a right to patch and one to create.
            let made = (request.verb == "patch" && request.code == 201).then(|| "create".to_owned());
            [Some(request.verb), made].into_iter().flatten().map(move |verb| (request.resource.clone(), verb))
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
    assert!(unused.is_empty(), "rights that nothing used: {unused:?}");
}
