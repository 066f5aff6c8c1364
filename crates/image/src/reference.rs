//! What people call an image: a name in a registry, or a place on this host.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// Registry of names that do not say one.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Tag of names that say neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Longest registry and repository together, bytes.
const MAX_NAME_BYTES: usize = 255;
/// Longest tag, bytes.
const MAX_TAG_BYTES: usize = 128;

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// `[docker://]NAME[:TAG][@DIGEST]`: in a registry.
    Registry(Name),
    /// `oci:DIR[:TAG]`: a directory in the OCI image layout.
    OciLayout {
        /// The directory.
        dir: PathBuf,
        /// Which of its images; not needed when it holds one.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: the same as a tar file.
    OciArchive {
        /// The file.
        file: PathBuf,
        /// Which of its images; not needed when it holds one.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:NAME]`: what `docker save` writes.
    DockerArchive {
        /// The file.
        file: PathBuf,
        /// Which of its images; not needed when it holds one.
        name: Option<Name>,
    },
    /// `rootfs:DIR`: a directory that is the container's root, used where it is and never written.
    Rootfs {
        /// The directory.
        dir: PathBuf,
    },
}

/// A name in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no [`Reference`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("the image reference is empty")]
    Empty,
    /// The registry's host or port.
    #[error("bad registry {registry:?} in image reference {reference:?}")]
    Registry {
        /// What was given.
        reference: String,
        /// The part that is wrong.
        registry: String,
    },
    /// The repository.
    #[error(
        "bad repository {repository:?} in image reference {reference:?}: use lower-case letters, \
         digits, single '.', '_' or '-' between them, and '/'"
    )]
    Repository {
        /// What was given.
        reference: String,
        /// The part that is wrong.
        repository: String,
    },
    /// The tag.
    #[error(
        "bad tag {tag:?} in image reference {reference:?}: use up to 128 letters, digits, '_', '.' \
         and '-', not starting with '.' or '-'"
    )]
    Tag {
        /// What was given.
        reference: String,
        /// The part that is wrong.
        tag: String,
    },
    /// The digest.
    #[error("bad digest in image reference {reference:?}")]
    Digest {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// A transport without a path.
    #[error("image reference {0:?} names no file or directory")]
    NoPath(String),
    /// The name is too long.
    #[error("the name in image reference {0:?} is longer than {MAX_NAME_BYTES} bytes")]
    TooLong(String),
}

impl Reference {
    /// The same reference with an absolute path, so that it means the same in every directory.
    ///
    /// # Errors
    /// When the current directory cannot be told.
    pub fn absolute(self) -> std::io::Result<Self> {
        let absolute = |path: PathBuf| std::path::absolute(path);
        Ok(match self {
            Self::Registry(name) => Self::Registry(name),
            Self::OciLayout { dir, tag } => Self::OciLayout {
                dir: absolute(dir)?,
                tag,
            },
            Self::OciArchive { file, tag } => Self::OciArchive {
                file: absolute(file)?,
                tag,
            },
            Self::DockerArchive { file, name } => Self::DockerArchive {
                file: absolute(file)?,
                name,
            },
            Self::Rootfs { dir } => Self::Rootfs {
                dir: absolute(dir)?,
            },
        })
    }

