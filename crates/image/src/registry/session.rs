//! Talking to one registry about one repository.

use futures_util::StreamExt;
use oci_client::RegistryOperation;
use oci_client::client::BlobResponse;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use tokio::sync::mpsc;

use super::credentials::Login;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use crate::manifest::Descriptor;

/// Most tries for a blob that bring no further byte.
const MAX_TRIES_IN_VAIN: u32 = 3;
/// Media types that a manifest may have.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Bytes of a blob.
pub(crate) type Chunk = bytes::Bytes;

/// A registry that knows who is asking.
pub(crate) struct Session {
    endpoint: Endpoint,
    image: oci_client::Reference,
    client: oci_client::Client,
    /// For manifests: oci-client would read one of any size into memory.
    plain: reqwest::Client,
    login: Option<Login>,
    token: Option<String>,
}

impl Session {
    /// Logs in, if the registry wants that.
    pub(crate) async fn open(
        endpoint: Endpoint,
        repository: &str,
        login: Option<Login>,
    ) -> Result<Self, RegistryError> {
        let (client, plain) = endpoint.clients()?;
        // The tag does not matter for blobs and tokens.
        let image = oci_client::Reference::with_tag(
            endpoint.host.clone(),
            repository.to_owned(),
            "latest".to_owned(),
        );
        let auth = match &login {
            Some(login) => RegistryAuth::Basic(login.user.clone(), login.password.clone()),
            None => RegistryAuth::Anonymous,
        };
        let token = client
            .auth(&image, &auth, RegistryOperation::Pull)
            .await
            .map_err(RegistryError::client(&endpoint.host))?;
        Ok(Self {
            endpoint,
            image,
            client,
            plain,
            login,
            token,
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// Whether there were credentials for it.
    pub(crate) fn logged_in(&self) -> bool {
        self.login.is_some()
    }

    /// Fetches a manifest; none if it is larger than `limit`.
    pub(crate) async fn manifest(
        &self,
        tag_or_digest: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let url = self
            .endpoint
            .manifest_url(self.image.repository(), tag_or_digest);
        let request = self.plain.get(url).header(reqwest::header::ACCEPT, ACCEPT);
        let request = match (&self.token, &self.login) {
            (Some(token), _) => request.bearer_auth(token),
            (None, Some(login)) => request.basic_auth(&login.user, Some(&login.password)),
            (None, None) => request,
        };
        let unreachable = || RegistryError::unreachable(self.host());
        let mut response = request.send().await.map_err(unreachable())?;
        if let Some(error) = RegistryError::of_status(self.host(), response.status().as_u16()) {
            return Err(error);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable())? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }

    /// Fetches a blob piece by piece, going on where a broken connection ended, as long as somebody
    /// receives. What arrives is not verified, and may be one piece too long.
    pub(crate) async fn blob(
        &self,
        blob: &Descriptor,
        to: &mpsc::Sender<Chunk>,
    ) -> Result<(), RegistryError> {
        let descriptor = OciDescriptor {
            digest: blob.digest.to_string(),
            ..OciDescriptor::default()
        };
        let mut received = 0;
        let mut tries_in_vain = 0;
        while received < blob.size {
            let (mut stream, mut skip) = self.blob_from(&descriptor, received).await?;
            let start = received;
            let mut broken = None;
            while let Some(chunk) = stream.next().await {
                let mut chunk = match chunk {
                    Ok(chunk) => chunk,
                    Err(error) => {
                        broken = Some(error);
                        break;
                    }
                };
                let skipped = chunk.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
                skip -= skipped as u64;
                let chunk = chunk.split_off(skipped);
                received += chunk.len() as u64;
                // One byte too many is enough to know that this is not the blob.
                let too_long = received > blob.size;
                if to.send(chunk).await.is_err() || too_long {
                    return Ok(());
                }
            }
            tries_in_vain = if received > start {
                0
            } else {
                tries_in_vain + 1
            };
            if received < blob.size && tries_in_vain >= MAX_TRIES_IN_VAIN {
                return Err(RegistryError::Interrupted {
                    host: self.host().to_owned(),
                    received,
                    expected: blob.size,
                    source: broken,
                });
            }
        }
        Ok(())
    }

    /// The blob's bytes from `offset` on, and how many of them to pass over because the registry
    /// gives all or nothing.
    async fn blob_from(
        &self,
        descriptor: &OciDescriptor,
        offset: u64,
    ) -> Result<(oci_client::client::SizedStream, u64), RegistryError> {
        let failed = || RegistryError::client(self.host());
        if offset == 0 {
            let stream = self.client.pull_blob_stream(&self.image, descriptor).await;
            return Ok((stream.map_err(failed())?, 0));
        }
        let response = self
            .client
            .pull_blob_stream_partial(&self.image, descriptor, offset, None)
            .await
            .map_err(failed())?;
        Ok(match response {
            BlobResponse::Full(stream) => (stream, offset),
            BlobResponse::Partial(stream) => (stream, 0),
        })
    }
}
