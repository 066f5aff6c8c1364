//! Amounts of memory.

use std::fmt;
use std::str::FromStr;

use crate::error::ValueError;

/// The units, largest first. The short form means the same.
const UNITS: [(&str, &str, u64); 3] = [
    ("GiB", "G", 1 << 30),
    ("MiB", "M", 1 << 20),
    ("KiB", "K", 1 << 10),
];

/// An amount of memory, below 4 PiB. Shown in the largest unit that is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size {
    bytes: u64,
}

impl Size {
    /// So many bytes; nothing from 4 PiB on, which is more than a number of MiB in 32 bits says.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes > (u32::MAX as u64) << 20 {
            return None;
        }
        Some(Self { bytes })
    }

    /// So many MiB.
    #[must_use]
    pub const fn from_mib(mib: u32) -> Self {
        Self {
            bytes: (mib as u64) << 20,
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// In MiB, rounded up.
    #[must_use]
    pub fn mib(self) -> u32 {
        u32::try_from(self.bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX)
    }
}

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = if unit.is_empty() {
            1
        } else {
            let named = |(long, short, _): &&(&str, &str, u64)| unit == *long || unit == *short;
            UNITS.iter().find(named).ok_or(ValueError::NotASize)?.2
        };
        if number.is_empty() {
            return Err(ValueError::NotASize);
        }
        // All digits, so the only thing that can be wrong is too many of them.
        let number: u64 = number.parse().map_err(|_| ValueError::SizeTooLarge)?;
        number
            .checked_mul(factor)
            .and_then(Self::from_bytes)
            .ok_or(ValueError::SizeTooLarge)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, _, factor): &&(&str, &str, u64)| self.bytes.is_multiple_of(*factor);
        match UNITS.iter().find(exact) {
            Some((unit, _, factor)) if self.bytes > 0 => {
                write!(formatter, "{}{unit}", self.bytes / factor)
            }
            _ => write!(formatter, "{}", self.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_the_largest_exact_unit() {
        for (written, bytes, shown) in [
            ("64M", 64 << 20, "64MiB"),
            ("64MiB", 64 << 20, "64MiB"),
            ("2G", 2 << 30, "2GiB"),
            ("2048MiB", 2 << 30, "2GiB"),
            ("1536MiB", 1536 << 20, "1536MiB"),
            ("100K", 100 << 10, "100KiB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("1073741824", 1 << 30, "1GiB"),
            ("1000", 1000, "1000"),
            ("0", 0, "0"),
        ] {
            let size: Size = written.parse().unwrap();
            assert_eq!(
                (size.bytes(), &*size.to_string()),
                (bytes, shown),
                "{written}"
            );
            assert_eq!(shown.parse(), Ok(size), "{written}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for written in [
            "", "M", "64m", "64MB", "64Mi", "64 MiB", " 64MiB", "1.5GiB", "-1", "+1", "1T", "lots",
        ] {
            assert_eq!(
                written.parse::<Size>(),
                Err(ValueError::NotASize),
                "{written:?}"
            );
        }
        for written in ["4194304G", "18446744073709551615K", "99999999999999999999"] {
            assert_eq!(
                written.parse::<Size>(),
                Err(ValueError::SizeTooLarge),
                "{written:?}"
            );
        }
    }

    #[test]
    fn a_part_of_a_mib_counts_as_a_whole() {
        assert_eq!(Size::from_mib(64).mib(), 64);
        assert_eq!("65537K".parse::<Size>().unwrap().mib(), 65);
        assert_eq!(Size::from_mib(u32::MAX).mib(), u32::MAX);
        assert_eq!(Size::from_bytes(Size::from_mib(u32::MAX).bytes() + 1), None);
    }
}
