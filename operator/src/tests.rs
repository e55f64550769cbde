//! Tests of the reconciler against an in-memory API server.

use std::sync::Arc;
use std::time::Duration;

use runtime::events::Events;
use runtime::lease::Leadership;
use runtime::tasks::Tasks;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

mod degraded;
mod takeovers;
mod two_writers;

use crate::api::Api;
use crate::fake_api::{CONFIG_MAP, FakeApiServer, SPEAKER, STACK, path, policy_path};
use crate::metrics::Metrics;
use crate::reconcile::{Reconciler, Term};
use crate::watch::Caches;

struct TestEnv {
    fake: FakeApiServer,
    reconciler: Reconciler,
    term: Term,
    changed: Arc<Notify>,
    _tasks: Tasks,
    _stop: tokio_util::sync::DropGuard,
}

impl TestEnv {
    /// A leading operator, and a stack with `spec`.
    async fn new(spec: Value) -> Self {
        let fake = FakeApiServer::default();
        fake.edit(STACK, &Value::Null, |stack| stack["spec"] = spec);
        Self::start(fake).await
    }

    /// An operator that has just been started.
    async fn start(fake: FakeApiServer) -> Self {
        let (client, shutdown) = (fake.client(), CancellationToken::new());
        let (mut tasks, changed) = (Tasks::new(), Arc::new(Notify::new()));
        let caches = Caches::start(&mut tasks, &client, &shutdown, &changed);
        let events = Events::start(&mut tasks, client.clone(), "lbstack-operator", None, shutdown.clone());
        let api = Api::new(client, Leadership::fixed(true));
        let reconciler = Reconciler::new(
            api,
            caches,
            events,
            Metrics::default(),
            Some("example.test/lbstack:1".to_owned()),
        );
        let mut env = Self {
            fake,
            reconciler,
            term: Term::new(),
            changed,
            _tasks: tasks,
            _stop: shutdown.drop_guard(),
        };
        env.settle().await;
        env
    }

    async fn reconcile(&mut self) -> Duration {
        self.reconciler.reconcile(&mut self.term).await
    }

