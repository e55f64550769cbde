//! Every call of the operator: bounded in time, and written only while this process leads.

use crds::names::{OPERATOR, STACK};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api as KubeApi, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
    PropagationPolicy,
};
use kube::core::ApiResource;
use kube::{Client, ResourceExt as _};
use render::{Key, Kind};
use runtime::client::{CallError, bounded};
use runtime::lease::Leadership;
use serde_json::{Value, json};

use crate::stack::stack_resource;

/// More pods in trouble than these tell nothing more.
const PODS: u32 = 500;

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

    /// What to tell people: the API server's own words, and what to do where they do not say it.
    pub(crate) fn explain(&self) -> String {
        let text = match self {
            Self::Call(CallError::Kube(kube::Error::Api(status))) => status.message.clone(),
            other => other.to_string(),
        };
        match self {
            error if error.is_not_found() => {
                format!("{text}: apply the CustomResourceDefinitions of this version")
            }
            _ => text,
        }
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
        match bounded(self.of(&kind.api_resource(), namespace).get(name)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Applies `body` as the operator's part of the object. With `force`, what others own of it becomes ours.
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
        Ok(bounded(api.patch(&key.name, params, patch)).await?)
    }

    /// Asks for the deletion of the object with this UID; a workload goes after its pods. True: it is gone already.
    pub(crate) async fn delete(&self, key: &Key, uid: Option<String>) -> Result<bool, Error> {
        self.may_write()?;
        let params = DeleteParams {
            propagation_policy: Some(if key.kind.is_workload() {
                PropagationPolicy::Foreground
            } else {
                PropagationPolicy::Background
            }),
            preconditions: uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        let api = self.of(&key.kind.api_resource(), key.namespace.as_deref());
        match bounded(api.delete(&key.name, &params)).await {
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
        Ok(bounded(self.stacks().patch(&stack.name_any(), &params, &patch)).await?)
    }

    /// The stack as it is now, if it exists. Only who leads may ask, since nobody else would do anything about it.
    pub(crate) async fn stack(&self) -> Result<Option<DynamicObject>, Error> {
        self.may_write()?;
        let only = ListParams::default().fields(&format!("metadata.name={STACK}"));
        Ok(bounded(self.stacks().list(&only)).await?.items.pop())
    }

    /// Stores the status of the stack.
    pub(crate) async fn set_status(&self, name: &str, status: &Value) -> Result<DynamicObject, Error> {
        self.may_write()?;
        let resource = stack_resource();
        let body = json!({"apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"name": name}, "status": status});
        let params = PatchParams::apply(OPERATOR).force();
        Ok(bounded(self.stacks().patch_status(name, &params, &Patch::Apply(body))).await?)
    }

    /// The pods with `labels` in `namespace`.
    pub(crate) async fn pods(&self, namespace: &str, labels: &str) -> Result<Vec<Pod>, Error> {
        let api: KubeApi<Pod> = KubeApi::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().labels(labels).limit(PODS);
        Ok(bounded(api.list(&params)).await?.items)
    }

    /// All of a resource in `namespace`.
    pub(crate) async fn list(
        &self,
        resource: &ApiResource,
        namespace: &str,
    ) -> Result<Vec<DynamicObject>, Error> {
        match bounded(self.of(resource, Some(namespace)).list(&ListParams::default())).await {
            Ok(list) => Ok(list.items),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for the deletion of all of a resource in `namespace`, but for what goes with its owner.
    pub(crate) async fn delete_unowned(&self, resource: &ApiResource, namespace: &str) -> Result<(), Error> {
        let objects = self.list(resource, namespace).await?;
        for object in objects.iter().filter(|object| object.owner_references().is_empty()) {
            self.may_write()?;
            let api = self.of(resource, Some(namespace));
            match bounded(api.delete(&object.name_any(), &DeleteParams::default())).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// A definition of a kind, if it exists.
    pub(crate) async fn definition(&self, name: &str) -> Result<Option<DynamicObject>, Error> {
        let resource = ApiResource::erase::<CustomResourceDefinition>(&());
        match bounded(self.of(&resource, None).get(name)).await {
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

type CustomResourceDefinition =
    k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
