//! Conversion of names of the old formats to valid object names.

/// The length to which MetalLB's own converter truncates names.
const MAX_LENGTH: usize = 63;

/// `name` as a valid object name: truncated, in lower case, `_` replaced by `-`, starting with a letter. None
/// if that is not possible.
pub(crate) fn sanitize_name(name: &str) -> Option<String> {
    let cut: String = name.chars().take(MAX_LENGTH).collect();
    let lower = cut.to_lowercase().replace('_', "-");
    let start = lower.find(|c: char| c.is_ascii_lowercase())?;
    let name = lower[start..].trim_end_matches(['-', '.']);
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (!name.is_empty() && name.chars().all(fits)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::sanitize_name;

    #[test]
    fn names_are_converted_to_valid_ones_or_rejected() {
        assert_eq!(sanitize_name("default").as_deref(), Some("default"));
        assert_eq!(sanitize_name("My_Pool").as_deref(), Some("my-pool"));
        assert_eq!(sanitize_name("1-lan").as_deref(), Some("lan"));
        assert_eq!(sanitize_name(&"a".repeat(80)).map(|name| name.len()), Some(63));
        assert_eq!(sanitize_name("lan_").as_deref(), Some("lan"));
        assert_eq!(sanitize_name("123"), None);
        assert_eq!(sanitize_name("my pool"), None);
        assert_eq!(sanitize_name(""), None);
    }
}
