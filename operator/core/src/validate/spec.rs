//! Checks the fields of the spec that concern the stack as a whole. An error in one of them invalidates the
//! whole spec.

use std::collections::BTreeMap;

use crds::names::{LABEL_APP, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_PART_OF};
use crds::{LoadBalancerStackSpec, PodSettings};

use super::syntax;
use crate::finding::SpecFinding;
use crate::quantity;

/// The errors that were found.
#[derive(Default)]
pub(crate) struct SpecErrors(pub(crate) Vec<SpecFinding>);

impl SpecErrors {
    /// Checks `spec`, which will use `image`.
    pub(crate) fn check(spec: &LoadBalancerStackSpec, image: Option<&String>) -> Self {
        let mut errors = Self::default();
        if image.is_none() {
            errors.add(
                "spec.image",
                "",
                "the operator was started without an image to use by default",
                "set spec.image, or RELATED_IMAGE_LBSTACK in the operator's Deployment",
            );
        }
        if !syntax::is_dns_label(&spec.namespace) {
            errors.add(
                "spec.namespace",
                &spec.namespace,
                "is not a valid namespace name",
                "use at most 63 lowercase letters, digits and hyphens",
            );
        }
        if !spec.load_balancer_class.is_empty() && !syntax::is_qualified_name(&spec.load_balancer_class) {
            errors.add(
                "spec.loadBalancerClass",
                &spec.load_balancer_class,
                "is not a valid load balancer class",
                "use the syntax of a label key, for example example.com/internal",
            );
        }
        if spec.controller.replicas < 1 {
            errors.add(
                "spec.controller.replicas",
                &spec.controller.replicas.to_string(),
                "no controller would run, and no Service would get an address",
                "set it to 1 or more",
            );
        }
        errors.check_pod("spec.controller", &spec.controller.pod);
        errors.check_pod("spec.speaker", &spec.speaker.pod);
        errors.check_interfaces(&spec.speaker.exclude_interfaces);
        errors
    }

    fn add(&mut self, field: impl Into<String>, value: &str, problem: &str, hint: &str) {
        let (value, problem, hint) = (value.to_owned(), problem.to_owned(), hint.to_owned());
        self.0.push(SpecFinding { field: field.into(), value, problem, hint });
    }

    fn check_pod(&mut self, at: &str, settings: &PodSettings) {
        const RESERVED: [&str; 4] = [LABEL_APP, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_PART_OF];
        self.check_labels(&format!("{at}.labels"), &settings.labels);
        self.check_labels(&format!("{at}.nodeSelector"), &settings.node_selector);
        for key in settings.labels.keys().filter(|key| RESERVED.contains(&key.as_str())) {
            self.add(
                format!("{at}.labels"),
                key,
                "is a label that selects the pods of the stack",
                "remove it, or use another key",
            );
        }
        for key in settings.annotations.keys().filter(|key| !syntax::is_qualified_name(key)) {
            self.add(
                format!("{at}.annotations"),
                key,
                "is not a valid annotation key",
                "use [prefix/]name with at most 63 letters, digits, '-', '_' and '.' in the name",
            );
        }
        if let Some(resources) = &settings.resources {
            let quantities = [("requests", &resources.requests), ("limits", &resources.limits)];
            for (list, quantity) in quantities.iter().flat_map(|(list, map)| {
                map.iter().flat_map(BTreeMap::values).map(move |quantity| (list, quantity))
            }) {
                if quantity::parse(&quantity.0).is_none() {
                    self.add(
                        format!("{at}.resources.{list}"),
                        &quantity.0,
                        "is not a valid quantity",
                        "use a quantity such as 100m, 0.5, 64Mi or 1G",
                    );
                }
            }
        }
    }

    /// The speaker gets the list as a single, comma-separated argument.
    fn check_interfaces(&mut self, expressions: &[String]) {
        for (index, expression) in expressions.iter().enumerate() {
            let at = format!("spec.speaker.excludeInterfaces[{index}]");
            if let Err(error) = regex::Regex::new(expression) {
                let problem = error.to_string().replace('\n', " ");
                self.add(at, expression, &problem, "write a regular expression, for example ^veth.*");
            } else if expression.contains(',') {
                self.add(at, expression, "contains a comma", "write each expression as an entry of its own");
            }
        }
    }

    fn check_labels(&mut self, at: &str, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            if !syntax::is_qualified_name(key) {
                self.add(
                    at,
                    key,
                    "is not a valid label key",
                    "use [prefix/]name with at most 63 letters, digits, '-', '_' and '.' in the name",
                );
            }
            if !syntax::is_label_value(value) {
                self.add(
                    format!("{at}[{key}]"),
                    value,
                    "is not a valid label value",
                    "use at most 63 letters, digits, '-', '_' and '.'",
                );
            }
        }
    }
}
