//! Kernel settings: `NAME=VALUE`.

/// Reads a `--sysctl`.
pub(crate) fn parse(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if name.is_empty() || !name.chars().all(allowed) || name.contains("..") {
        return Err(format!("{name:?} is not the name of a kernel setting"));
    }
    Ok((name.replace('/', "."), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let setting = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(parse("kernel.shmmax=1"), setting("kernel.shmmax", "1"));
        assert_eq!(
            parse("net/core/somaxconn=5"),
            setting("net.core.somaxconn", "5")
        );
        for text in ["", "a", "=1", "../x=1", "a b=1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
