//! All API calls of the operator. Each has a timeout, and writes are made only while this process leads.

use crds::names::{FIELD_MANAGER_PREFIX, OPERATOR, STACK};
use json_patch::jsonptr::PointerBuf;
use json_patch::{PatchOperation, TestOperation};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use k8s_openapi::jiff::Timestamp;
use kube::api::{
    Api as KubeApi, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
    PropagationPolicy,
};
use kube::core::ApiResource;
use kube::core::response::StatusDetails;
use kube::{Client, ResourceExt as _};
use render::{Key, Kind};
use runtime::client::{CallError, with_timeout};
use runtime::lease::Leadership;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::stack::stack_resource;

/// The page size of lists of pods and events.
const PAGE: u32 = 500;

/// This process does not lead.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this operator is not the leader")]
pub(crate) struct NotLeading;

/// Why a call was not made, or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Only a leader may make the call.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl ApiError {
    /// The error, if it concerns a single object, so that it must not stop the others. Fails if this process
    /// does not lead.
    pub(crate) fn object_error(self) -> Result<Self, NotLeading> {
        match self {
            Self::NotLeading(error) => Err(error),
            Self::Call(_) => Ok(self),
        }
    }

    /// Whether the object does not exist (404).
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Call(error) if error.is_not_found())
    }

    /// Whether the object has changed since it was read: 409, or 422 if the `test` operation of a JSON patch
    /// failed. The latter has no causes and names no object, while a rejected object has both.
    pub(crate) fn is_conflict(&self) -> bool {
        let Self::Call(CallError::Kube(kube::Error::Api(status))) = self else { return false };
        let names_nothing = |details: &StatusDetails| details.causes.is_empty() && details.name.is_empty();
        status.code == 409 || status.code == 422 && status.details.as_ref().is_some_and(names_nothing)
    }

    /// The message for users: that of the API server, with a hint where it is not helpful.
    pub(crate) fn explain(&self) -> String {
        let Self::Call(CallError::Kube(kube::Error::Api(status))) = self else { return self.to_string() };
        // If an object does not exist, the response names it; otherwise the kind is not defined.
        let named = status.details.as_ref().is_some_and(|details| !details.name.is_empty());
        if self.is_not_found() && !named {
            return format!("{}: apply the CustomResourceDefinitions of this version", status.message);
        }
        status.message.clone()
    }
}

/// The object as JSON.
pub(crate) fn json_of(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// The object as `K`, if it can be decoded as such.
pub(crate) fn typed<K: DeserializeOwned>(object: &DynamicObject) -> Option<K> {
    serde_json::from_value(json_of(object)).ok()
}

/// The preconditions of a deletion.
#[derive(Clone, Debug, Default)]
pub(crate) struct Precondition {
    uid: Option<String>,
    version: Option<String>,
}

impl Precondition {
    /// The UID of `live` and, if `unchanged`, its resourceVersion.
    pub(crate) fn of(live: &Value, unchanged: bool) -> Self {
        let text = |field: &str| live["metadata"][field].as_str().map(ToOwned::to_owned);
        Self { uid: text("uid"), version: text("resourceVersion").filter(|_| unchanged) }
    }
}

/// The API server, as far as the operator uses it.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
    leadership: Leadership,
}

impl Api {
    pub(crate) fn new(client: Client, leadership: Leadership) -> Self {
        Self { client, leadership }
    }

    /// The object, if it exists. (A kind that is not defined has no objects.)
    pub(crate) async fn get(&self, key: &Key) -> Result<Option<DynamicObject>, ApiError> {
        self.get_by_name(key.kind, key.namespace.as_deref(), &key.name).await
    }

