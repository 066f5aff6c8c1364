//! Signals by name or number.

use hull_shim::client::signals;

/// Reads `9`, `KILL`, `SIGKILL` or `RTMIN+3`.
pub(crate) fn parse(text: &str) -> Result<u32, String> {
    signals::parse(text).ok_or_else(|| format!("{text:?} is not a signal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("hup", 1),
            ("RTMIN+3", 37),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "0", "65", "SIG", "NOPE", "RTMIN+99", "-9"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
