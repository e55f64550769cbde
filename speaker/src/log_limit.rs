//! Rate limits for log lines that others can cause: the network, the node's links, a failing API.

use std::error::Error;
use std::fmt::{self, Display};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The period of the limit.
const WINDOW: Duration = Duration::from_secs(60);

/// Allows a number of lines per minute. The first line after that has the number of suppressed ones.
#[derive(Debug)]
pub(crate) struct LogLimit {
    lines: u64,
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    wanted: u64,
}

impl LogLimit {
    /// A limit of this number of lines per minute.
    pub(crate) const fn per_minute(lines: u64) -> Self {
        Self { lines, window: Mutex::new(None) }
    }

    /// Whether to log now: if so, how many lines were suppressed before.
    pub(crate) fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *window {
            Some(window) if now.saturating_duration_since(window.since) < WINDOW => {
                window.wanted = window.wanted.saturating_add(1);
                (window.wanted <= self.lines).then_some(0)
            }
            other => {
                let before = other.replace(Window { since: now, wanted: 1 });
                Some(before.map_or(0, |before| before.wanted.saturating_sub(self.lines)))
            }
        }
    }
}

/// Logs with the named macro of `tracing`, limited to a number of lines per minute for this place. A `parent` span is
/// only created for lines that are logged.
macro_rules! limited {
    (@log $lines:literal, $level:ident, [$($parent:tt)*] $($what:tt)+) => {{
        static LIMIT: $crate::log_limit::LogLimit = $crate::log_limit::LogLimit::per_minute($lines);
        if let Some(suppressed) = LIMIT.allow() {
            let suppressed = (suppressed > 0).then_some(suppressed);
            tracing::$level!($($parent)* suppressed, $($what)+);
        }
    }};
    ($lines:literal, $level:ident, parent: $span:expr, $($what:tt)+) => {
        $crate::log_limit::limited!(@log $lines, $level, [parent: $span,] $($what)+)
    };
    ($lines:literal, $level:ident, $($what:tt)+) => {
        $crate::log_limit::limited!(@log $lines, $level, [] $($what)+)
    };
}
pub(crate) use limited;

/// The first few elements of a list that may be long, for a log line: `["a", "b"]`.
pub(crate) fn first_few<T: Display>(list: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 8;
    let mut list = list.into_iter();
    let shown: Vec<String> = list.by_ref().take(SHOWN).map(|element| format!("\"{element}\"")).collect();
    let shown = shown.join(", ");
    match list.count() {
        0 => format!("[{shown}]"),
        more => format!("[{shown}] and {more} more"),
    }
}

/// An error with all its sources, for a log line.
#[derive(Debug)]
pub(crate) struct Chain<E>(pub(crate) E);

impl<E: Error> Display for Chain<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirement_6_a_flood_of_lines_is_limited_per_minute_and_suppressed_lines_are_counted() {
        let (limit, start) = (LogLimit::per_minute(5), Instant::now());
        let (mut logged, mut suppressed) = (0, 0);
        for tenth in 0..10 * 180 {
            if let Some(before) = limit.allow_at(start + Duration::from_millis(tenth * 100)) {
                logged += 1;
                suppressed += before;
            }
        }
        assert_eq!((logged, suppressed), (15, 2 * 595));
        assert_eq!(limit.allow_at(start + Duration::from_secs(300)), Some(595));
        assert_eq!(limit.allow_at(start + Duration::from_secs(600)), Some(0), "nothing was left out");
    }

    #[test]
    fn an_error_is_logged_with_its_sources() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open it")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("no memory"));
        assert_eq!(Chain(error).to_string(), "cannot open it: no memory");
    }

    #[test]
    fn a_long_list_is_truncated() {
        assert_eq!(first_few([1, 2]), r#"["1", "2"]"#);
        let expected = r#"["0", "1", "2", "3", "4", "5", "6", "7"] and 992 more"#;
        assert_eq!(first_few(0..1_000), expected);
    }
}