    /// The name, if it is one in a registry.
    #[must_use]
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Registry(name) => Some(name),
            Self::OciLayout { .. }
            | Self::OciArchive { .. }
            | Self::DockerArchive { .. }
            | Self::Rootfs { .. } => None,
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path_and_rest = |rest: &str| {
            let (path, tail) = match rest.split_once(':') {
                Some((path, tail)) => (path, Some(tail.to_owned())),
                None => (rest, None),
            };
            if path.is_empty() {
                return Err(ReferenceError::NoPath(text.to_owned()));
            }
            Ok((PathBuf::from(path), tail))
        };
        if let Some(rest) = text.strip_prefix("docker://") {
            return parse_name(text, rest).map(Self::Registry);
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, tag) = path_and_rest(rest)?;
            return Ok(Self::OciLayout { dir, tag });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, tag) = path_and_rest(rest)?;
            return Ok(Self::OciArchive { file, tag });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (file, name) = path_and_rest(rest)?;
            let name = name.map(|name| parse_name(text, &name)).transpose()?;
            return Ok(Self::DockerArchive { file, name });
        }
        if let Some(rest) = text.strip_prefix("rootfs:") {
            // The path is all of it: a root directory's name may well hold a colon.
            if rest.is_empty() {
                return Err(ReferenceError::NoPath(text.to_owned()));
            }
            return Ok(Self::Rootfs { dir: rest.into() });
        }
        parse_name(text, text).map(Self::Registry)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut write = |transport: &str, path: &Path, tail: Option<&dyn fmt::Display>| {
            write!(f, "{transport}:{}", path.display())?;
            tail.map_or(Ok(()), |tail| write!(f, ":{tail}"))
        };
        match self {
            Self::Registry(name) => fmt::Display::fmt(name, f),
            Self::OciLayout { dir, tag } => write("oci", dir, tag.as_ref().map(|t| t as _)),
            Self::OciArchive { file, tag } => {
                write("oci-archive", file, tag.as_ref().map(|t| t as _))
            }
            Self::DockerArchive { file, name } => {
                write("docker-archive", file, name.as_ref().map(|n| n as _))
            }
            Self::Rootfs { dir } => write("rootfs", dir, None),
        }
    }
}

impl Name {
    /// Host and port, `docker.io` for Docker Hub.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path of the repository, such as `library/debian`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, `latest` when neither tag nor digest was said.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if it was said.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The name as people type it: without what is the default.
    #[must_use]
    pub fn short(&self) -> String {
        let full = self.to_string();
        let Some(rest) = full.strip_prefix("docker.io/") else {
            return full;
        };
        let rest = match rest.strip_prefix("library/") {
            // Otherwise the next component would be taken for a namespace or registry.
            Some(official) if !self.repository["library/".len()..].contains('/') => official,
            _ => rest,
        };
        match rest.split_once('/') {
            Some((first, _)) if is_registry_like(first) => full,
            _ => rest.to_owned(),
        }
    }
}

impl FromStr for Name {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_name(text, text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Reads `name`, a part of `reference`.
fn parse_name(reference: &str, name: &str) -> Result<Name, ReferenceError> {
    if name.is_empty() {
        return Err(ReferenceError::Empty);
    }
    let reference = || reference.to_owned();
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest.parse().map_err(|source| ReferenceError::Digest {
                reference: reference(),
                source,
            })?;
            (rest, Some(digest))
        }
        None => (name, None),
    };
    // A colon after the last slash starts a tag, any other one a port.
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match rest[last..].find(':') {
        Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(ReferenceError::Tag {
            reference: reference(),
            tag: tag.to_owned(),
        });
    }
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if is_registry_like(first) => (first, rest.to_owned()),
        _ => (DEFAULT_REGISTRY, path.to_owned()),
    };
    let registry = match registry {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
        other => other,
    };
    if !is_registry(registry) {
        return Err(ReferenceError::Registry {
            reference: reference(),
            registry: registry.to_owned(),
        });
    }
    let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository
    };
    if !repository.split('/').all(is_repository_component) {
        return Err(ReferenceError::Repository {
            reference: reference(),
            repository: path.to_owned(),
        });
    }
    if registry.len() + 1 + repository.len() > MAX_NAME_BYTES {
        return Err(ReferenceError::TooLong(reference()));
    }
    let tag = match (tag, digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Name {
        registry: registry.to_owned(),
        repository,
        tag,
        digest,
    })
}

/// Whether the first component of a name is meant as a registry.
fn is_registry_like(component: &str) -> bool {
    component == "localhost"
        || component.contains(['.', ':'])
        || component.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = if let Some(rest) = registry.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match rest.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if rest.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        }
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.is_none_or(|host| host.split('.').all(is_label))
        && port.is_none_or(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
        })
}

/// Letters and digits, between them `.`, `_`, `__` or any number of `-`.
fn is_repository_component(component: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_well = |byte: Option<&u8>| byte.is_some_and(|byte| is_alphanumeric(*byte));
    ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes
            .split(|byte| is_alphanumeric(*byte))
            .all(|separator| match separator {
                b"" | b"." | b"_" | b"__" => true,
                other => other.iter().all(|byte| *byte == b'-'),
            })
}

