//! Kinds whose `spec` may be absent.
//!
//! In MetalLB's schema only `IPAddressPool` makes `spec` mandatory, and an `L2Advertisement` without one is
//! common. The `CustomResource` derive does not support an optional spec, so the spec type deserializes an
//! absent one as its default, and the requirement is removed from the generated schema.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// Makes a spec type, derived with `#[serde(remote = "Self")]`, deserialize an absent or null value as its
/// default.
macro_rules! optional_spec {
    ($spec:ty, $name:literal) => {
        impl<'de> serde::Deserialize<'de> for $spec {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                struct Present(#[serde(with = $name)] $spec);
                Ok(Option::<Present>::deserialize(deserializer)?.map_or_else(Self::default, |spec| spec.0))
            }
        }

        impl serde::Serialize for $spec {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }
    };
}
pub(crate) use optional_spec;

/// The same definition without the requirement of a `spec`.
pub(crate) fn without_required_spec(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let schemas = crd.spec.versions.iter_mut().filter_map(|v| v.schema.as_mut()?.open_api_v3_schema.as_mut());
    for schema in schemas {
        if let Some(required) = &mut schema.required {
            required.retain(|field| field != "spec");
        }
        schema.required.take_if(|required| required.is_empty());
    }
    crd
}

#[cfg(test)]
mod tests {
    use crate::L2Advertisement;

    #[test]
    fn an_advertisement_without_a_spec_is_one_with_defaults() {
        for json in [
            r#"{"apiVersion":"metallb.io/v1beta1","kind":"L2Advertisement","metadata":{"name":"a"}}"#,
            r#"{"apiVersion":"metallb.io/v1beta1","kind":"L2Advertisement","metadata":{"name":"a"},"spec":null}"#,
            r#"{"apiVersion":"metallb.io/v1beta1","kind":"L2Advertisement","metadata":{"name":"a"},"spec":{}}"#,
        ] {
            let advertisement: L2Advertisement = serde_json::from_str(json).unwrap();
            assert_eq!(advertisement.spec, crate::L2AdvertisementSpec::default());
        }
    }

    #[test]
    fn a_spec_that_is_there_round_trips() {
        let json = r#"{"ipAddressPools":["a"],"interfaces":["eth0"]}"#;
        let spec: crate::L2AdvertisementSpec = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), json);
    }
}
