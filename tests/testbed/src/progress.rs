//! Progress messages during long steps.

use std::fmt;
use std::sync::Arc;

/// The receiver of progress messages; none by default.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(&str) + Send + Sync>>);

impl Progress {
    /// Calls `print` with each line, from any thread.
    pub fn to(print: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(print)))
    }

    pub(crate) fn say(&self, line: impl AsRef<str>) {
        if let Some(print) = &self.0 {
            print(line.as_ref());
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Progress(enabled)" } else { "Progress(disabled)" })
    }
}
