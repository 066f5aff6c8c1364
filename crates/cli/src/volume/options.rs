//! `-v`, `--mount` and `--tmpfs`.

use std::path::{Component, Path, PathBuf};

use crate::values::{name, size};

/// One mount that a person asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountOption {
    /// A file or directory of the host.
    Bind {
        source: PathBuf,
        target: String,
        read_only: bool,
        /// As in the OCI runtime specification: `rprivate`, `rslave`, …
        propagation: String,
        /// A source that does not exist is made, as a directory.
        create_source: bool,
    },
    /// A directory that Hull keeps.
    Volume {
        /// None: made for this container and removed with it.
        name: Option<String>,
        target: String,
        read_only: bool,
        /// A new volume gets what the image has in its place.
        copy: bool,
    },
    /// Memory of the guest.
    Tmpfs {
        target: String,
        /// As in mount(8).
        options: Vec<String>,
    },
}

impl MountOption {
    /// Where the container sees it.
    pub(crate) fn target(&self) -> &str {
        match self {
            Self::Bind { target, .. }
            | Self::Volume { target, .. }
            | Self::Tmpfs { target, .. } => target,
        }
    }
}

/// Mount flags that keep a tmpfs from being more than memory with names.
const TMPFS_FLAGS: [&str; 3] = ["noexec", "nosuid", "nodev"];

/// Checks a path in the container.
fn target(text: &str) -> Result<String, String> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(format!(
            "the path {text:?} in the container is not absolute"
        ));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!(
            "the path {text:?} in the container has a \"..\" in it"
        ));
    }
    let normal: PathBuf = path.components().collect();
    match normal.to_str() {
        Some("/") | None => Err("a mount cannot take the place of the container's root".to_owned()),
        Some(normal) => Ok(normal.to_owned()),
    }
}

fn propagation(text: &str) -> Result<String, String> {
    match text {
        "private" | "rprivate" | "slave" | "rslave" => Ok(text.to_owned()),
        "shared" | "rshared" => Err(format!(
            "{text} is not supported: what a guest mounts cannot appear on the host"
        )),
        other => Err(format!("{other:?} is not a mount propagation")),
    }
}

/// Reads `-v [SOURCE:]TARGET[:OPTIONS]`.
pub(crate) fn parse_volume(text: &str) -> Result<MountOption, String> {
    let parts: Vec<_> = text.split(':').collect();
    let (source, target_text, options) = match parts[..] {
        [only] => (None, only, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(format!("{text:?} is not [SOURCE:]TARGET[:OPTIONS]")),
    };
    let target = target(target_text)?;
    let mut read_only = false;
    let mut copy = true;
    let mut spread = "rprivate".to_owned();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "nocopy" => copy = false,
            // Labels of a security module that the guest has not.
            "z" | "Z" => {}
            other => spread = propagation(other)?,
        }
    }
    Ok(match source {
        None => MountOption::Volume {
            name: None,
            target,
            read_only,
            copy,
        },
        Some(source) if source.starts_with(['/', '.', '~']) => MountOption::Bind {
            source: source.into(),
            target,
            read_only,
            propagation: spread,
            create_source: true,
        },
        Some(volume) => MountOption::Volume {
            name: Some(name::parse(volume).map_err(|reason| {
                format!("{reason} (a directory of the host starts with '/' or './')")
            })?),
            target,
            read_only,
            copy,
        },
    })
}

#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a str>,
    source: Option<&'a str>,
    target: Option<&'a str>,
    read_only: bool,
    propagation: Option<&'a str>,
    no_copy: bool,
    tmpfs: Vec<String>,
}

/// Reads `--mount type=bind|volume|tmpfs,source=…,target=…,readonly,…`.
pub(crate) fn parse_mount(text: &str) -> Result<MountOption, String> {
    let mut fields = Fields::default();
    for field in text.split(',') {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        read_field(&mut fields, key, value).map_err(|reason| format!("{reason} in {text:?}"))?;
    }
    let target = target(
        fields
            .target
            .ok_or_else(|| format!("no target in {text:?}"))?,
    )?;
    match fields.kind.unwrap_or("volume") {
        "bind" => Ok(MountOption::Bind {
            source: fields
                .source
                .ok_or_else(|| format!("no source in {text:?}"))?
                .into(),
            target,
            read_only: fields.read_only,
            propagation: propagation(fields.propagation.unwrap_or("rprivate"))?,
            create_source: false,
        }),
        "volume" => Ok(MountOption::Volume {
            name: fields.source.map(name::parse).transpose()?,
            target,
            read_only: fields.read_only,
            copy: !fields.no_copy,
        }),
        "tmpfs" if fields.source.is_some() => Err(format!("a tmpfs has no source: {text:?}")),
        "tmpfs" => {
            let mut options = fields.tmpfs;
            options.extend(TMPFS_FLAGS.map(str::to_owned));
            if fields.read_only {
                options.push("ro".to_owned());
            }
            Ok(MountOption::Tmpfs { target, options })
        }
        other => Err(format!("{other:?} is none of bind, volume, tmpfs")),
    }
}

