//! A host to ask for an image, and the HTTP clients for it.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};

use super::config::Registries;
use super::error::RegistryError;
use crate::reference::Name;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a registry may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("hull/", env!("CARGO_PKG_VERSION"));
/// Where Docker Hub's API is.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// A host to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host and port of the API.
    pub(crate) host: String,
    /// What credentials are kept for.
    pub(crate) login: String,
    plain_http: bool,
    skip_tls_verify: bool,
    ca_file: Option<PathBuf>,
}

impl Endpoint {
    /// Whom to ask for `name`: mirrors first, at last the registry itself.
    pub(crate) fn all(name: &Name, registries: &Registries) -> Vec<Self> {
        let registry = name.registry();
        let mirrors = registries
            .registry
            .get(registry)
            .map_or(&[][..], |config| &config.mirrors);
        let mut endpoints: Vec<Self> = mirrors
            .iter()
            .map(|mirror| match mirror.split_once("://") {
                Some((scheme, host)) => Self {
                    plain_http: scheme == "http",
                    ..Self::new(host.trim_end_matches('/'), registries)
                },
                None => Self::new(mirror.trim_end_matches('/'), registries),
            })
            .collect();
        endpoints.push(Self::new(registry, registries));
        endpoints
    }

    fn new(registry: &str, registries: &Registries) -> Self {
        let config = registries.registry.get(registry);
        let host = if registry == "docker.io" {
            DOCKER_HUB_API
        } else {
            registry
        };
        Self {
            host: host.to_owned(),
            login: registry.to_owned(),
            plain_http: config
                .and_then(|config| config.http)
                .unwrap_or_else(|| is_loopback(registry)),
            skip_tls_verify: config.is_some_and(|config| config.skip_tls_verify),
            ca_file: config.and_then(|config| config.ca_file.clone()),
        }
    }

    fn scheme(&self) -> &'static str {
        if self.plain_http { "http" } else { "https" }
    }

    /// A manifest's address.
    pub(crate) fn manifest_url(&self, repository: &str, tag_or_digest: &str) -> String {
        let scheme = self.scheme();
        format!(
            "{scheme}://{}/v2/{repository}/manifests/{tag_or_digest}",
            self.host
        )
    }

    /// The clients: oci-client's for tokens and blobs, and a plain one for manifests.
    pub(crate) fn clients(&self) -> Result<(oci_client::Client, reqwest::Client), RegistryError> {
        // Another one may be installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificate = match &self.ca_file {
            Some(path) => {
                Some(fs::read(path).map_err(|source| RegistryError::CaFile(path.clone(), source))?)
            }
            None => None,
        };
        let proxies = Proxies::of_process();
        // Without TLS no certificate is looked at; not to need any lets hosts without some pull.
        let skip_tls_verify = self.skip_tls_verify || self.plain_http;
        let setup = |source| RegistryError::Setup(self.host.clone(), source);

        let mut plain = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .danger_accept_invalid_certs(skip_tls_verify);
        if let Some(pem) = &certificate {
            let certificate = reqwest::Certificate::from_pem(pem).map_err(setup)?;
            plain = plain.tls_certs_merge([certificate]);
        }
        let no_proxy = || reqwest::NoProxy::from_string(&proxies.except);
        if let Some(proxy) = &proxies.http {
            plain = plain.proxy(
                reqwest::Proxy::http(proxy)
                    .map_err(setup)?
                    .no_proxy(no_proxy()),
            );
        }
        if let Some(proxy) = &proxies.https {
            plain = plain.proxy(
                reqwest::Proxy::https(proxy)
                    .map_err(setup)?
                    .no_proxy(no_proxy()),
            );
        }
        let plain = plain.build().map_err(setup)?;

        let config = ClientConfig {
            protocol: if self.plain_http {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            accept_invalid_certificates: skip_tls_verify,
            extra_root_certificates: certificate
                .into_iter()
                .map(|data| Certificate {
                    encoding: CertificateEncoding::Pem,
                    data,
                })
                .collect(),
            read_timeout: Some(READ_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: USER_AGENT,
            http_proxy: proxies.http,
            https_proxy: proxies.https,
            no_proxy: Some(proxies.except),
            ..ClientConfig::default()
        };
        let client =
            oci_client::Client::try_from(config).map_err(RegistryError::client(&self.host))?;
        Ok((client, plain))
    }
}

/// Proxies that the environment names. They are never asked for loopback addresses.
struct Proxies {
    http: Option<String>,
    https: Option<String>,
    except: String,
}

impl Proxies {
    fn of_process() -> Self {
        let variable = |names: [&str; 2]| {
            let values = names
                .into_iter()
                .filter_map(|name| std::env::var(name).ok());
            values.into_iter().find(|value| !value.is_empty())
        };
        let all = || variable(["all_proxy", "ALL_PROXY"]);
        let except = variable(["no_proxy", "NO_PROXY"]).unwrap_or_default();
        Self {
            http: variable(["http_proxy", "HTTP_PROXY"]).or_else(all),
            https: variable(["https_proxy", "HTTPS_PROXY"]).or_else(all),
            except: format!("{except},localhost,127.0.0.0/8,::1"),
        }
    }
}

/// Whether a registry's host is this one.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RegistryConfig;

    fn hosts(name: &str, registries: &Registries) -> Vec<String> {
        let name = name.parse().unwrap();
        let endpoints = Endpoint::all(&name, registries);
        let url = |endpoint: &Endpoint| format!("{}://{}", endpoint.scheme(), endpoint.host);
        endpoints.iter().map(url).collect()
    }

    #[test]
    fn plain_http_is_for_this_host_only() {
        let none = Registries::default();
        assert_eq!(hosts("debian", &none), ["https://registry-1.docker.io"]);
        assert_eq!(hosts("localhost:5000/x", &none), ["http://localhost:5000"]);
        assert_eq!(hosts("127.0.0.1:5/x", &none), ["http://127.0.0.1:5"]);
        assert_eq!(hosts("[::1]:5/x", &none), ["http://[::1]:5"]);
        assert_eq!(hosts("10.0.0.1:5/x", &none), ["https://10.0.0.1:5"]);
        assert_eq!(
            hosts("localhost.example/x", &none),
            ["https://localhost.example"]
        );
    }

    #[test]
    fn mirrors_come_first() {
        let mut registries = Registries::default();
        let config = RegistryConfig {
            mirrors: vec!["http://m:1/".into(), "https://n".into(), "o:2".into()],
            ..RegistryConfig::default()
        };
        registries.registry.insert("docker.io".into(), config);
        assert_eq!(
            hosts("debian", &registries),
            [
                "http://m:1",
                "https://n",
                "https://o:2",
                "https://registry-1.docker.io"
            ]
        );
        assert_eq!(hosts("x.y/debian", &registries), ["https://x.y"]);
    }
}
