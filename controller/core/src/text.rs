//! User input in messages.

use std::fmt;

/// User input, quoted and truncated, so that the rest of the message fits: an event holds 1024 bytes, an
/// annotation 256 KiB.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 128;
        if self.0.len() <= LONGEST {
            return write!(f, "{:?}", self.0);
        }
        write!(f, "{:?}…", &self.0[..self.0.floor_char_boundary(LONGEST)])
    }
}

/// A requested pool name, truncated, since it need not be a valid object name.
pub(crate) struct Truncated<'a>(pub(crate) &'a str);

impl fmt::Display for Truncated<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The longest object name.
        const LONGEST: usize = 253;
        if self.0.len() <= LONGEST {
            return f.write_str(self.0);
        }
        write!(f, "{}…", &self.0[..self.0.floor_char_boundary(LONGEST)])
    }
}