fn read_field<'a>(
    fields: &mut Fields<'a>,
    key: &str,
    value: Option<&'a str>,
) -> Result<(), String> {
    let flag = || match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => Err(format!("{key:?} is neither true nor false")),
    };
    let text = || {
        value
            .filter(|value| !value.is_empty())
            .ok_or_else(|| format!("{key:?} has no value"))
    };
    match key {
        "type" => fields.kind = Some(text()?),
        "source" | "src" => fields.source = Some(text()?),
        "target" | "destination" | "dst" => fields.target = Some(text()?),
        "readonly" | "ro" => fields.read_only = flag()?,
        "bind-propagation" => fields.propagation = Some(text()?),
        "volume-nocopy" => fields.no_copy = flag()?,
        "tmpfs-size" => fields.tmpfs.push(format!("size={}", size::parse(text()?)?)),
        "tmpfs-mode" => {
            let mode = u32::from_str_radix(text()?, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| format!("{key:?} is not an octal mode"))?;
            fields.tmpfs.push(format!("mode={mode:o}"));
        }
        other => return Err(format!("unknown field {other:?}")),
    }
    Ok(())
}

/// Reads `--tmpfs TARGET[:OPTIONS]`.
pub(crate) fn parse_tmpfs(text: &str) -> Result<MountOption, String> {
    let (at, asked) = text.split_once(':').unwrap_or((text, ""));
    let mut options: Vec<_> = TMPFS_FLAGS.map(str::to_owned).into();
    for option in asked.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "rw" | "ro" | "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" => {
                let positive = key.strip_prefix("no").unwrap_or(key);
                options.retain(|held| held.strip_prefix("no").unwrap_or(held) != positive);
                options.push(key.to_owned());
            }
            "size" if value.ends_with('%') => options.push(option.to_owned()),
            "size" => options.push(format!("size={}", size::parse(value)?)),
            "mode" | "uid" | "gid" | "nr_inodes" if !value.is_empty() => {
                options.push(option.to_owned());
            }
            _ => return Err(format!("{option:?} is not an option of a tmpfs")),
        }
    }
    Ok(MountOption::Tmpfs {
        target: target(at)?,
        options,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_understood() {
        let bind = parse_volume("/srv/data:/data/:ro,rslave,z").unwrap();
        assert_eq!(
            bind,
            MountOption::Bind {
                source: "/srv/data".into(),
                target: "/data".to_owned(),
                read_only: true,
                propagation: "rslave".to_owned(),
                create_source: true,
            }
        );
        let named = parse_volume("cache:/var/cache").unwrap();
        assert!(
            matches!(named, MountOption::Volume { name: Some(n), copy: true, .. } if n == "cache")
        );
        let anonymous = parse_volume("/data").unwrap();
        assert!(matches!(anonymous, MountOption::Volume { name: None, .. }));
    }

    #[test]
    fn long_forms_are_understood() {
        let bind = parse_mount("type=bind,src=/a,dst=/b,readonly").unwrap();
        assert!(matches!(
            bind,
            MountOption::Bind {
                read_only: true,
                create_source: false,
                ..
            }
        ));
        let tmpfs = parse_mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777").unwrap();
        let MountOption::Tmpfs { options, .. } = tmpfs else {
            panic!("{tmpfs:?}");
        };
        assert_eq!(
            options,
            ["size=1048576", "mode=1777", "noexec", "nosuid", "nodev"]
        );
    }

    #[test]
    fn tmpfs_flags_replace_the_defaults() {
        let tmpfs = parse_tmpfs("/t:exec,size=64k").unwrap();
        let MountOption::Tmpfs { options, .. } = tmpfs else {
            panic!("{tmpfs:?}");
        };
        assert_eq!(options, ["nosuid", "nodev", "exec", "size=65536"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "rel",
            "/a:rel",
            "/a:/",
            "/a:/b:rx",
            "a b:/c",
            "/a:/b:ro:x",
            "/a:/b/../c",
            "/a:/b:shared",
        ] {
            assert!(parse_volume(text).is_err(), "{text}");
        }
        for text in [
            "",
            "type=bind,target=/a",
            "type=bind,source=/a",
            "type=nfs,target=/a",
            "type=tmpfs,source=/x,target=/a",
            "target=/a,readonly=maybe",
            "target=/a,foo=1",
        ] {
            assert!(parse_mount(text).is_err(), "{text}");
        }
        for text in ["", "x", "/t:foo", "/t:size=x"] {
            assert!(parse_tmpfs(text).is_err(), "{text}");
        }
    }
}
