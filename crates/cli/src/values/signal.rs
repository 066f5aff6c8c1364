//! Signals by name or number.

use nix::sys::signal::Signal;

/// The highest signal number in Linux.
const LAST: u32 = 64;
/// The first real-time signal that programs may use.
const RTMIN: u32 = 34;

/// Reads `9`, `KILL`, `SIGKILL` or `RTMIN+3`.
pub(crate) fn parse(text: &str) -> Result<u32, String> {
    let unknown = || format!("{text:?} is not a signal");
    if let Ok(number) = text.parse::<u32>() {
        return Some(number)
            .filter(|number| (1..=LAST).contains(number))
            .ok_or_else(unknown);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: u32 = match offset.strip_prefix('+') {
            Some(offset) => offset.parse().map_err(|_| unknown())?,
            None if offset.is_empty() => 0,
            None => return Err(unknown()),
        };
        return RTMIN
            .checked_add(offset)
            .filter(|number| *number <= LAST)
            .ok_or_else(unknown);
    }
    let signal: Signal = format!("SIG{name}").parse().map_err(|_| unknown())?;
    u32::try_from(signal as libc::c_int).map_err(|_| unknown())
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
