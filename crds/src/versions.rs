//! Definitions with more than one version.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition,
};

/// `stored` that also serves the versions of `older`, as deprecated ones.
pub(crate) fn with_older_version(
    mut stored: CustomResourceDefinition,
    older: CustomResourceDefinition,
    warning: &str,
) -> CustomResourceDefinition {
    let older = deprecate(older, warning).spec.versions.into_iter().map(|mut version| {
        version.storage = false;
        version
    });
    // Oldest first, as MetalLB lists them.
    stored.spec.versions.splice(0..0, older);
    // Set explicitly: MetalLB's definition may have set a conversion webhook, which is removed with MetalLB.
    stored.spec.conversion =
        Some(CustomResourceConversion { strategy: "None".to_owned(), ..CustomResourceConversion::default() });
    stored
}

/// The same definition with every version marked as deprecated.
pub(crate) fn deprecate(mut crd: CustomResourceDefinition, warning: &str) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        version.deprecated = Some(true);
        version.deprecation_warning = Some(warning.to_owned());
    }
    crd
}

/// The same definition under another version name.
pub(crate) fn with_version_name(mut crd: CustomResourceDefinition, name: &str) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        name.clone_into(&mut version.name);
    }
    crd
}
