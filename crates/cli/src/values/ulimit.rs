//! Resource limits: `NAME=SOFT[:HARD]`.

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

use crate::spec::rlimit;

/// The kernel's "no limit".
const UNLIMITED: u64 = u64::MAX;

/// Reads a `--ulimit`.
pub(crate) fn parse(text: &str) -> Result<PosixRlimit, String> {
    let malformed = || format!("{text:?} is not NAME=SOFT[:HARD]");
    let (name, values) = text.split_once('=').ok_or_else(malformed)?;
    let typ: PosixRlimitType = format!("RLIMIT_{}", name.to_ascii_uppercase())
        .parse()
        .map_err(|_| format!("{name:?} is not the name of a resource limit"))?;
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(UNLIMITED),
        number => number.parse::<u64>().map_err(|_| malformed()),
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (value(soft)?, value(hard)?),
        None => (value(values)?, value(values)?),
    };
    if soft > hard {
        return Err(format!("the soft limit of {text:?} is above the hard one"));
    }
    Ok(rlimit(typ, soft, hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_understood() {
        let limit = parse("nofile=100:200").unwrap();
        assert_eq!(limit.typ(), PosixRlimitType::RlimitNofile);
        assert_eq!((limit.soft(), limit.hard()), (100, 200));
        let limit = parse("core=-1").unwrap();
        assert_eq!((limit.soft(), limit.hard()), (UNLIMITED, UNLIMITED));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "nofile", "nofile=", "nofile=a", "nofile=2:1", "bogus=1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