    /// Reconciles until two reconciliations in a row, with time between them, write nothing.
    async fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..60 {
            self.fake.take_writes();
            self.reconcile().await;
            let written = !self.fake.take_writes().is_empty();
            let changed = tokio::time::timeout(Duration::from_secs(2), self.changed.notified()).await;
            quiet = if written || changed.is_ok() { 0 } else { quiet + 1 };
            if quiet == 2 {
                return;
            }
        }
        panic!("the reconciler keeps writing");
    }

    /// Deletes the stack.
    async fn delete_stack(&mut self) {
        self.fake.edit(STACK, &Value::Null, |stack| {
            stack["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        for _ in 0..5 {
            self.reconcile().await;
            let _ = tokio::time::timeout(Duration::from_secs(1), self.changed.notified()).await;
        }
    }

    fn condition(&self, type_: &str) -> String {
        let stack = self.fake.get(STACK).unwrap();
        let conditions = stack["status"]["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|condition| condition["type"] == type_).unwrap();
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {}", text("status"), text("reason"), text("message"))
    }

    fn config_map(&self, text: &str) {
        self.fake.edit(CONFIG_MAP, &Value::Null, |map| map["data"] = json!({"config": text}));
    }

    /// `kubectl apply` of the values that an object has already: only the annotation changes.
    fn client_side_apply(&self, at: &str, spec: &Value) {
        let annotation = "kubectl.kubernetes.io/last-applied-configuration";
        let fields = json!({"f:metadata": {"f:annotations": {".": {}, format!("f:{annotation}"): {}}}});
        let manager =
            json!({"manager": "kubectl-client-side-apply", "operation": "Update", "fieldsV1": fields});
        self.fake.edit(at, &manager, |object| {
            object["metadata"]["annotations"][annotation] = json!("{}");
            object["spec"] = spec.clone();
        });
    }

    /// Writes `spec` as `kubectl edit` does.
    fn write(&self, at: &str, spec: &Value) {
        let manager = json!({"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:spec":
            {"f:addresses": {}}}});
        self.fake.edit(at, &manager, |object| object["spec"] = spec.clone());
    }

    fn has_ownership_marks(&self, at: &str) -> bool {
        let metadata = self.fake.get(at).unwrap()["metadata"].clone();
        let text = metadata["labels"].to_string() + &metadata["ownerReferences"].to_string();
        text.contains("lbstack")
    }
}

const LEGACY_CONFIG: &str = "address-pools:\n\
    - {name: default, protocol: layer2, addresses: [172.30.0.200-172.30.0.210]}\n\
    - {name: extra, protocol: layer2, auto-assign: false, addresses: [172.30.0.220-172.30.0.222]}\n";

async fn imported() -> TestEnv {
    let mut env = TestEnv::new(json!({})).await;
    env.config_map(LEGACY_CONFIG);
    env.settle().await;
    assert_eq!(env.fake.names("ipaddresspools"), ["default", "extra"]);
    assert_eq!(env.fake.names("l2advertisements"), ["default", "extra"]);
    env
}

fn spec_of(env: &TestEnv, at: &str) -> Value {
    env.fake.get(at).unwrap()["spec"].clone()
}

/// The migration guide's way from the ConfigMap to objects.
#[tokio::test(start_paused = true)]
async fn imported_objects_that_a_user_applies_belong_to_the_user_and_outlive_their_source() {
    let mut env = imported().await;
    let converted = |pool: &str| json!({"ipAddressPools": [pool]});
    for name in ["default", "extra"] {
        let pool = path("ipaddresspools", name);
        env.client_side_apply(&pool, &spec_of(&env, &pool));
    }
    env.write(&path("l2advertisements", "l2advertisement1"), &converted("default"));
    env.write(&path("l2advertisements", "l2advertisement2"), &converted("extra"));
    env.settle().await;
    assert!(!env.has_ownership_marks(&path("ipaddresspools", "default")));
    assert!(
        env.condition("ConfigurationValid")
            .starts_with("True Warnings: IPAddressPool default: is managed by kubectl")
    );
    assert!(env.condition("Degraded").starts_with("False"), "{}", env.condition("Degraded"));
    assert!(
        env.fake
            .notes()
            .iter()
            .any(|note| note.contains("IPAddressPool default is managed by kubectl-client-side-apply"))
    );
    env.fake.delete(CONFIG_MAP);
    env.settle().await;
    assert_eq!(env.fake.names("ipaddresspools"), ["default", "extra"]);
    assert_eq!(env.fake.names("l2advertisements"), ["l2advertisement1", "l2advertisement2"]);
    let spec =
        json!({"addresses": ["172.30.0.220-172.30.0.222"], "autoAssign": false, "avoidBuggyIPs": false});
    assert_eq!(spec_of(&env, &path("ipaddresspools", "extra")), spec);
}

#[tokio::test(start_paused = true)]
async fn an_imported_pool_that_a_user_edits_keeps_the_edit_and_stays_advertised() {
    let mut env = imported().await;
    let (pool, edited) =
        (path("ipaddresspools", "default"), json!({"addresses": ["172.30.0.200-172.30.0.219"]}));
    env.write(&pool, &edited);
    env.settle().await;
    assert_eq!(spec_of(&env, &pool), edited);
    env.fake.delete(CONFIG_MAP);
    env.settle().await;
    assert_eq!(spec_of(&env, &pool), edited);
    assert_eq!(env.fake.names("ipaddresspools"), ["default"]);
    let advertisement = path("l2advertisements", "default");
    assert_eq!(env.fake.names("l2advertisements"), ["default"], "nothing else advertises the user's pool");
    assert!(!env.has_ownership_marks(&advertisement), "it is the user's as well");
}

#[tokio::test(start_paused = true)]
async fn objects_that_a_user_takes_over_outlive_the_stack() {
    let mut env = imported().await;
    let pool = path("ipaddresspools", "default");
    env.client_side_apply(&pool, &spec_of(&env, &pool));
    env.delete_stack().await;
    assert_eq!(env.fake.names("ipaddresspools"), ["default"]);
    assert!(!env.has_ownership_marks(&pool));
}

#[tokio::test(start_paused = true)]
async fn an_error_in_the_config_map_changes_nothing_in_the_cluster() {
    let mut env = imported().await;
    for error in [
        "adress-pools: []\n",
        "",
        "address-pools: [\n",
        "address-pools:\n- {name: default, protocol: Layer2, addresses: [172.30.0.200/32]}\n",
    ] {
        env.config_map(error);
        env.settle().await;
        assert_eq!(env.fake.names("ipaddresspools"), ["default", "extra"], "{error:?}");
        assert_eq!(env.fake.names("l2advertisements"), ["default", "extra"], "{error:?}");
        let spec = spec_of(&env, &path("ipaddresspools", "default"));
        assert_eq!(spec["addresses"], json!(["172.30.0.200-172.30.0.210"]), "{error:?}");
        let degraded = env.condition("Degraded");
        assert!(
            degraded.starts_with("True InvalidConfiguration") && degraded.contains("IPAddressPool extra"),
            "{error:?}: {degraded}"
        );
        // The same holds after a restart of the operator.
        env = TestEnv::start(env.fake.clone()).await;
        assert_eq!(env.fake.names("ipaddresspools"), ["default", "extra"], "{error:?}, after a restart");
    }
    env.config_map("address-pools: []\n");
    env.settle().await;
    assert_eq!(env.fake.names("ipaddresspools"), Vec::<String>::new(), "removed explicitly");
}

#[tokio::test(start_paused = true)]
async fn a_mistyped_config_map_name_deletes_nothing_and_deleting_the_config_map_does() {
    let mut env = imported().await;
    for mistyped in [json!({"name": "confg"}), json!({"key": "confg"})] {
        set_spec(&mut env, json!({"legacyConfigMap": mistyped})).await;
        env = TestEnv::start(env.fake.clone()).await;
        assert_eq!(env.fake.names("ipaddresspools"), ["default", "extra"], "{mistyped}");
        assert_eq!(env.fake.names("l2advertisements"), ["default", "extra"], "{mistyped}");
        let degraded = env.condition("Degraded");
        assert!(
            degraded.starts_with("True InvalidConfiguration") && degraded.contains("confg"),
            "{degraded}"
        );
    }
    set_spec(&mut env, json!({})).await;
    assert!(!env.condition("Degraded").contains("InvalidConfiguration"), "{}", env.condition("Degraded"));
    env.fake.delete(CONFIG_MAP);
    env.settle().await;
    assert_eq!(env.fake.names("ipaddresspools"), Vec::<String>::new());
}

fn inline_pools(pools: &Value) -> Value {
    json!({"addressPools": pools})
}

async fn set_spec(env: &mut TestEnv, spec: Value) {
    env.fake.edit(STACK, &Value::Null, |stack| stack["spec"] = spec);
    env.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_renamed_inline_pool_is_deleted_before_its_advertisement_which_stays_while_that_fails() {
    let pool =
        |name: &str| json!([{"name": name, "addresses": ["10.0.0.0/24"], "quotas": [{"maxAddresses": 3}]}]);
    let mut env = TestEnv::new(inline_pools(&pool("old"))).await;
    let delete = format!("DELETE {}", path("ipaddresspools", "old"));
    env.fake.fail(delete.clone(), 500, "a webhook does not answer");
    set_spec(&mut env, inline_pools(&pool("new"))).await;
    assert_eq!(env.fake.names("ipaddresspools"), ["new", "old"]);
    assert_eq!(env.fake.names("l2advertisements"), ["new", "old"]);
    assert!(env.fake.get(&policy_path("old")).is_some(), "its reservations still hold");
    env.fake.clear_failures();
    env = TestEnv::start(env.fake.clone()).await;
    assert_eq!(env.fake.names("ipaddresspools"), ["new"]);
    assert_eq!(env.fake.names("l2advertisements"), ["new"]);
    assert!(env.fake.get(&policy_path("old")).is_none());
}

#[tokio::test(start_paused = true)]
async fn no_object_is_created_under_a_pool_name_that_is_taken() {
    let fake = FakeApiServer::default();
    let pools = json!([{"name": "lan", "addresses": ["10.0.0.0/24"], "reserved": [{"addresses": "10.0.0.1"}]},
        {"name": "wan", "addresses": ["10.0.1.0/24"]}]);
    fake.edit(STACK, &Value::Null, |stack| stack["spec"] = inline_pools(&pools));
    let kubectl = json!({"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}});
    fake.edit(&path("ipaddresspools", "lan"), &kubectl, |pool| {
        pool["spec"] = json!({"addresses": ["192.168.0.0/24"]});
    });
    fake.edit(&path("l2advertisements", "wan"), &kubectl, |object| {
        object["spec"] = json!({"interfaces": ["eth0"]});
    });
    let mut env = TestEnv::start(fake).await;
    assert_eq!(env.fake.names("l2advertisements"), ["wan"], "it would act on the user's pool");
    assert!(env.fake.get(&policy_path("lan")).is_none());
    assert_eq!(env.fake.names("ipaddresspools"), ["lan"], "the user's advertisement would act on it");
    assert!(env.condition("Degraded").starts_with("True ForeignObject"), "{}", env.condition("Degraded"));
    env.fake.delete(&path("ipaddresspools", "lan"));
    env = TestEnv::start(env.fake.clone()).await;
    assert_eq!(spec_of(&env, &path("ipaddresspools", "lan"))["addresses"], json!(["10.0.0.0/24"]));
    assert_eq!(env.fake.names("l2advertisements"), ["lan", "wan"]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_an_owned_object_is_not_deleted() {
    let mut env = TestEnv::new(inline_pools(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]))).await;
    let original = env.fake.get(&path("ipaddresspools", "lan")).unwrap();
    let copy = path("ipaddresspools", "copy");
    let kubectl = json!({"manager": "kubectl-create", "operation": "Update", "fieldsV1": {"f:spec":
        {"f:addresses": {}}}});
    env.fake.edit(&copy, &kubectl, |object| {
        object["metadata"]["labels"] = original["metadata"]["labels"].clone();
        object["metadata"]["ownerReferences"] = original["metadata"]["ownerReferences"].clone();
        object["spec"] = json!({"addresses": ["10.0.1.0/24"]});
    });
    env.settle().await;
    assert_eq!(env.fake.names("ipaddresspools"), ["copy", "lan"]);
    assert!(!env.has_ownership_marks(&copy), "garbage collection would delete it with the stack");
}

#[tokio::test(start_paused = true)]
async fn an_image_rewritten_by_a_webhook_is_accepted() {
    let fake = FakeApiServer::default();
    fake.edit(STACK, &Value::Null, |stack| stack["spec"] = json!({}));
    fake.rewrite_images();
    let mut env = TestEnv::start(fake).await;
    let image = |env: &TestEnv| {
        env.fake.get(SPEAKER).unwrap()["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };
    assert_eq!(image(&env), "mirror.test/example.test/lbstack:1");
    assert!(!env.condition("Degraded").contains("Contested"), "{}", env.condition("Degraded"));
    let version = env.fake.get(SPEAKER).unwrap()["metadata"]["resourceVersion"].clone();
    env = TestEnv::start(env.fake.clone()).await;
    assert_eq!(env.fake.get(SPEAKER).unwrap()["metadata"]["resourceVersion"], version);
    assert!(!env.fake.notes().iter().any(|note| note.contains("was changed by")), "{:?}", env.fake.notes());
}

#[tokio::test(start_paused = true)]
async fn an_object_of_another_owner_is_not_read_in_every_reconciliation() {
    let fake = FakeApiServer::default();
    fake.edit(STACK, &Value::Null, |stack| {
        stack["spec"] = inline_pools(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]));
    });
    let kubectl = json!({"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}});
    fake.edit(&path("ipaddresspools", "lan"), &kubectl, |pool| pool["spec"] = json!({}));
    let mut env = TestEnv::start(fake).await;
    env.fake.take_gets();
    for _ in 0..20 {
        env.reconcile().await;
    }
    let reads = env.fake.take_gets().iter().filter(|path| path.ends_with("/lan")).count();
    assert!(reads <= 6, "{reads} reads in 20 reconciliations");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_deleted_delays_the_teardown_for_a_limited_time() {
    let mut env = imported().await;
    let refused = path("ipaddresspools", "default");
    env.fake.fail(format!("DELETE {refused}"), 500, "failed calling webhook: service not found");
    env.fake.edit(STACK, &Value::Null, |stack| {
        stack["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    let (mut reconciliations, mut reported) = (0, false);
    while env.fake.get(STACK).unwrap()["metadata"]["finalizers"] != json!([]) {
        let next = env.reconcile().await;
        reported |= env
            .condition("Progressing")
            .contains("IPAddressPool default (failed calling webhook: service not found)");
        reconciliations += 1;
        assert!(reconciliations < 90, "the finalizer stays");
        let _ = tokio::time::timeout(next, env.changed.notified()).await;
    }
    assert!(reported, "the status names the object");
    assert_eq!(env.fake.names("ipaddresspools"), ["default"], "it delays no other");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let notes = env.fake.notes();
    assert!(
        notes.iter().any(|note| note.contains("IPAddressPool default (failed calling webhook")),
        "{notes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_status_field_that_the_api_server_prunes_is_not_written_again() {
    let fake = FakeApiServer::default();
    fake.edit(STACK, &Value::Null, |stack| stack["spec"] = json!({}));
    fake.prune_status();
    let mut env = TestEnv::start(fake).await;
    assert!(env.fake.get(STACK).unwrap()["status"].get("controller").is_none());
    env.fake.take_writes();
    for _ in 0..20 {
        env.reconcile().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(env.fake.take_writes(), Vec::<String>::new());
}

/// Its pods have tokens of the former account, which the API server rejects.
#[tokio::test(start_paused = true)]
async fn a_workload_is_rolled_out_once_for_a_recreated_service_account() {
    let account = "/api/v1/namespaces/metallb-system/serviceaccounts/controller";
    let user = "/apis/apps/v1/namespaces/metallb-system/deployments/controller";
    let rolled_out_for = |env: &TestEnv| {
        let template = &spec_of(env, user)["template"]["metadata"]["annotations"];
        template["lbstack.dev/service-account"].as_str().map(str::to_owned)
    };
    let mut env = TestEnv::new(json!({})).await;
    env.settle().await;
    assert_eq!(rolled_out_for(&env), None, "at an install");
    env.fake.delete(account);
    env.settle().await;
    let uid = env.fake.get(account).unwrap()["metadata"]["uid"].as_str().map(str::to_owned);
    assert!(uid.is_some());
    assert_eq!(rolled_out_for(&env), uid);
    let mut restarted = TestEnv::start(env.fake.clone()).await;
    restarted.settle().await;
    assert_eq!(rolled_out_for(&restarted), uid, "not once more after a restart of the operator");
}
