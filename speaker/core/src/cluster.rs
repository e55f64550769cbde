//! What is known of the cluster, whatever protocol addresses are announced by: identifiers, summaries of API objects,
//! the links of nodes, and which nodes may announce.

mod eligibility;
mod ids;
pub mod link;
pub mod objects;

pub(crate) use eligibility::{Eligible, all_excluded, eligible, serving, speakers, unready};
pub use eligibility::{ExcludeLabel, Speaker};
pub use ids::{GroupId, NodeId, NodeName, ServiceKey};
