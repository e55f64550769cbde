//! Old names, made legal for objects.

/// The longest name that the old converter leaves.
const LONGEST: usize = 63;

/// `name` as the name of an object: cut, in lower case, `_` as `-`, beginning with a letter. None if nothing legal is
/// left.
pub(crate) fn legal(name: &str) -> Option<String> {
    let cut: String = name.chars().take(LONGEST).collect();
    let lower = cut.to_lowercase().replace('_', "-");
    let start = lower.find(|c: char| c.is_ascii_lowercase())?;
    let name = lower[start..].trim_end_matches(['-', '.']);
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (!name.is_empty() && name.chars().all(fits)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::legal;

    #[test]
    fn names_are_made_legal_or_refused() {
        assert_eq!(legal("default").as_deref(), Some("default"));
        assert_eq!(legal("My_Pool").as_deref(), Some("my-pool"));
        assert_eq!(legal("1-lan").as_deref(), Some("lan"));
        assert_eq!(legal(&"a".repeat(80)).map(|name| name.len()), Some(63));
        assert_eq!(legal("lan_").as_deref(), Some("lan"));
        assert_eq!(legal("123"), None);
        assert_eq!(legal("my pool"), None);
        assert_eq!(legal(""), None);
    }
}
