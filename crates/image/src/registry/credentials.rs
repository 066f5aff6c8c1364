//! Credentials from the files that Docker and Podman keep, and from their helper programs.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

/// Docker Hub's key in these files.
const DOCKER_HUB_KEY: &str = "index.docker.io";
/// User name that means that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// Padding is optional in the wild.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where credentials for registries come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// From files, in this order; the first with something for a registry counts.
    Files(Vec<PathBuf>),
    /// Always these.
    Given(Login),
    /// None.
    Anonymous,
}

/// User name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub user: String,
    /// Password or access token.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("cannot read credentials in {0}")]
    Read(PathBuf, #[source] io::Error),
    /// A file makes no sense.
    #[error("cannot understand credentials in {0}")]
    Parse(PathBuf, #[source] serde_json::Error),
    /// Credentials that are not `user:password` in base64.
    #[error("the credentials for {registry} in {file} are malformed")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Whose.
        registry: String,
    },
    /// A helper program that is configured cannot be run.
    #[error("cannot run the credential helper {program}, which {file} names")]
    Helper {
        /// The program.
        program: String,
        /// Where it is configured.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What a helper program said makes no sense.
    #[error("cannot understand the answer of the credential helper {program}")]
    HelperAnswer {
        /// The program.
        program: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// Identity tokens need an exchange that is not supported.
    #[error(
        "the credentials for {registry} in {file} are an identity token, which is not supported: log in with an access token"
    )]
    IdentityToken {
        /// The file.
        file: PathBuf,
        /// Whose.
        registry: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: HashMap<String, AuthEntry>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl Credentials {
    /// The files that Docker and Podman use: `REGISTRY_AUTH_FILE` alone if it is set, else
    /// `containers/auth.json` in `XDG_RUNTIME_DIR` and in `XDG_CONFIG_HOME` or `~/.config`, and
    /// `config.json` in `DOCKER_CONFIG` or `~/.docker`.
    #[must_use]
    pub fn of_process() -> Self {
        let variable = |name| {
            let value = std::env::var_os(name)?;
            (!value.is_empty()).then(|| PathBuf::from(value))
        };
        if let Some(file) = variable("REGISTRY_AUTH_FILE") {
            return Self::Files(vec![file]);
        }
        let home = variable("HOME");
        let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let dirs = [
            variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
            variable("XDG_CONFIG_HOME")
                .or_else(|| in_home(".config"))
                .map(|dir| dir.join("containers/auth.json")),
            variable("DOCKER_CONFIG")
                .or_else(|| in_home(".docker"))
                .map(|dir| dir.join("config.json")),
        ];
        Self::Files(dirs.into_iter().flatten().collect())
    }

    /// Credentials for a repository, if there are any. Blocks, as it may run a helper program.
    ///
    /// # Errors
    /// When there are some that cannot be used.
    pub fn find(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Login>, CredentialsError> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Given(login) => Ok(Some(login.clone())),
            Self::Files(files) => {
                for file in files {
                    if let Some(login) = find_in(file, registry, repository)? {
                        return Ok(Some(login));
                    }
                }
                Ok(None)
            }
        }
    }
}

fn find_in(
    file: &Path,
    registry: &str,
    repository: &str,
) -> Result<Option<Login>, CredentialsError> {
    let text = match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| CredentialsError::Read(file.to_owned(), error))?,
    };
    let auths: AuthFile = serde_json::from_slice(&text)
        .map_err(|error| CredentialsError::Parse(file.to_owned(), error))?;
    let registry = if registry == "docker.io" {
        DOCKER_HUB_KEY
    } else {
        registry
    };
    let same_host = |key: &str| normal(key) == registry;
    if let Some((_, helper)) = auths.cred_helpers.iter().find(|(key, _)| same_host(key)) {
        return ask_helper(helper, registry, file);
    }
    // Podman's keys may name a namespace or repository: the longest that fits counts.
    let full = format!("{registry}/{repository}");
    let fits = |key: &str| {
        let key = normal(key);
        full.strip_prefix(key.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            .then_some(key.len())
    };
    let entry = auths
        .auths
        .iter()
        .filter_map(|(key, entry)| Some((fits(key)?, entry)))
        .max_by_key(|(length, _)| *length);
    if let Some((_, entry)) = entry
        && let Some(login) = entry.login(file, registry)?
    {
        return Ok(Some(login));
    }
    match &auths.creds_store {
        Some(helper) if !helper.is_empty() => ask_helper(helper, registry, file),
        _ => Ok(None),
    }
}

/// A key without scheme and API version: `https://index.docker.io/v1/` is `index.docker.io`.
fn normal(key: &str) -> String {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    let key = key.trim_end_matches('/');
    let key = ["/v1", "/v2"]
        .iter()
        .fold(key, |key, version| key.strip_suffix(version).unwrap_or(key));
    match key.split_once('/') {
        None if key == "docker.io" => DOCKER_HUB_KEY.to_owned(),
        Some(("docker.io", rest)) => format!("{DOCKER_HUB_KEY}/{rest}"),
        _ => key.to_owned(),
    }
}

