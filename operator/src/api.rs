//! Every call of the operator: bounded in time, and written only while this process leads.

use crds::names::{FIELD_MANAGER_PREFIX, OPERATOR, STACK};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use k8s_openapi::jiff::Timestamp;
use kube::api::{
    Api as KubeApi, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
    PropagationPolicy,
};
use kube::core::ApiResource;
use kube::{Client, ResourceExt as _};
use render::{Key, Kind};
use runtime::client::{CallError, with_timeout};
use runtime::lease::Leadership;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::stack::stack_resource;

/// How many pods, or events, a page of a list has.
const PAGE: u32 = 500;

/// Why a call was not made, or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another process may lead by now.
    #[error("this operator leads no more")]
    NotLeading,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What was to be written cannot be put into JSON.
    #[error("cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// 404 of an object.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Call(error) if error.is_not_found())
    }

    /// The object has changed since it was read: 409, or 422 where a JSON patch tests that it has not.
    pub(crate) fn is_outdated(&self) -> bool {
        /// What the API server says when a `test` fails; other refusals name a field.
        const TEST_FAILED: &str = "the server rejected our request";
        match self {
            Self::Call(CallError::Kube(kube::Error::Api(status))) => {
                status.code == 409 || status.code == 422 && status.message.starts_with(TEST_FAILED)
            }
            _ => false,
        }
    }

    /// What users read: the API server's own words, and what to do where those do not say it.
    pub(crate) fn explain(&self) -> String {
        let Self::Call(CallError::Kube(kube::Error::Api(status))) = self else { return self.to_string() };
        // Where it is an object that does not exist, the answer names it.
        let named = status.details.as_ref().is_some_and(|details| !details.name.is_empty());
        if self.is_not_found() && !named {
            return format!("{}: apply the CustomResourceDefinitions of this version", status.message);
        }
        status.message.clone()
    }
}

/// What an object must still be for it to be deleted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Precondition {
    uid: Option<String>,
    version: Option<String>,
}

impl Precondition {
    /// `live`, and, if `unchanged`, exactly as it was seen.
    pub(crate) fn of(live: &Value, unchanged: bool) -> Self {
        let text = |field: &str| live["metadata"][field].as_str().map(ToOwned::to_owned);
        Self { uid: text("uid"), version: text("resourceVersion").filter(|_| unchanged) }
    }
}

