//! Checks the `CustomResourceDefinition`s, which are part of the installation and are never written by the
//! operator.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt as _;
use render::crd::{is_established, missing_fields, webhook_conversion};
use tokio::time::Instant;

use crate::api::{Api, ApiError, CustomResourceDefinition, json_of};

/// How long the result of a check without and with problems is cached.
const VALID_FOR: Duration = Duration::from_mins(5);
const INVALID_FOR: Duration = Duration::from_secs(5);

/// Why a definition could not be checked.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    /// The definition of this version cannot be serialised.
    #[error("cannot be serialised as JSON: {0}")]
    Serialize(#[from] serde_json::Error),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] ApiError),
}

/// The cached result of the last check.
#[derive(Debug, Default)]
pub(crate) struct CrdCheck {
    /// The problems of each definition, by its name.
    problems: BTreeMap<String, Vec<String>>,
    until: Option<Instant>,
}

impl CrdCheck {
    /// The problems of all definitions (missing or older than this version), each with the command that fixes
    /// it. For a definition that cannot be read, the previous result is kept.
    pub(crate) async fn problems(&mut self, api: &Api, now: Instant) -> Vec<String> {
        if self.until.is_none_or(|until| now >= until) {
            let mut all_valid = true;
            for wanted in crds::all() {
                let name = wanted.name_any();
                match check(api, &wanted).await {
                    Ok(found) => {
                        all_valid &= found.is_empty();
                        self.problems.insert(name, found);
                    }
                    Err(error) => {
                        all_valid = false;
                        tracing::warn!(definition = name, %error, "cannot be read; the last result is kept");
                    }
                }
            }
            self.until = Some(now + if all_valid { VALID_FOR } else { INVALID_FOR });
        }
        self.problems.values().flatten().cloned().collect()
    }

    /// How long until the next check.
    pub(crate) fn next_check(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

async fn check(api: &Api, wanted: &CustomResourceDefinition) -> Result<Vec<String>, CheckError> {
    let name = wanted.name_any();
    let live = api.crd(&name).await?.map(|live| json_of(&live));
    let json = serde_json::to_value(wanted)?;
    let mut found: Vec<String> = live.iter().filter_map(|live| webhook_conversion(&json, live)).collect();
    let problem = match live {
        None => Some("does not exist".to_owned()),
        Some(live) if !is_established(&live) => Some("is not established".to_owned()),
        Some(live) => missing_fields(&json, &live)
            .map(|missing| format!("is older than operator {}: {missing}", env!("CARGO_PKG_VERSION"))),
    };
    found.extend(problem.map(|problem| {
        format!("CustomResourceDefinition {name} {problem}: kubectl apply --server-side -f install.yaml")
    }));
    Ok(found)
}
