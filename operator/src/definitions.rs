//! Looks at the `CustomResourceDefinition`s, which come with the installation and are never written here.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt as _;
use render::definitions::{converts_by_webhook, is_established, lacks};

use crate::api::{Api, CustomResourceDefinition, Error};
use crate::apply::json_of;
use tokio::time::Instant;

/// How long a good and a bad answer are believed.
const GOOD: Duration = Duration::from_mins(5);
const BAD: Duration = Duration::from_secs(5);

/// What was last found.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    /// By the name of the definition.
    found: BTreeMap<String, Vec<String>>,
    until: Option<Instant>,
}

impl Definitions {
    /// What is missing or old, each with the command that helps. A definition that cannot be read is taken to be as it was.
    pub(crate) async fn problems(&mut self, api: &Api, now: Instant) -> Vec<String> {
        if self.until.is_none_or(|until| now >= until) {
            let mut good = true;
            for wanted in crds::all() {
                let name = wanted.name_any();
                match look(api, &wanted).await {
                    Ok(found) => {
                        good &= found.is_empty();
                        self.found.insert(name, found);
                    }
                    Err(error) => {
                        good = false;
                        tracing::warn!(definition = name, %error, "cannot be read, and is taken to be as it was");
                    }
                }
            }
            self.until = Some(now + if good { GOOD } else { BAD });
        }
        self.found.values().flatten().cloned().collect()
    }

    /// When to look again.
    pub(crate) fn next_look(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

async fn look(api: &Api, wanted: &CustomResourceDefinition) -> Result<Vec<String>, Error> {
    let name = wanted.name_any();
    let live = api.definition(&name).await?.map(|live| json_of(&live));
    let json = serde_json::to_value(wanted)?;
    let mut found: Vec<String> = live.iter().filter_map(|live| converts_by_webhook(&json, live)).collect();
    let problem = match live {
        None => Some("does not exist".to_owned()),
        Some(live) if !is_established(&live) => Some("is not established".to_owned()),
        Some(live) => lacks(&json, &live)
            .map(|what| format!("is older than operator {}: {what}", env!("CARGO_PKG_VERSION"))),
    };
    found.extend(problem.map(|problem| {
        format!("CustomResourceDefinition {name} {problem}: kubectl apply --server-side -f install.yaml")
    }));
    Ok(found)
}