/// The API, as far as the operator uses it.
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
    pub(crate) async fn get(&self, key: &Key) -> Result<Option<DynamicObject>, Error> {
        self.look_up(key.kind, key.namespace.as_deref(), &key.name).await
    }

    async fn look_up(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<DynamicObject>, Error> {
        match with_timeout(self.of(&kind.api_resource(), namespace).get(name)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Applies `body` as the operator's part of the object. With `force`, what others own of it becomes ours. A
    /// resourceVersion in `body` is a precondition.
    pub(crate) async fn apply(&self, key: &Key, body: &Value, force: bool) -> Result<DynamicObject, Error> {
        let params = PatchParams { force, ..PatchParams::apply(OPERATOR) };
        self.patch(key, &params, &Patch::Apply(body)).await
    }

    /// Turns `live` into `wanted`, unless somebody has changed it meanwhile.
    pub(crate) async fn change(
        &self,
        key: &Key,
        live: &Value,
        wanted: &Value,
    ) -> Result<DynamicObject, Error> {
        let version = &live["metadata"]["resourceVersion"];
        let test = json!([{"op": "test", "path": "/metadata/resourceVersion", "value": version}]);
        let mut operations: json_patch::Patch = serde_json::from_value(test)?;
        operations.0.extend(json_patch::diff(live, wanted).0);
        let params = PatchParams { field_manager: Some(OPERATOR.to_owned()), ..PatchParams::default() };
        self.patch(key, &params, &Patch::<()>::Json(operations)).await
    }

    async fn patch<T: serde::Serialize + std::fmt::Debug>(
        &self,
        key: &Key,
        params: &PatchParams,
        patch: &Patch<T>,
    ) -> Result<DynamicObject, Error> {
        self.may_write()?;
        let api = self.of(&key.kind.api_resource(), key.namespace.as_deref());
        Ok(with_timeout(api.patch(&key.name, params, patch)).await?)
    }

    /// Asks for the deletion of the object that was seen; a workload goes after its pods. True: it is gone already.
    pub(crate) async fn delete(&self, key: &Key, seen: Option<Precondition>) -> Result<bool, Error> {
        self.may_write()?;
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
        let api = self.of(&key.kind.api_resource(), key.namespace.as_deref());
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
    ) -> Result<DynamicObject, Error> {
        self.may_write()?;
        let metadata = json!({"finalizers": finalizers, "resourceVersion": stack.resource_version()});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let params = PatchParams { field_manager: Some(OPERATOR.to_owned()), ..PatchParams::default() };
        Ok(with_timeout(self.stacks().patch(&stack.name_any(), &params, &patch)).await?)
    }

    /// The stack as it is now, if it exists. Only who leads may ask, since nobody else would do anything about it.
    pub(crate) async fn stack(&self) -> Result<Option<DynamicObject>, Error> {
        self.may_write()?;
        let only = ListParams::default().fields(&format!("metadata.name={STACK}"));
        Ok(with_timeout(self.stacks().list(&only)).await?.items.pop())
    }

    /// Stores the status of the stack.
    pub(crate) async fn set_status(&self, name: &str, status: &Value) -> Result<DynamicObject, Error> {
        self.may_write()?;
        let resource = stack_resource();
        let body = json!({"apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"name": name}, "status": status});
        let params = PatchParams::apply(OPERATOR).force();
        Ok(with_timeout(self.stacks().patch_status(name, &params, &Patch::Apply(body))).await?)
    }

    /// What `extract` makes of each pod with `labels` in `namespace`. Pods are large, so no more than a page of them is held.
    pub(crate) async fn pods<T>(
        &self,
        namespace: &str,
        labels: &str,
        extract: impl Fn(&Pod) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut extracted = Vec::new();
        let params = ListParams::default().labels(labels);
        self.each(namespace, params, |pod: Pod| extracted.extend(extract(&pod))).await?;
        Ok(extracted)
    }

    /// Hands every object of a list to `take`. No more than a page of them is held.
    async fn each<K>(&self, namespace: &str, params: ListParams, mut take: impl FnMut(K)) -> Result<(), Error>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api: KubeApi<K> = KubeApi::namespaced(self.client.clone(), namespace);
        let mut params = params.limit(PAGE);
        loop {
            let page = with_timeout(api.list(&params)).await?;
            page.items.into_iter().for_each(&mut take);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(()),
            }
        }
    }

    /// What the API server said when a pod of the DaemonSet `name` could not be created, most recently.
    pub(crate) async fn creation_refused(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<String>, Error> {
        let fields = format!("involvedObject.kind=DaemonSet,involvedObject.name={name},reason=FailedCreate");
        let mut last: Option<(Option<Timestamp>, Option<String>)> = None;
        self.each(namespace, ListParams::default().fields(&fields), |event: Event| {
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

    /// All of a resource in `namespace`, or in every namespace.
    pub(crate) async fn list(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
    ) -> Result<Vec<DynamicObject>, Error> {
        match with_timeout(self.of(resource, namespace).list(&ListParams::default())).await {
            Ok(list) => Ok(list.items),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for the deletion of all of a resource in `namespace` that our processes have written, but for what goes with its
    /// owner. Returns those that could not be deleted, each with the reason.
    pub(crate) async fn delete_unowned(
        &self,
        resource: &ApiResource,
        namespace: &str,
    ) -> Result<Vec<String>, Error> {
        let mut left = Vec::new();
        let objects = self.list(resource, Some(namespace)).await?;
        let is_unowned = |object: &&DynamicObject| {
            let written = |entry: &ManagedFieldsEntry| {
                entry.manager.as_deref().is_some_and(|manager| manager.starts_with(FIELD_MANAGER_PREFIX))
            };
            object.owner_references().is_empty() && object.managed_fields().iter().any(written)
        };
        for object in objects.iter().filter(is_unowned) {
            self.may_write()?;
            let (api, name) = (self.of(resource, Some(namespace)), object.name_any());
            match with_timeout(api.delete(&name, &DeleteParams::default())).await {
                Err(error) if !error.is_not_found() => {
                    left.push(format!("{} {name} ({})", resource.kind, Error::from(error).explain()));
                }
                _ => {}
            }
        }
        Ok(left)
    }

    /// A definition of a kind, if it exists.
    pub(crate) async fn definition(&self, name: &str) -> Result<Option<DynamicObject>, Error> {
        let resource = ApiResource::erase::<CustomResourceDefinition>(&());
        match with_timeout(self.of(&resource, None).get(name)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn stacks(&self) -> KubeApi<DynamicObject> {
        self.of(&stack_resource(), None)
    }

    fn of(&self, resource: &ApiResource, namespace: Option<&str>) -> KubeApi<DynamicObject> {
        match namespace {
            Some(namespace) => KubeApi::namespaced_with(self.client.clone(), namespace, resource),
            None => KubeApi::all_with(self.client.clone(), resource),
        }
    }

    fn may_write(&self) -> Result<(), Error> {
        if self.leadership.is_leading() { Ok(()) } else { Err(Error::NotLeading) }
    }
}

/// As the API has it.
pub(crate) type CustomResourceDefinition =
    k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_kind_that_is_not_defined_is_to_be_defined() {
        let explained = |status: Value| {
            let status = serde_json::from_value(status).unwrap();
            Error::Call(CallError::Kube(kube::Error::Api(Box::new(status)))).explain()
        };
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