impl AuthEntry {
    fn login(&self, file: &Path, registry: &str) -> Result<Option<Login>, CredentialsError> {
        if self
            .identitytoken
            .as_ref()
            .is_some_and(|token| !token.is_empty())
        {
            return Err(CredentialsError::IdentityToken {
                file: file.to_owned(),
                registry: registry.to_owned(),
            });
        }
        if let (Some(user), Some(password)) = (&self.username, &self.password) {
            return Ok(Some(Login {
                user: user.clone(),
                password: password.clone(),
            }));
        }
        let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) else {
            // Docker leaves an empty entry where a helper keeps the secret.
            return Ok(None);
        };
        let malformed = || CredentialsError::Malformed {
            file: file.to_owned(),
            registry: registry.to_owned(),
        };
        let decoded = BASE64.decode(auth.trim()).map_err(|_| malformed())?;
        let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
        let (user, password) = decoded.split_once(':').ok_or_else(malformed)?;
        Ok(Some(Login {
            user: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        }))
    }
}

/// Runs `docker-credential-<helper> get`.
fn ask_helper(
    helper: &str,
    registry: &str,
    file: &Path,
) -> Result<Option<Login>, CredentialsError> {
    let program = format!("docker-credential-{helper}");
    let failed = |source| CredentialsError::Helper {
        program: program.clone(),
        file: file.to_owned(),
        source,
    };
    let server = if registry == DOCKER_HUB_KEY {
        "https://index.docker.io/v1/"
    } else {
        registry
    };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(server.as_bytes())
        // One that knows without asking may have ended already.
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        // Without its input it ends by itself; waiting only reaps it.
        drop(stdin);
        child.wait().map_err(failed)?;
        return Err(failed(error));
    }
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        // The protocol has no other way to say that there are none.
        tracing::debug!(program, registry, status = %output.status, "no credentials");
        return Ok(None);
    }
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout).map_err(|source| {
        CredentialsError::HelperAnswer {
            program: program.clone(),
            source,
        }
    })?;
    if answer.username == TOKEN_USER {
        return Err(CredentialsError::IdentityToken {
            file: file.to_owned(),
            registry: registry.to_owned(),
        });
    }
    Ok(Some(Login {
        user: answer.username,
        password: answer.secret,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(
        json: &str,
        registry: &str,
        repository: &str,
    ) -> Result<Option<String>, CredentialsError> {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("config.json");
        fs::write(&file, json).unwrap();
        let missing = temp.path().join("missing.json");
        let login = Credentials::Files(vec![missing, file]).find(registry, repository)?;
        Ok(login.map(|login| format!("{}:{}", login.user, login.password)))
    }

    #[test]
    fn the_longest_key_that_fits_counts() {
        let encoded = |text: &str| BASE64.encode(text);
        let json = format!(
            r#"{{"auths": {{
                "https://index.docker.io/v1/": {{"auth": "{}"}},
                "quay.io": {{"auth": "{}"}},
                "quay.io/team": {{"auth": "{}"}},
                "http://plain:5000/v2/": {{"username": "u", "password": "p"}},
                "empty.io": {{}}
            }}}}"#,
            encoded("hub:secret"),
            encoded("q:a:b"),
            encoded("team:x")
        );
        let find = |registry, repository| find(&json, registry, repository).unwrap();
        assert_eq!(
            find("docker.io", "library/debian").as_deref(),
            Some("hub:secret")
        );
        assert_eq!(find("quay.io", "other/app").as_deref(), Some("q:a:b"));
        assert_eq!(find("quay.io", "team/app").as_deref(), Some("team:x"));
        assert_eq!(find("quay.io", "teamwork/app").as_deref(), Some("q:a:b"));
        assert_eq!(find("plain:5000", "x").as_deref(), Some("u:p"));
        assert_eq!(find("empty.io", "x"), None);
        assert_eq!(find("other.io", "x"), None);
    }

    #[test]
    fn unusable_credentials_are_errors() {
        let fails = |json: &str| find(json, "r.io", "x").unwrap_err();
        assert!(matches!(fails("{"), CredentialsError::Parse(..)));
        let malformed = r#"{"auths": {"r.io": {"auth": "!"}}}"#;
        assert!(matches!(
            fails(malformed),
            CredentialsError::Malformed { .. }
        ));
        let token = r#"{"auths": {"r.io": {"auth": "", "identitytoken": "t"}}}"#;
        assert!(matches!(
            fails(token),
            CredentialsError::IdentityToken { .. }
        ));
        let helper = r#"{"credsStore": "that-does-not-exist"}"#;
        assert!(matches!(fails(helper), CredentialsError::Helper { .. }));
    }

    #[test]
    fn passwords_are_not_printed() {
        let login = Login {
            user: "u".to_owned(),
            password: "secret".to_owned(),
        };
        assert!(!format!("{:?}", Credentials::Given(login)).contains("secret"));
    }
}
