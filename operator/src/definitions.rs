//! Looks at the `CustomResourceDefinition`s, which come with the installation and are never written here.

use std::time::Duration;

use kube::ResourceExt as _;
use render::definitions::{converts_by_webhook, is_established, lacks};

use crate::api::{Api, Error};
use crate::apply::json_of;
use tokio::time::Instant;

/// How long a good and a bad answer are believed.
const GOOD: Duration = Duration::from_mins(5);
const BAD: Duration = Duration::from_secs(5);

/// What was last found.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    found: Vec<String>,
    until: Option<Instant>,
}

impl Definitions {
    /// What is missing or old, each with the command that helps.
    pub(crate) async fn problems(&mut self, api: &Api, now: Instant) -> Result<&[String], Error> {
        if self.until.is_none_or(|until| now >= until) {
            self.found = look(api).await?;
            self.until = Some(now + if self.found.is_empty() { GOOD } else { BAD });
        }
        Ok(&self.found)
    }

    /// When to look again.
    pub(crate) fn next_look(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

async fn look(api: &Api) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for wanted in crds::all() {
        let name = wanted.name_any();
        let live = api.definition(&name).await?.map(|live| json_of(&live));
        let json = serde_json::to_value(&wanted)?;
        found.extend(live.as_ref().and_then(|live| converts_by_webhook(&json, live)));
        let problem = match live {
            None => Some("does not exist".to_owned()),
            Some(live) if !is_established(&live) => Some("is not established".to_owned()),
            Some(live) => lacks(&json, &live)
                .map(|what| format!("is older than operator {}: {what}", env!("CARGO_PKG_VERSION"))),
        };
        found.extend(problem.map(|problem| {
            format!("CustomResourceDefinition {name} {problem}: kubectl apply --server-side -f install.yaml")
        }));
    }
    Ok(found)
}
