//! Spans and values of log lines.

use std::fmt;

use crds::ServiceKey;
use tracing::Span;

/// The span of one Service: every line about it has the field `service=NAMESPACE/NAME`, whatever the level of
/// the log.
pub(crate) fn service_span(service: &ServiceKey) -> Span {
    tracing::error_span!("service", %service)
}

/// A list as the value of a field: `["10.0.0.1", "fc00::1"]`.
pub(crate) struct List<'a, T>(pub(crate) &'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, value) in self.0.iter().enumerate() {
            write!(f, "{}\"{value}\"", if index == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_its_values_in_quotes() {
        assert_eq!(List(&["10.0.0.1", "fc00::1"]).to_string(), r#"["10.0.0.1", "fc00::1"]"#);
        assert_eq!(List::<u8>(&[]).to_string(), "[]");
    }
}