pub(crate) fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG_BYTES
        && !tag.is_empty()
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn canonical(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn defaults_are_filled_in() {
        for (given, expected) in [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("docker://debian:12", "docker.io/library/debian:12"),
            ("user/app", "docker.io/user/app:latest"),
            ("index.docker.io/debian", "docker.io/library/debian:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("ghcr.io/a/b/c-d__e:v1.0_x", "ghcr.io/a/b/c-d__e:v1.0_x"),
            ("Host/x", "Host/x:latest"),
            ("[::1]:5000/x:y", "[::1]:5000/x:y"),
            ("a---b/c", "docker.io/a---b/c:latest"),
        ] {
            assert_eq!(canonical(given), expected);
            assert_eq!(canonical(expected), expected);
        }
        let digest = format!("docker.io/library/debian@sha256:{HEX}");
        assert_eq!(canonical(&digest), digest);
        let both = format!("debian:12@sha256:{HEX}");
        assert_eq!(canonical(&both), format!("docker.io/library/{both}"));
    }

    #[test]
    fn short_names_leave_the_defaults_out() {
        let short = |text: &str| text.parse::<Name>().unwrap().short();
        assert_eq!(short("debian"), "debian:latest");
        assert_eq!(short("user/app:1"), "user/app:1");
        assert_eq!(short("ghcr.io/a/b"), "ghcr.io/a/b:latest");
        // A shorter one would mean another image.
        for full in [
            "docker.io/1.2.3/app:latest",
            "docker.io/localhost/app:latest",
        ] {
            assert_eq!(short(full), full);
        }
        assert_eq!(short("docker.io/library/a/b"), "library/a/b:latest");
    }

    #[test]
    fn bad_names_are_refused() {
        use ReferenceError as E;
        let fails = |text: &str| text.parse::<Reference>().unwrap_err();
        assert_eq!(fails(""), E::Empty);
        assert_eq!(fails("docker://"), E::Empty);
        for text in [
            "UPPER", "a//b", "/a", "a/", "a..b", "a___b", "-a", "a b", "../x", "a/../b",
        ] {
            assert!(
                matches!(fails(text), E::Repository { .. } | E::Registry { .. }),
                "{text}"
            );
        }
        for text in ["a:", "a:.x", "a:-x", "a:b c", "a:b:c"] {
            assert!(matches!(fails(text), E::Tag { .. }), "{text}");
        }
        assert!(matches!(
            fails(&format!("a:{}", "t".repeat(129))),
            E::Tag { .. }
        ));
        for text in ["a@", "a@sha256:12", "a@md5:12"] {
            assert!(matches!(fails(text), E::Digest { .. }), "{text}");
        }
        for text in [
            "ho_st.x/a",
            "host:port/a",
            "host:99999/a",
            "-h.x/a",
            "[::g]:1/a",
        ] {
            assert!(matches!(fails(text), E::Registry { .. }), "{text}");
        }
        assert!(matches!(
            fails("a/".repeat(200).trim_end_matches('/')),
            E::TooLong(_)
        ));
    }

    #[test]
    fn transports() {
        let parse = |text: &str| text.parse::<Reference>().unwrap();
        assert_eq!(
            parse("oci:/a/b:tag"),
            Reference::OciLayout {
                dir: "/a/b".into(),
                tag: Some("tag".into())
            }
        );
        assert_eq!(
            parse("oci-archive:x.tar"),
            Reference::OciArchive {
                file: "x.tar".into(),
                tag: None
            }
        );
        assert_eq!(
            parse("docker-archive:/x.tar:debian:12"),
            Reference::DockerArchive {
                file: "/x.tar".into(),
                name: Some("debian:12".parse().unwrap())
            }
        );
        assert_eq!(
            parse("rootfs:/a:b"),
            Reference::Rootfs { dir: "/a:b".into() }
        );
        for text in [
            "oci:",
            "oci::tag",
            "oci-archive:",
            "docker-archive:",
            "rootfs:",
        ] {
            assert!(matches!(
                text.parse::<Reference>(),
                Err(ReferenceError::NoPath(_))
            ));
        }
        assert_eq!(canonical("oci:/a/b:tag"), "oci:/a/b:tag");
        assert_eq!(
            canonical("docker-archive:/x.tar:debian"),
            "docker-archive:/x.tar:docker.io/library/debian:latest"
        );
        let absolute = parse("oci:b").absolute().unwrap();
        assert!(matches!(absolute, Reference::OciLayout { dir, .. } if dir.is_absolute()));
    }
}
