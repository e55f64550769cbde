//! Whether the definitions in the cluster know everything that this version writes.

use std::collections::BTreeSet;

use serde_json::Value;

/// What is wrong with how `live` converts between versions, and the command that helps: a webhook that MetalLB left behind
/// makes every object of an older version unreadable. (An apply cannot take the webhook out.)
pub fn converts_by_webhook(wanted: &Value, live: &Value) -> Option<String> {
    let none = &wanted["spec"]["conversion"]["strategy"] == "None";
    let conversion = &live["spec"]["conversion"];
    let (true, "Webhook") = (none, conversion["strategy"].as_str()?) else { return None };
    let service = &conversion["webhook"]["clientConfig"]["service"];
    let text = |field: &str| service[field].as_str().unwrap_or("?").to_owned();
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    Some(format!(
        "CustomResourceDefinition {name} converts between versions by a webhook at Service {}/{}, which this operator \
         does not serve: kubectl patch crd {name} --type=merge \
         -p '{{\"spec\":{{\"conversion\":{{\"strategy\":\"None\",\"webhook\":null}}}}}}'",
        text("namespace"),
        text("name"),
    ))
}

/// What `live` lacks of `wanted`: both a `CustomResourceDefinition`. None: nothing. A definition that knows more
/// (a newer one, or MetalLB's own) is fine.
pub fn lacks(wanted: &Value, live: &Value) -> Option<String> {
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

/// Whether the API server has taken the definition into use.
pub fn is_established(live: &Value) -> bool {
    let conditions = live["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

/// Paths of all properties.
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
    fn a_definition_lacks_nothing_of_itself_and_may_know_more() {
        for crd in crds::all() {
            let wanted = serde_json::to_value(crd).unwrap();
            let mut live = wanted.clone();
            assert_eq!(lacks(&wanted, &live), None);
            live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["new"] = json!({});
            assert_eq!(lacks(&wanted, &live), None);
        }
    }

    #[test]
    fn a_conversion_webhook_that_metallb_left_behind_is_reported_with_the_command_that_removes_it() {
        let crds = crds::all();
        let peers =
            crds.iter().find(|crd| crd.metadata.name.as_deref() == Some("bgppeers.metallb.io")).unwrap();
        let wanted = serde_json::to_value(peers).unwrap();
        assert_eq!(wanted["spec"]["conversion"], json!({"strategy": "None"}), "said explicitly");
        assert_eq!(converts_by_webhook(&wanted, &wanted), None);
        let mut live = wanted.clone();
        live["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "metallb-system", "name": "metallb-webhook-service"}}}});
        let problem = converts_by_webhook(&wanted, &live).unwrap();
        assert!(problem.contains("Service metallb-system/metallb-webhook-service"), "{problem}");
        let patch = problem.split_once("-p '").unwrap().1.trim_end_matches('\'');
        let patch: Value = serde_json::from_str(patch).unwrap();
        assert_eq!(patch, json!({"spec": {"conversion": {"strategy": "None", "webhook": null}}}));
        for other in crds.iter().filter(|crd| crd.spec.versions.len() == 1) {
            let other = serde_json::to_value(other).unwrap();
            assert_eq!(converts_by_webhook(&other, &live), None, "there is nothing to convert");
        }
    }

    #[test]
    fn an_older_definition_is_told_by_the_first_field_that_it_lacks() {
        let wanted = serde_json::to_value(&crds::all()[0]).unwrap();
        let mut live = wanted.clone();
        let spec = &mut live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["properties"]["addressPools"]["items"]["properties"].as_object_mut().unwrap().remove("layer2");
        assert!(lacks(&wanted, &live).unwrap().contains("spec.addressPools[].layer2"));
        live["spec"]["versions"][0]["served"] = json!(false);
        assert_eq!(lacks(&wanted, &live).as_deref(), Some("version v1alpha1 is not served"));
    }
}
