//! Invalid edits of objects that are in use.

use e2e::Bed;

use crate::support::{REPLACED, SOON, list, replace_pods, serves_a_new_client, stack_condition};

const ADDRESSES: [&str; 2] = ["192.168.33.201", "192.168.33.211"];

const ADVERTISEMENT: &str = "apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: edited, namespace: metallb-system}
spec:
  ipAddressPools: [edited]
";

/// A pool with two Services that have an address each, and are served.
struct Fixture<'a> {
    bed: &'a Bed,
    manifests: Vec<String>,
}

impl<'a> Fixture<'a> {
    fn new(bed: &'a Bed) -> Self {
        let pool = bed.pool("edited", "192.168.33.200-192.168.33.205, 192.168.33.210-192.168.33.215");
        let web = bed.web();
        let service = |name: &str, address: &str| {
            let manifest = bed.service(name, "edited", &format!("loadBalancerIP: {address}"));
            assert_eq!(bed.address("default", name), address);
            manifest
        };
        let services = [service("one", ADDRESSES[0]), service("two", ADDRESSES[1])];
        let fixture = Self { bed, manifests: services.into_iter().chain([web, pool]).collect() };
        fixture.is_served();
        fixture
    }

    /// Both Services have their addresses, and a client that has never seen them is served.
    fn is_served(&self) {
        for (name, address) in ["one", "two"].into_iter().zip(ADDRESSES) {
            assert_eq!(self.bed.address("default", name), address);
            serves_a_new_client(self.bed, address, REPLACED);
        }
    }

    /// Every speaker reports an error in the configuration that names `words`, and so does the stack.
    fn reports(&self, words: &[&str]) {
        e2e::wait::poll("every speaker reports the invalid object", SOON, || {
            let states = list(self.bed, "configurationstates");
            let mut speakers = states.iter().filter(|state| {
                state["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("speaker-"))
            });
            let reports = |state: &serde_json::Value| {
                let summary = state["status"]["errorSummary"].as_str().unwrap_or_default();
                state["status"]["result"] == "Invalid" && words.iter().all(|word| summary.contains(word))
            };
            speakers.all(reports).then_some(())
        });
        let message = stack_condition(self.bed, "ConfigurationValid", "False");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }

    fn end(self) {
        for manifest in &self.manifests {
            self.bed.delete(manifest);
        }
    }
}

/// metallb/metallb#1416.
pub(crate) fn advertisement_edits(bed: &Bed) {
    let fixture = Fixture::new(bed);
    // A pool that is named twice is named.
    bed.apply(&ADVERTISEMENT.replace("[edited]", "[edited, edited]"));
    replace_pods(bed, "speaker");
    fixture.is_served();
    stack_condition(bed, "ConfigurationValid", "True");
    let invalid = [
        "  nodeSelectors:\n    - matchExpressions: [{key: kubernetes.io/os, operator: In}]\n",
        "  serviceSelectors:\n    - matchExpressions: [{key: tier, operator: Equals, values: [public]}]\n",
    ];
    for constraint in invalid {
        bed.apply(&format!("{ADVERTISEMENT}{constraint}"));
        fixture.reports(&["edited", "Selectors"]);
        fixture.is_served();
    }
    // No process holds the last valid configuration any more.
    replace_pods(bed, "speaker");
    fixture.reports(&["edited", "Selectors"]);
    fixture.is_served();
    bed.apply(&format!("{ADVERTISEMENT}  serviceSelectors: []\n  nodeSelectors: []\n"));
    stack_condition(bed, "ConfigurationValid", "True");
    fixture.is_served();
    fixture.end();
}

/// metallb/metallb#252.
pub(crate) fn pool_edit_and_restarts(bed: &Bed) {
    let fixture = Fixture::new(bed);
    let pool = |second: &str| {
        format!(
            "apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {{name: edited, namespace: metallb-system}}
spec:
  addresses: [192.168.33.200-192.168.33.205, {second}]
"
        )
    };
    bed.apply(&pool("192.168.33.210-192.168.33.300"));
    fixture.reports(&["edited", "192.168.33.210-192.168.33.300"]);
    fixture.is_served();
    replace_pods(bed, "speaker");
    fixture.is_served();
    replace_pods(bed, "controller");
    fixture.is_served();
    bed.apply(&pool("192.168.33.210-192.168.33.215"));
    stack_condition(bed, "ConfigurationValid", "True");
    fixture.is_served();
    fixture.end();
}
