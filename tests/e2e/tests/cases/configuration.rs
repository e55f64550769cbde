//! Invalid edits of objects that are in use.

use e2e::Env;

use crate::support::{REPLACED, SOON, list, replace_pods, serves_a_new_client, stack_condition};

const ADDRESSES: [&str; 2] = ["192.168.33.201", "192.168.33.211"];

const ADVERTISEMENT: &str = "apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: edited, namespace: metallb-system}
spec:
  ipAddressPools: [edited]
";

/// A pool and two Services with addresses of it that are served.
struct Fixture<'a> {
    env: &'a Env,
    manifests: Vec<String>,
}

impl<'a> Fixture<'a> {
    fn new(env: &'a Env) -> Self {
        let pool = env.pool("edited", "192.168.33.200-192.168.33.205, 192.168.33.210-192.168.33.215");
        let web = env.web();
        let service = |name: &str, address: &str| {
            let manifest = env.service(name, "edited", &format!("loadBalancerIP: {address}"));
            assert_eq!(env.address("default", name), address);
            manifest
        };
        let services = [service("one", ADDRESSES[0]), service("two", ADDRESSES[1])];
        let fixture = Self { env, manifests: services.into_iter().chain([web, pool]).collect() };
        fixture.is_served();
        fixture
    }

    /// Checks that both Services have their addresses, and that a client without neighbour entries is served.
    fn is_served(&self) {
        for (name, address) in ["one", "two"].into_iter().zip(ADDRESSES) {
            assert_eq!(self.env.address("default", name), address);
            serves_a_new_client(self.env, address, REPLACED);
        }
    }

    /// Waits until every speaker and the stack report a configuration error that contains `words`.
    fn reports(&self, words: &[&str]) {
        e2e::wait::poll("every speaker reports the invalid object", SOON, || {
            let states = list(self.env, "configurationstates");
            let mut speakers = states.iter().filter(|state| {
                state["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("speaker-"))
            });
            let reports = |state: &serde_json::Value| {
                let summary = state["status"]["errorSummary"].as_str().unwrap_or_default();
                state["status"]["result"] == "Invalid" && words.iter().all(|word| summary.contains(word))
            };
            speakers.all(reports).then_some(())
        });
        let message = stack_condition(self.env, "ConfigurationValid", "False");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }

    fn end(self) {
        for manifest in &self.manifests {
            self.env.delete(manifest);
        }
    }
}

/// metallb/metallb#1416.
pub(crate) fn advertisement_edits(env: &Env) {
    let fixture = Fixture::new(env);
    // A duplicate name is only a warning.
    env.apply(&ADVERTISEMENT.replace("[edited]", "[edited, edited]"));
    replace_pods(env, "speaker");
    fixture.is_served();
    stack_condition(env, "ConfigurationValid", "True");
    let invalid = [
        "  nodeSelectors:\n    - matchExpressions: [{key: kubernetes.io/os, operator: In}]\n",
        "  serviceSelectors:\n    - matchExpressions: [{key: tier, operator: Equals, values: [public]}]\n",
    ];
    for constraint in invalid {
        env.apply(&format!("{ADVERTISEMENT}{constraint}"));
        fixture.reports(&["edited", "Selectors"]);
        fixture.is_served();
    }
    // After this no process has the last valid configuration in memory.
    replace_pods(env, "speaker");
    fixture.reports(&["edited", "Selectors"]);
    fixture.is_served();
    env.apply(&format!("{ADVERTISEMENT}  serviceSelectors: []\n  nodeSelectors: []\n"));
    stack_condition(env, "ConfigurationValid", "True");
    fixture.is_served();
    fixture.end();
}

/// metallb/metallb#252.
pub(crate) fn pool_edit_and_restarts(env: &Env) {
    let fixture = Fixture::new(env);
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
    env.apply(&pool("192.168.33.210-192.168.33.300"));
    fixture.reports(&["edited", "192.168.33.210-192.168.33.300"]);
    fixture.is_served();
    replace_pods(env, "speaker");
    fixture.is_served();
    replace_pods(env, "controller");
    fixture.is_served();
    env.apply(&pool("192.168.33.210-192.168.33.215"));
    stack_condition(env, "ConfigurationValid", "True");
    fixture.is_served();
    fixture.end();
}
