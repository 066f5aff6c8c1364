//! Names of containers, volumes and hosts.

/// Checks the name of a container or volume.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let mut characters = text.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = characters.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !first || !rest || text.len() > 200 {
        return Err(format!(
            "{text:?} is not a name: letters, digits, '_', '.' and '-', a letter or digit first"
        ));
    }
    Ok(text.to_owned())
}

/// Checks a host name.
pub(crate) fn parse_host(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if text.len() > 64 || !text.split('.').all(label) {
        return Err(format!("{text:?} is not a host name"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(parse("web-1.a_b").is_ok());
        for name in ["", "-a", ".", "..", "a/b", "a b", "ü"] {
            assert!(parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn host_names_are_checked() {
        assert!(parse_host("db.example-1.org").is_ok());
        for name in ["", "a..b", "-a", "a b", &"a".repeat(65)] {
            assert!(parse_host(name).is_err(), "{name}");
        }
    }
}
