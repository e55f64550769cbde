//! The objects and the configuration that a view is built from.

use std::collections::HashSet;
use std::sync::Arc;

use announce::cluster::link::{Link, LinkInfo};
use announce::cluster::objects::ClusterObjects;
use announce::layer2::view::{View, ViewBuilder, ViewSettings};
use crds::{IPAddressPool, L2Advertisement, ServiceKey};
use rules::{Configuration, Finding, LastValid};
use serde::{Deserialize, Serialize};

/// Everything that a view is built from.
#[derive(Serialize, Deserialize)]
pub(crate) struct Inputs {
    #[serde(rename = "facts")]
    pub(crate) objects: ClusterObjects,
    pub(crate) pools: Vec<Arc<IPAddressPool>>,
    pub(crate) l2_advertisements: Vec<Arc<L2Advertisement>>,
    /// What stays in effect where one of these has an error.
    #[serde(default)]
    pub(crate) last_valid: LastValid,
}

impl Inputs {
    /// Builds the first view.
    pub(crate) fn view(mut self, settings: &ViewSettings, links: &[Link]) -> Arc<View> {
        let mut last_valid = std::mem::take(&mut self.last_valid);
        let mut validated = Validated::default();
        validated.update(&mut last_valid, &self);
        self.build_view(&mut ViewBuilder::new(settings.clone(), None), links, &validated.configuration)
    }

    /// Drops the endpoints of Services that are not ours.
    pub(crate) fn only_our_services(mut self) -> Self {
        let ours: HashSet<&ServiceKey> = self.objects.services.iter().map(|service| &*service.key).collect();
        self.objects.slices.retain(|slice| ours.contains(&slice.service));
        self
    }

    /// Builds the next view.
    pub(crate) fn build_view(
        mut self,
        builder: &mut ViewBuilder,
        links: &[Link],
        configuration: &Configuration,
    ) -> Arc<View> {
        self.objects.own_links = Some(links.iter().map(LinkInfo::from).collect());
        builder.build(self.objects, configuration)
    }
}

/// The configuration, validated again when one of its objects has changed.
#[derive(Default)]
pub(crate) struct Validated {
    pools: Vec<Arc<IPAddressPool>>,
    l2_advertisements: Vec<Arc<L2Advertisement>>,
    pub(crate) configuration: Configuration,
    pub(crate) findings: Vec<Finding>,
}

impl Validated {
    /// Validates the objects if they have changed.
    pub(crate) fn update(&mut self, last_valid: &mut LastValid, inputs: &Inputs) {
        if self.pools == inputs.pools && self.l2_advertisements == inputs.l2_advertisements {
            return;
        }
        self.pools.clone_from(&inputs.pools);
        self.l2_advertisements.clone_from(&inputs.l2_advertisements);
        let configured = rules::Objects {
            pools: inputs.pools.clone(),
            l2_advertisements: inputs.l2_advertisements.clone(),
            ..rules::Objects::default()
        };
        (self.configuration, self.findings) = last_valid.configure(&configured);
    }
}
