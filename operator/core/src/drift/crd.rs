//! Checks whether the CustomResourceDefinitions in the cluster support everything that this version writes.

use std::collections::BTreeSet;

use serde_json::Value;

/// Reports a conversion webhook in `live` that MetalLB left behind, with the command that removes it: with
/// the webhook in place, objects of older versions cannot be read. (Server-side apply cannot remove it.)
pub fn webhook_conversion(wanted: &Value, live: &Value) -> Option<String> {
    let none = &wanted["spec"]["conversion"]["strategy"] == "None";
    let conversion = &live["spec"]["conversion"];
    let (true, "Webhook") = (none, conversion["strategy"].as_str()?) else { return None };
    let service = &conversion["webhook"]["clientConfig"]["service"];
    let text = |field: &str| service[field].as_str().unwrap_or("?").to_owned();
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    Some(format!(
        "CustomResourceDefinition {name} uses the conversion webhook of Service {}/{}, which this operator \
         does not serve: kubectl patch crd {name} --type=merge \
         -p '{{\"spec\":{{\"conversion\":{{\"strategy\":\"None\",\"webhook\":null}}}}}}'",
        text("namespace"),
        text("name"),
    ))
}

/// The first version or field of `wanted` that `live` does not have; both are `CustomResourceDefinition`s. A
/// definition with more fields (a newer one, or MetalLB's own) is fine.
pub fn missing_fields(wanted: &Value, live: &Value) -> Option<String> {
    let versions = wanted["spec"]["versions"].as_array()?;
    versions.iter().find_map(|version| {
        let name = version["name"].as_str().unwrap_or_default();
        let same = |other: &&Value| other["name"] == version["name"] && other["served"] == true;
        let found = live["spec"]["versions"].as_array().and_then(|versions| versions.iter().find(same));
        let Some(found) = found else { return Some(format!("version {name} is not served")) };
        let schema = |version: &Value| properties(&version["schema"]["openAPIV3Schema"]);
        let missing = schema(version).difference(&schema(found)).next().cloned()?;
        Some(format!("field {missing} is missing in version {name}"))
    })
}

/// Whether the condition `Established` is true.
pub fn is_established(live: &Value) -> bool {
    let conditions = live["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

/// The paths of all properties of a schema.
fn properties(schema: &Value) -> BTreeSet<String> {
    fn walk(schema: &Value, at: &str, paths: &mut BTreeSet<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (name, below) in properties {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                walk(below, &path, paths);
                paths.insert(path);
            }
        }
        if schema["items"].is_object() {
            walk(&schema["items"], &format!("{at}[]"), paths);
        }
    }
    let mut paths = BTreeSet::new();
    walk(schema, "", &mut paths);
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_crd_may_have_more_fields_but_not_fewer() {
        for crd in crds::all() {
            let wanted = serde_json::to_value(crd).unwrap();
            let mut live = wanted.clone();
            assert_eq!(missing_fields(&wanted, &live), None);
            live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["new"] = json!({});
            assert_eq!(missing_fields(&wanted, &live), None);
        }
    }

    #[test]
    fn a_conversion_webhook_that_metallb_left_behind_is_reported_with_the_command_that_removes_it() {
        let crds = crds::all();
        let peers =
            crds.iter().find(|crd| crd.metadata.name.as_deref() == Some("bgppeers.metallb.io")).unwrap();
        let wanted = serde_json::to_value(peers).unwrap();
        assert_eq!(
            wanted["spec"]["conversion"],
            json!({"strategy": "None"}),
            "explicit, so that an apply can set it"
        );
        assert_eq!(webhook_conversion(&wanted, &wanted), None);
        let mut live = wanted.clone();
        live["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions":
            ["v1"],
            "clientConfig": {"service": {"namespace": "metallb-system", "name":
                "metallb-webhook-service"}}}});
        let problem = webhook_conversion(&wanted, &live).unwrap();
        assert!(problem.contains("Service metallb-system/metallb-webhook-service"), "{problem}");
        let patch = problem.split_once("-p '").unwrap().1.trim_end_matches('\'');
        let patch: Value = serde_json::from_str(patch).unwrap();
        assert_eq!(patch, json!({"spec": {"conversion": {"strategy": "None", "webhook": null}}}));
        for other in crds.iter().filter(|crd| crd.spec.versions.len() == 1) {
            let other = serde_json::to_value(other).unwrap();
            assert_eq!(webhook_conversion(&other, &live), None, "a CRD with one version needs no conversion");
        }
    }

    #[test]
    fn an_older_crd_is_reported_with_the_first_missing_field() {
        let wanted = serde_json::to_value(&crds::all()[0]).unwrap();
        let mut live = wanted.clone();
        let spec = &mut live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["properties"]["addressPools"]["items"]["properties"].as_object_mut().unwrap().remove("layer2");
        assert!(missing_fields(&wanted, &live).unwrap().contains("spec.addressPools[].layer2"));
        live["spec"]["versions"][0]["served"] = json!(false);
        assert_eq!(missing_fields(&wanted, &live).as_deref(), Some("version v1alpha1 is not served"));
    }
}
