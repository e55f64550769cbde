//! Telling the user what happens during long steps.

use std::fmt;
use std::sync::Arc;

/// Where progress lines go; by default nowhere.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(&str) + Send + Sync>>);

impl Progress {
    /// Calls `tell` with each line, from whichever thread has something to say.
    pub fn to(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(crate) fn say(&self, line: impl AsRef<str>) {
        if let Some(tell) = &self.0 {
            tell(line.as_ref());
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Progress(told)" } else { "Progress(silent)" })
    }
}
