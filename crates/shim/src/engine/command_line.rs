//! The command line that containerd gives a shim.

use std::path::PathBuf;

/// What containerd asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a pod process, or find the one that the container belongs to.
    Start,
    /// Take away what a container left whose pod process is gone.
    Delete,
    /// Describe this runtime.
    Info,
    /// Say which version this is.
    Version,
}

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub action: Action,
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's socket.
    pub address: String,
    /// The container's id.
    pub id: String,
    /// The container's bundle; the working directory when it is not given.
    pub bundle: Option<PathBuf>,
    /// Log more.
    pub debug: bool,
}

/// A command line that no containerd gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// A flag that shims do not have.
    #[error("unknown flag -{0}")]
    Flag(String),
    /// A flag without its value.
    #[error("flag -{0} needs a value")]
    Value(String),
    /// Neither `start` nor `delete`.
    #[error(
        "{0:?} is not something that containerd asks of a shim: it asks for \"start\" or \"delete\""
    )]
    Action(String),
    /// Nothing to do.
    #[error("this program is run by containerd; a person wants `hull`")]
    Nothing,
    /// What `start` and `delete` need.
    #[error("flag -{0} is missing")]
    Missing(&'static str),
}

impl Invocation {
    /// Parses the arguments after the program's name, flags as Go's `flag` package takes them: one dash
    /// or two, the value after `=` or as the next argument.
    ///
    /// # Errors
    /// When an argument is not known, or one is missing.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, UsageError> {
        let mut invocation = Self {
            action: Action::Start,
            namespace: String::new(),
            address: String::new(),
            id: String::new(),
            bundle: None,
            debug: false,
        };
        let mut action = None;
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Some(flag) = argument.strip_prefix('-') else {
                action = Some(match argument.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(UsageError::Action(argument)),
                });
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, given) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let mut value = || {
                let value = given.clone().or_else(|| arguments.next());
                value.ok_or_else(|| UsageError::Value(name.to_owned()))
            };
            match name {
                "namespace" => invocation.namespace = value()?,
                "address" => invocation.address = value()?,
                "id" => invocation.id = value()?,
                "bundle" => invocation.bundle = Some(value()?.into()),
                // Events go over ttrpc, and the socket is ours to choose.
                "publish-binary" | "socket" => drop(value()?),
                "debug" => invocation.debug = given.as_deref() != Some("false"),
                "info" => action = Some(Action::Info),
                "v" | "version" => action = Some(Action::Version),
                _ => return Err(UsageError::Flag(name.to_owned())),
            }
        }
        invocation.action = action.ok_or(UsageError::Nothing)?;
        if matches!(invocation.action, Action::Start | Action::Delete) {
            let needed = [("namespace", &invocation.namespace), ("id", &invocation.id)];
            if let Some((name, _)) = needed.into_iter().find(|(_, value)| value.is_empty()) {
                return Err(UsageError::Missing(name));
            }
        }
        Ok(invocation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, UsageError> {
        Invocation::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn containerds_calls_are_understood() {
        let start = parse(
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id abc -debug start",
        )
        .unwrap();
        assert_eq!(start.action, Action::Start);
        assert_eq!(
            (start.namespace.as_str(), start.address.as_str()),
            ("k8s.io", "/run/c.sock")
        );
        assert_eq!((start.id.as_str(), start.debug), ("abc", true));
        let delete = parse("--namespace=x --id=a --bundle=/b delete").unwrap();
        assert_eq!(delete.action, Action::Delete);
        assert_eq!(delete.bundle, Some("/b".into()));
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn what_no_containerd_asks_is_refused() {
        assert_eq!(parse(""), Err(UsageError::Nothing));
        assert_eq!(parse("-x start"), Err(UsageError::Flag("x".to_owned())));
        assert_eq!(parse("-id"), Err(UsageError::Value("id".to_owned())));
        assert_eq!(parse("run"), Err(UsageError::Action("run".to_owned())));
        assert_eq!(parse("-id a start"), Err(UsageError::Missing("namespace")));
    }
}