    async fn get_by_name(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<DynamicObject>, ApiError> {
        match with_timeout(self.dynamic(&kind.api_resource(), namespace).get(name)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Server-side applies `body`. With `force`, fields owned by others are taken over. A resourceVersion in
    /// `body` is a precondition.
    pub(crate) async fn apply(
        &self,
        key: &Key,
        body: &Value,
        force: bool,
    ) -> Result<DynamicObject, ApiError> {
        let params = PatchParams { force, ..PatchParams::apply(OPERATOR) };
        self.patch(key, &params, &Patch::Apply(body)).await
    }

    /// Changes `live` into `desired` by a JSON patch, which fails if the object has changed meanwhile.
    pub(crate) async fn json_patch(
        &self,
        key: &Key,
        live: &Value,
        desired: &Value,
    ) -> Result<DynamicObject, ApiError> {
        let version = &live["metadata"]["resourceVersion"];
        let path = PointerBuf::from_tokens(["metadata", "resourceVersion"]);
        let mut operations = vec![PatchOperation::Test(TestOperation { path, value: version.clone() })];
        operations.extend(json_patch::diff(live, desired).0);
        let params = PatchParams { field_manager: Some(OPERATOR.to_owned()), ..PatchParams::default() };
        self.patch(key, &params, &Patch::<()>::Json(json_patch::Patch(operations))).await
    }

    async fn patch<T: serde::Serialize + std::fmt::Debug>(
        &self,
        key: &Key,
        params: &PatchParams,
        patch: &Patch<T>,
    ) -> Result<DynamicObject, ApiError> {
        self.ensure_leading()?;
        let api = self.dynamic(&key.kind.api_resource(), key.namespace.as_deref());
        Ok(with_timeout(api.patch(&key.name, params, patch)).await?)
    }

    /// Requests the deletion of an object; workloads with foreground propagation, so that they go after their
    /// pods. Returns true if the object does not exist any more.
    pub(crate) async fn delete(&self, key: &Key, seen: Option<Precondition>) -> Result<bool, ApiError> {
        self.ensure_leading()?;
        let params = DeleteParams {
            propagation_policy: Some(if key.kind.is_workload() {
                PropagationPolicy::Foreground
            } else {
                PropagationPolicy::Background
            }),
            preconditions: seen
                .map(|Precondition { uid, version }| Preconditions { uid, resource_version: version }),
            ..DeleteParams::default()
        };
        let api = self.dynamic(&key.kind.api_resource(), key.namespace.as_deref());
        match with_timeout(api.delete(&key.name, &params)).await {
            Ok(_) => Ok(false),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the finalizers of the stack.
    pub(crate) async fn set_finalizers(
        &self,
        stack: &DynamicObject,
        finalizers: &[String],
    ) -> Result<DynamicObject, ApiError> {
        self.ensure_leading()?;
        let metadata = json!({"finalizers": finalizers, "resourceVersion": stack.resource_version()});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let params = PatchParams { field_manager: Some(OPERATOR.to_owned()), ..PatchParams::default() };
        Ok(with_timeout(self.stacks().patch(&stack.name_any(), &params, &patch)).await?)
    }

    /// The current stack, if it exists. Fails if this process does not lead, since it could not act on the
    /// result.
    pub(crate) async fn stack(&self) -> Result<Option<DynamicObject>, ApiError> {
        self.ensure_leading()?;
        let only = ListParams::default().fields(&format!("metadata.name={STACK}"));
        Ok(with_timeout(self.stacks().list(&only)).await?.items.pop())
    }

    /// Applies the status of the stack.
    pub(crate) async fn set_status(&self, name: &str, status: &Value) -> Result<DynamicObject, ApiError> {
        self.ensure_leading()?;
        let resource = stack_resource();
        let body = json!({"apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"name": name}, "status": status});
        let params = PatchParams::apply(OPERATOR).force();
        Ok(with_timeout(self.stacks().patch_status(name, &params, &Patch::Apply(body))).await?)
    }

    /// Applies `extract` to each pod with `labels` in `namespace`, and returns the results. Pods are large,
    /// so only one page of them is held in memory.
    pub(crate) async fn pods<T>(
        &self,
        namespace: &str,
        labels: &str,
        extract: impl Fn(&Pod) -> Option<T>,
    ) -> Result<Vec<T>, ApiError> {
        let mut extracted = Vec::new();
        let params = ListParams::default().labels(labels);
        self.for_each(namespace, params, |pod: Pod| extracted.extend(extract(&pod))).await?;
        Ok(extracted)
    }

    /// Calls `visit` for every object of a list. Only one page of them is held in memory.
    async fn for_each<K>(
        &self,
        namespace: &str,
        params: ListParams,
        mut visit: impl FnMut(K),
    ) -> Result<(), ApiError>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api: KubeApi<K> = KubeApi::namespaced(self.client.clone(), namespace);
        let mut params = params.limit(PAGE);
        loop {
            let page = with_timeout(api.list(&params)).await?;
            page.items.into_iter().for_each(&mut visit);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(()),
            }
        }
    }

    /// The message of the newest event about a pod of the DaemonSet `name` that could not be created.
    pub(crate) async fn last_creation_failure(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<String>, ApiError> {
        let fields = format!("involvedObject.kind=DaemonSet,involvedObject.name={name},reason=FailedCreate");
        let mut last: Option<(Option<Timestamp>, Option<String>)> = None;
        self.for_each(namespace, ListParams::default().fields(&fields), |event: Event| {
            let at = event.series.and_then(|series| Some(series.last_observed_time?.0));
            let at = at.or(event.last_timestamp.map(|time| time.0)).or(event.event_time.map(|time| time.0));
            let at = at.or(event.metadata.creation_timestamp.map(|time| time.0));
            if last.as_ref().is_none_or(|(newest, _)| at >= *newest) {
                last = Some((at, event.message));
            }
        })
        .await?;
        Ok(last.and_then(|(_, message)| message))
    }

    /// Lists a resource in `namespace`, or in all namespaces.
    pub(crate) async fn list(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
    ) -> Result<Vec<DynamicObject>, ApiError> {
        match with_timeout(self.dynamic(resource, namespace).list(&ListParams::default())).await {
            Ok(list) => Ok(list.items),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Requests the deletion of all objects of a resource in `namespace` that our processes wrote and that
    /// have no owner. Returns those that could not be deleted, with the reason.
    pub(crate) async fn delete_unowned(
        &self,
        resource: &ApiResource,
        namespace: &str,
    ) -> Result<Vec<String>, ApiError> {
        let mut failures = Vec::new();
        let objects = self.list(resource, Some(namespace)).await?;
        let is_unowned = |object: &&DynamicObject| {
            let is_ours = |entry: &ManagedFieldsEntry| {
                entry.manager.as_deref().is_some_and(|manager| manager.starts_with(FIELD_MANAGER_PREFIX))
            };
            object.owner_references().is_empty() && object.managed_fields().iter().any(is_ours)
        };
        for object in objects.iter().filter(is_unowned) {
            self.ensure_leading()?;
            let (api, name) = (self.dynamic(resource, Some(namespace)), object.name_any());
            match with_timeout(api.delete(&name, &DeleteParams::default())).await {
                Err(error) if !error.is_not_found() => {
                    failures.push(format!("{} {name} ({})", resource.kind, ApiError::from(error).explain()));
                }
                _ => {}
            }
        }
        Ok(failures)
    }

    /// The CustomResourceDefinition `name`, if it exists.
    pub(crate) async fn crd(&self, name: &str) -> Result<Option<DynamicObject>, ApiError> {
        let resource = ApiResource::erase::<CustomResourceDefinition>(&());
        match with_timeout(self.dynamic(&resource, None).get(name)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn stacks(&self) -> KubeApi<DynamicObject> {
        self.dynamic(&stack_resource(), None)
    }

    fn dynamic(&self, resource: &ApiResource, namespace: Option<&str>) -> KubeApi<DynamicObject> {
        match namespace {
            Some(namespace) => KubeApi::namespaced_with(self.client.clone(), namespace, resource),
            None => KubeApi::all_with(self.client.clone(), resource),
        }
    }

    fn ensure_leading(&self) -> Result<(), NotLeading> {
        if self.leadership.is_leading() { Ok(()) } else { Err(NotLeading) }
    }
}

/// The CustomResourceDefinition type of the API.
pub(crate) type CustomResourceDefinition =
    k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(status: Value) -> ApiError {
        let status = serde_json::from_value(status).unwrap();
        ApiError::Call(CallError::Kube(kube::Error::Api(Box::new(status))))
    }

    #[test]
    fn a_failed_test_of_a_json_patch_is_a_conflict_and_a_rejected_object_is_not() {
        let rejected = |details: Value| error(json!({"code": 422, "reason": "Invalid", "details": details}));
        assert!(rejected(json!({})).is_conflict());
        let causes =
            json!([{"reason": "FieldValueInvalid", "message": "must be positive", "field": "spec.a"}]);
        let named = json!({"name": "lan", "kind": "IPAddressPool", "causes": causes});
        assert!(!rejected(named).is_conflict());
        assert!(!rejected(json!({"causes": causes})).is_conflict());
        assert!(!error(json!({"code": 422, "message": "denied by an admission webhook"})).is_conflict());
        assert!(error(json!({"code": 409, "reason": "Conflict"})).is_conflict());
        assert!(!error(json!({"code": 403, "reason": "Forbidden"})).is_conflict());
    }

    #[test]
    fn only_an_undefined_kind_gets_the_hint_to_apply_definitions() {
        let explained = |status: Value| error(status).explain();
        let undefined = "the server could not find the requested resource";
        let text = explained(json!({"code": 404, "reason": "NotFound", "message": undefined, "details": {}}));
        assert!(text.contains("CustomResourceDefinitions"), "{text}");
        let missing = "clusterrolebindings.rbac.authorization.k8s.io \"x\" not found";
        let details = json!({"kind": "clusterrolebindings", "name": "x"});
        let text =
            explained(json!({"code": 404, "reason": "NotFound", "message": missing, "details": details}));
        assert_eq!(text, missing);
    }
}
