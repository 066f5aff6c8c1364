//! Sizes in bytes, as Docker writes them: `64m`, `1g`, `1.5GiB`. All units are powers of 1024.

/// Reads a size.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let malformed = || format!("{text:?} is not a size such as 512m or 2g");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" | "ki" => 10,
        "m" | "mb" | "mib" | "mi" => 20,
        "g" | "gb" | "gib" | "gi" => 30,
        "t" | "tb" | "tib" | "ti" => 40,
        _ => return Err(malformed()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| malformed())?;
    let bytes = whole
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text:?} is too large"))?;
    if fraction.is_empty() && number.ends_with('.') || fraction.len() > 9 {
        return Err(malformed());
    }
    let mut numerator = 0u128;
    let mut denominator = 1u128;
    for digit in fraction.chars() {
        let digit = digit.to_digit(10).ok_or_else(malformed)?;
        numerator = numerator * 10 + u128::from(digit);
        denominator *= 10;
    }
    // Less than one unit, so at most 2^40.
    let part = u64::try_from((numerator << shift) / denominator).map_err(|_| malformed())?;
    bytes
        .checked_add(part)
        .ok_or_else(|| format!("{text:?} is too large"))
}

/// The least that a container may be limited to: below it not even its init starts.
pub(crate) const MIN_MEMORY: u64 = 6 << 20;

/// Reads a memory limit.
pub(crate) fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = parse(text)?;
    if bytes < MIN_MEMORY {
        return Err(format!("{text:?} is less than the minimum of 6m"));
    }
    Ok(bytes)
}

/// Bytes for people: at most four significant digits and a binary unit.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes}B")
    } else {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_sizes_are_understood() {
        for (text, bytes) in [
            ("0", 0),
            ("42", 42),
            ("42b", 42),
            ("4k", 4096),
            ("64M", 64 << 20),
            ("2g", 2 << 30),
            ("1.5GiB", 3 << 29),
            ("1.5 GiB", 3 << 29),
            ("1t", 1 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "m",
            "-1",
            "1x",
            "1.2.3g",
            "1.g",
            "99999999999999999999",
            "16777216t",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse_memory("0").is_err());
        assert!(parse_memory("5m").is_err());
    }

    #[test]
    fn sizes_are_shown_briefly() {
        assert_eq!(human(0), "0B");
        assert_eq!(human(1023), "1023B");
        assert_eq!(human(1536), "1.5KiB");
        assert_eq!(human(512 << 20), "512.0MiB");
    }
}
