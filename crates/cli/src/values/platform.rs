//! Operating system and architecture: `OS/ARCH[/VARIANT]`.

use hull_image::Platform;

/// Reads a platform.
pub(crate) fn parse(text: &str) -> Result<Platform, String> {
    let malformed = || format!("{text:?} is not OS/ARCH[/VARIANT]");
    let valid = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric());
    let parts: Vec<_> = text.split('/').collect();
    if !parts.iter().all(valid) {
        return Err(malformed());
    }
    let (os, architecture, variant) = match parts[..] {
        [os, architecture] => (os, architecture, None),
        [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
        _ => return Err(malformed()),
    };
    Ok(Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_checked() {
        assert_eq!(parse("linux/amd64").unwrap().to_string(), "linux/amd64");
        assert_eq!(parse("linux/arm/v7").unwrap().to_string(), "linux/arm/v7");
        for text in ["", "linux", "linux/", "a/b/c/d", "linux/a b"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
