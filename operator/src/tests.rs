//! The operator against an API server in memory.

use std::sync::Arc;
use std::time::Duration;

use runtime::events::Events;
use runtime::lease::Leadership;
use runtime::tasks::Tasks;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

mod degraded;
mod two_writers;
mod users;

use crate::api::Api;
use crate::fake::{CONFIG_MAP, Fake, SPEAKER, STACK, path, policy_path};
use crate::metrics::Metrics;
use crate::reconcile::Reconciler;
use crate::watch::Caches;

struct Rig {
    fake: Fake,
    reconciler: Reconciler,
    changed: Arc<Notify>,
    _tasks: Tasks,
    _stop: tokio_util::sync::DropGuard,
}

impl Rig {
    /// An operator that leads, and a stack with `spec`.
    async fn new(spec: Value) -> Self {
        let fake = Fake::default();
        fake.edit(STACK, &Value::Null, |stack| stack["spec"] = spec);
        Self::on(fake).await
    }

    /// An operator that has just been started.
    async fn on(fake: Fake) -> Self {
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
        let mut rig = Self { fake, reconciler, changed, _tasks: tasks, _stop: shutdown.drop_guard() };
        rig.settle().await;
        rig
    }

    /// Reconciles until two looks in a row, with time between them, change nothing.
    async fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..60 {
            self.fake.take_writes();
            self.reconciler.reconcile().await;
            let written = !self.fake.take_writes().is_empty();
            let changed = tokio::time::timeout(Duration::from_secs(2), self.changed.notified()).await;
            quiet = if written || changed.is_ok() { 0 } else { quiet + 1 };
            if quiet == 2 {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Somebody deletes the stack.
    async fn delete_stack(&mut self) {
        self.fake.edit(STACK, &Value::Null, |stack| {
            stack["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        for _ in 0..5 {
            self.reconciler.reconcile().await;
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

    /// `kubectl apply` of the values that an object has already: all that it changes is its own annotation.
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

    /// Somebody writes `spec` by hand.
    fn write(&self, at: &str, spec: &Value) {
        let manager = json!({"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:spec": {"f:addresses": {}}}});
        self.fake.edit(at, &manager, |object| object["spec"] = spec.clone());
    }

    fn is_marked(&self, at: &str) -> bool {
        let metadata = self.fake.get(at).unwrap()["metadata"].clone();
        let text = metadata["labels"].to_string() + &metadata["ownerReferences"].to_string();
        text.contains("lbstack")
    }
}

const OLD: &str = "address-pools:\n\
    - {name: default, protocol: layer2, addresses: [172.30.0.200-172.30.0.210]}\n\
    - {name: extra, protocol: layer2, auto-assign: false, addresses: [172.30.0.220-172.30.0.222]}\n";

async fn imported() -> Rig {
    let mut rig = Rig::new(json!({})).await;
    rig.config_map(OLD);
    rig.settle().await;
    assert_eq!(rig.fake.names("ipaddresspools"), ["default", "extra"]);
    assert_eq!(rig.fake.names("l2advertisements"), ["default", "extra"]);
    rig
}

fn spec_of(rig: &Rig, at: &str) -> Value {
    rig.fake.get(at).unwrap()["spec"].clone()
}

/// Case 05 of the review: the migration guide's way from the ConfigMap to objects.
#[tokio::test(start_paused = true)]
async fn requirement_2_imported_objects_that_a_user_applies_are_the_users_and_outlive_their_source() {
    let mut rig = imported().await;
    let converted = |pool: &str| json!({"ipAddressPools": [pool]});
    for name in ["default", "extra"] {
        let pool = path("ipaddresspools", name);
        rig.client_side_apply(&pool, &spec_of(&rig, &pool));
    }
    rig.write(&path("l2advertisements", "l2advertisement1"), &converted("default"));
    rig.write(&path("l2advertisements", "l2advertisement2"), &converted("extra"));
    rig.settle().await;
    assert!(!rig.is_marked(&path("ipaddresspools", "default")));
    assert!(
        rig.condition("ConfigurationValid")
            .starts_with("True Warnings: IPAddressPool default: is managed by kubectl")
    );
    assert!(rig.condition("Degraded").starts_with("False"), "{}", rig.condition("Degraded"));
    assert!(
        rig.fake
            .notes()
            .iter()
            .any(|note| note.contains("IPAddressPool default is managed by kubectl-client-side-apply"))
    );
    rig.fake.delete(CONFIG_MAP);
    rig.settle().await;
    assert_eq!(rig.fake.names("ipaddresspools"), ["default", "extra"]);
    assert_eq!(rig.fake.names("l2advertisements"), ["l2advertisement1", "l2advertisement2"]);
    let spec =
        json!({"addresses": ["172.30.0.220-172.30.0.222"], "autoAssign": false, "avoidBuggyIPs": false});
    assert_eq!(spec_of(&rig, &path("ipaddresspools", "extra")), spec);
}

#[tokio::test(start_paused = true)]
async fn requirement_2_an_imported_pool_that_a_user_edits_keeps_the_edit_and_goes_on_being_advertised() {
    let mut rig = imported().await;
    let (pool, edited) =
        (path("ipaddresspools", "default"), json!({"addresses": ["172.30.0.200-172.30.0.219"]}));
    rig.write(&pool, &edited);
    rig.settle().await;
    assert_eq!(spec_of(&rig, &pool), edited);
    rig.fake.delete(CONFIG_MAP);
    rig.settle().await;
    assert_eq!(spec_of(&rig, &pool), edited);
    assert_eq!(rig.fake.names("ipaddresspools"), ["default"]);
    let advertisement = path("l2advertisements", "default");
    assert_eq!(rig.fake.names("l2advertisements"), ["default"], "nothing else advertises the user's pool");
    assert!(!rig.is_marked(&advertisement), "it is the user's as well");
}

#[tokio::test(start_paused = true)]
async fn requirement_2_what_a_user_takes_over_outlives_the_stack() {
    let mut rig = imported().await;
    let pool = path("ipaddresspools", "default");
    rig.client_side_apply(&pool, &spec_of(&rig, &pool));
    rig.delete_stack().await;
    assert_eq!(rig.fake.names("ipaddresspools"), ["default"]);
    assert!(!rig.is_marked(&pool));
}

#[tokio::test(start_paused = true)]
async fn requirement_1_a_slip_in_the_config_map_changes_nothing_in_the_cluster() {
    let mut rig = imported().await;
    for slip in [
        "adress-pools: []\n",
        "",
        "address-pools: [\n",
        "address-pools:\n- {name: default, protocol: Layer2, addresses: [172.30.0.200/32]}\n",
    ] {
        rig.config_map(slip);
        rig.settle().await;
        assert_eq!(rig.fake.names("ipaddresspools"), ["default", "extra"], "{slip:?}");
        assert_eq!(rig.fake.names("l2advertisements"), ["default", "extra"], "{slip:?}");
        let spec = spec_of(&rig, &path("ipaddresspools", "default"));
        assert_eq!(spec["addresses"], json!(["172.30.0.200-172.30.0.210"]), "{slip:?}");
        let degraded = rig.condition("Degraded");
        assert!(
            degraded.starts_with("True InvalidConfiguration") && degraded.contains("IPAddressPool extra"),
            "{slip:?}: {degraded}"
        );
        // Also by an operator that knows nothing of what was before.
        rig = Rig::on(rig.fake.clone()).await;
        assert_eq!(rig.fake.names("ipaddresspools"), ["default", "extra"], "{slip:?}, after a restart");
    }
    rig.config_map("address-pools: []\n");
    rig.settle().await;
    assert_eq!(rig.fake.names("ipaddresspools"), Vec::<String>::new(), "said explicitly");
}

#[tokio::test(start_paused = true)]
async fn requirement_1_a_mistyped_name_of_the_config_map_takes_nothing_away_and_its_deletion_does() {
    let mut rig = imported().await;
    for mistyped in [json!({"name": "confg"}), json!({"key": "confg"})] {
        respec(&mut rig, json!({"legacyConfigMap": mistyped})).await;
        rig = Rig::on(rig.fake.clone()).await;
        assert_eq!(rig.fake.names("ipaddresspools"), ["default", "extra"], "{mistyped}");
        assert_eq!(rig.fake.names("l2advertisements"), ["default", "extra"], "{mistyped}");
        let degraded = rig.condition("Degraded");
        assert!(
            degraded.starts_with("True InvalidConfiguration") && degraded.contains("confg"),
            "{degraded}"
        );
    }
    respec(&mut rig, json!({})).await;
    assert!(!rig.condition("Degraded").contains("InvalidConfiguration"), "{}", rig.condition("Degraded"));
    rig.fake.delete(CONFIG_MAP);
    rig.settle().await;
    assert_eq!(rig.fake.names("ipaddresspools"), Vec::<String>::new());
}

fn inline(pools: &Value) -> Value {
    json!({"addressPools": pools})
}

async fn respec(rig: &mut Rig, spec: Value) {
    rig.fake.edit(STACK, &Value::Null, |stack| stack["spec"] = spec);
    rig.settle().await;
}

#[tokio::test(start_paused = true)]
async fn an_inline_pool_that_is_renamed_goes_before_its_advertisement_which_stays_while_it_cannot_be_deleted()
{
    let pool =
        |name: &str| json!([{"name": name, "addresses": ["10.0.0.0/24"], "quotas": [{"maxAddresses": 3}]}]);
    let mut rig = Rig::new(inline(&pool("old"))).await;
    let delete = format!("DELETE {}", path("ipaddresspools", "old"));
    rig.fake.refuse(delete.clone(), 500, "a webhook does not answer");
    respec(&mut rig, inline(&pool("new"))).await;
    assert_eq!(rig.fake.names("ipaddresspools"), ["new", "old"]);
    assert_eq!(rig.fake.names("l2advertisements"), ["new", "old"]);
    assert!(rig.fake.get(&policy_path("old")).is_some(), "what it keeps back is still kept back");
    rig.fake.allow_everything();
    rig = Rig::on(rig.fake.clone()).await;
    assert_eq!(rig.fake.names("ipaddresspools"), ["new"]);
    assert_eq!(rig.fake.names("l2advertisements"), ["new"]);
    assert!(rig.fake.get(&policy_path("old")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_is_yielded_to_entirely() {
    let fake = Fake::default();
    let pools = json!([{"name": "lan", "addresses": ["10.0.0.0/24"], "reserved": [{"addresses": "10.0.0.1"}]},
        {"name": "wan", "addresses": ["10.0.1.0/24"]}]);
    fake.edit(STACK, &Value::Null, |stack| stack["spec"] = inline(&pools));
    let by_hand = json!({"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}});
    fake.edit(&path("ipaddresspools", "lan"), &by_hand, |pool| {
        pool["spec"] = json!({"addresses": ["192.168.0.0/24"]});
    });
    fake.edit(&path("l2advertisements", "wan"), &by_hand, |object| {
        object["spec"] = json!({"interfaces": ["eth0"]});
    });
    let mut rig = Rig::on(fake).await;
    assert_eq!(rig.fake.names("l2advertisements"), ["wan"], "it would act on the user's pool");
    assert!(rig.fake.get(&policy_path("lan")).is_none());
    assert_eq!(rig.fake.names("ipaddresspools"), ["lan"], "the user's advertisement would act on it");
    assert!(rig.condition("Degraded").starts_with("True ForeignObject"), "{}", rig.condition("Degraded"));
    rig.fake.delete(&path("ipaddresspools", "lan"));
    rig = Rig::on(rig.fake.clone()).await;
    assert_eq!(spec_of(&rig, &path("ipaddresspools", "lan"))["addresses"], json!(["10.0.0.0/24"]));
    assert_eq!(rig.fake.names("l2advertisements"), ["lan", "wan"]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_an_object_of_ours_is_not_removed() {
    let mut rig = Rig::new(inline(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]))).await;
    let original = rig.fake.get(&path("ipaddresspools", "lan")).unwrap();
    let copy = path("ipaddresspools", "copy");
    let by_hand = json!({"manager": "kubectl-create", "operation": "Update", "fieldsV1": {"f:spec": {"f:addresses": {}}}});
    rig.fake.edit(&copy, &by_hand, |object| {
        object["metadata"]["labels"] = original["metadata"]["labels"].clone();
        object["metadata"]["ownerReferences"] = original["metadata"]["ownerReferences"].clone();
        object["spec"] = json!({"addresses": ["10.0.1.0/24"]});
    });
    rig.settle().await;
    assert_eq!(rig.fake.names("ipaddresspools"), ["copy", "lan"]);
    assert!(!rig.is_marked(&copy), "garbage collection would take it with the stack");
}

#[tokio::test(start_paused = true)]
async fn what_a_webhook_makes_of_our_image_is_taken_as_wanted() {
    let fake = Fake::default();
    fake.edit(STACK, &Value::Null, |stack| stack["spec"] = json!({}));
    fake.rewrite_images();
    let mut rig = Rig::on(fake).await;
    let image = |rig: &Rig| {
        rig.fake.get(SPEAKER).unwrap()["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };
    assert_eq!(image(&rig), "mirror.test/example.test/lbstack:1");
    assert!(!rig.condition("Degraded").contains("Contested"), "{}", rig.condition("Degraded"));
    let version = rig.fake.get(SPEAKER).unwrap()["metadata"]["resourceVersion"].clone();
    rig = Rig::on(rig.fake.clone()).await;
    assert_eq!(rig.fake.get(SPEAKER).unwrap()["metadata"]["resourceVersion"], version);
    assert!(!rig.fake.notes().iter().any(|note| note.contains("was changed by")), "{:?}", rig.fake.notes());
}

#[tokio::test(start_paused = true)]
async fn an_object_of_somebody_else_is_not_asked_for_at_every_look() {
    let fake = Fake::default();
    fake.edit(STACK, &Value::Null, |stack| {
        stack["spec"] = inline(&json!([{"name": "lan", "addresses": ["10.0.0.0/24"]}]));
    });
    let by_hand = json!({"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}});
    fake.edit(&path("ipaddresspools", "lan"), &by_hand, |pool| pool["spec"] = json!({}));
    let mut rig = Rig::on(fake).await;
    rig.fake.take_gets();
    for _ in 0..20 {
        rig.reconciler.reconcile().await;
    }
    let asked = rig.fake.take_gets().iter().filter(|path| path.ends_with("/lan")).count();
    assert!(asked <= 6, "{asked} times in 20 looks");
}

#[tokio::test(start_paused = true)]
async fn requirement_9_an_object_that_cannot_be_deleted_holds_the_stack_no_longer_than_its_time() {
    let mut rig = imported().await;
    let refused = path("ipaddresspools", "default");
    rig.fake.refuse(format!("DELETE {refused}"), 500, "failed calling webhook: service not found");
    rig.fake.edit(STACK, &Value::Null, |stack| {
        stack["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    let (mut looks, mut reported) = (0, false);
    while rig.fake.get(STACK).unwrap()["metadata"]["finalizers"] != json!([]) {
        let next = rig.reconciler.reconcile().await;
        reported |= rig
            .condition("Progressing")
            .contains("IPAddressPool default (failed calling webhook: service not found)");
        looks += 1;
        assert!(looks < 90, "the finalizer stays");
        let _ = tokio::time::timeout(next, rig.changed.notified()).await;
    }
    assert!(reported, "the status says what is in the way");
    assert_eq!(rig.fake.names("ipaddresspools"), ["default"], "it holds up no other");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let notes = rig.fake.notes();
    assert!(
        notes.iter().any(|note| note.contains("IPAddressPool default (failed calling webhook")),
        "{notes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn requirement_3_what_the_api_server_prunes_from_the_status_is_not_written_again() {
    let fake = Fake::default();
    fake.edit(STACK, &Value::Null, |stack| stack["spec"] = json!({}));
    fake.prune_status();
    let mut rig = Rig::on(fake).await;
    assert!(rig.fake.get(STACK).unwrap()["status"].get("controller").is_none());
    rig.fake.take_writes();
    for _ in 0..20 {
        rig.reconciler.reconcile().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(rig.fake.take_writes(), Vec::<String>::new());
}

/// Its pods have tokens of the former account, which the API server refuses.
#[tokio::test(start_paused = true)]
async fn a_workload_is_rolled_out_once_for_an_account_that_was_made_anew_however_soon() {
    let account = "/api/v1/namespaces/metallb-system/serviceaccounts/controller";
    let user = "/apis/apps/v1/namespaces/metallb-system/deployments/controller";
    let rolled_out_for = |rig: &Rig| {
        let template = &spec_of(rig, user)["template"]["metadata"]["annotations"];
        template["lbstack.dev/service-account"].as_str().map(str::to_owned)
    };
    let mut rig = Rig::new(json!({})).await;
    rig.settle().await;
    assert_eq!(rolled_out_for(&rig), None, "at an install");
    rig.fake.delete(account);
    rig.settle().await;
    let uid = rig.fake.get(account).unwrap()["metadata"]["uid"].as_str().map(str::to_owned);
    assert!(uid.is_some());
    assert_eq!(rolled_out_for(&rig), uid);
    let mut restarted = Rig::on(rig.fake.clone()).await;
    restarted.settle().await;
    assert_eq!(rolled_out_for(&restarted), uid, "not once more after a restart of the operator");
}
