//! `--security-opt`.

use std::path::PathBuf;

/// One security option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecurityOption {
    /// `seccomp=unconfined`, `seccomp=builtin` or `seccomp=FILE`.
    Seccomp(SeccompChoice),
    /// `no-new-privileges`.
    NoNewPrivileges(bool),
}

/// Which system calls a container may make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum SeccompChoice {
    /// The built-in list.
    #[default]
    Builtin,
    /// All that the guest's kernel has.
    Unconfined,
    /// A profile in the format of the OCI runtime specification's `linux.seccomp`.
    File(PathBuf),
}

/// Reads a `--security-opt`.
pub(crate) fn parse(text: &str) -> Result<SecurityOption, String> {
    let (name, value) = match text.split_once(['=', ':']) {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    match (name, value) {
        ("seccomp", Some("unconfined")) => Ok(SecurityOption::Seccomp(SeccompChoice::Unconfined)),
        ("seccomp", Some("builtin")) => Ok(SecurityOption::Seccomp(SeccompChoice::Builtin)),
        ("seccomp", Some(file)) if !file.is_empty() => {
            Ok(SecurityOption::Seccomp(SeccompChoice::File(file.into())))
        }
        ("no-new-privileges", None | Some("true")) => Ok(SecurityOption::NoNewPrivileges(true)),
        ("no-new-privileges", Some("false")) => Ok(SecurityOption::NoNewPrivileges(false)),
        ("apparmor" | "label" | "systempaths" | "credentialspec", _) => Err(format!(
            "{name} is not supported: the guest's kernel has no such thing"
        )),
        _ => Err(format!(
            "{text:?} is none of seccomp=unconfined, seccomp=FILE, no-new-privileges"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_options_are_understood() {
        assert_eq!(
            parse("seccomp=unconfined"),
            Ok(SecurityOption::Seccomp(SeccompChoice::Unconfined))
        );
        assert_eq!(
            parse("seccomp=a=b.json"),
            Ok(SecurityOption::Seccomp(SeccompChoice::File(
                "a=b.json".into()
            )))
        );
        assert_eq!(
            parse("no-new-privileges"),
            Ok(SecurityOption::NoNewPrivileges(true))
        );
        assert_eq!(
            parse("no-new-privileges:false"),
            Ok(SecurityOption::NoNewPrivileges(false))
        );
    }

    #[test]
    fn others_are_refused() {
        for text in [
            "",
            "seccomp",
            "seccomp=",
            "apparmor=x",
            "label=disable",
            "foo=bar",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
