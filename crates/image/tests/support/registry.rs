//! A registry on a loopback address, with faults on demand.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hull_image::Digest;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{ImageParts, MANIFEST_TYPE};

/// How a registry lets people in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    None,
    /// User `u`, password `p`.
    Basic,
    /// The same, for a token.
    Bearer,
}

/// What a registry has and how it behaves.
pub struct Content {
    pub auth: Auth,
    /// By tag or digest: media type and bytes.
    pub manifests: HashMap<String, (String, Vec<u8>)>,
    pub blobs: HashMap<String, Vec<u8>>,
    /// How often the connection is cut in the middle of a blob, by digest.
    pub cuts: HashMap<String, u32>,
    /// Answer ranges with the whole blob.
    pub no_ranges: bool,
    /// A manifest without end.
    pub endless_manifest: bool,
}

/// A running registry.
pub struct Registry {
    pub address: SocketAddr,
    pub content: Arc<Mutex<Content>>,
    /// Method and path of every request, with the range if there was one.
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl Content {
    pub fn of(tag: &str, image: &ImageParts) -> Self {
        let mut content = Self {
            auth: Auth::None,
            manifests: HashMap::new(),
            blobs: HashMap::new(),
            cuts: HashMap::new(),
            no_ranges: false,
            endless_manifest: false,
        };
        content.add(image);
        content.tag(tag, MANIFEST_TYPE, &image.manifest);
        content
    }

    pub fn add(&mut self, image: &ImageParts) {
        for (digest, blob) in image.blobs() {
            self.blobs.insert(digest.to_string(), blob);
        }
        let digest = Digest::of(&image.manifest).to_string();
        self.tag(&digest, MANIFEST_TYPE, &image.manifest);
    }

    pub fn tag(&mut self, tag: &str, media_type: &str, bytes: &[u8]) {
        self.manifests
            .insert(tag.to_owned(), (media_type.to_owned(), bytes.to_owned()));
    }
}

impl Registry {
    pub async fn start(content: Content) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Self {
            address,
            content: Arc::new(Mutex::new(content)),
            requests: Arc::default(),
        };
        let (content, requests) = (registry.content.clone(), registry.requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (content, requests) = (content.clone(), requests.clone());
                tokio::spawn(async move {
                    // A client that goes away is what some tests are about.
                    let _ = serve(stream, address, &content, &requests).await;
                });
            }
        });
        registry
    }

    /// An image's name in it.
    pub fn name(&self, repository_and_tag: &str) -> hull_image::Name {
        format!("{}/{repository_and_tag}", self.address)
            .parse()
            .unwrap()
    }

    pub fn count(&self, part: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|line| line.contains(part)).count()
    }
}

struct Response {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
    /// Bytes of the body that are sent before the connection is cut.
    cut: Option<usize>,
}

impl Response {
    fn new(status: &'static str, body: &[u8]) -> Self {
        Self {
            status,
            headers: String::new(),
            body: body.to_owned(),
            cut: None,
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    address: SocketAddr,
    content: &Mutex<Content>,
    requests: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    loop {
        let mut headers = HashMap::new();
        let mut first = String::new();
        let mut reader = BufReader::new(&mut stream);
        if reader.read_line(&mut first).await? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).await?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
                None => break,
            };
        }
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let range = headers.get("range").cloned().unwrap_or_default();
        requests.lock().unwrap().push(format!("GET {path} {range}"));
        if content.lock().unwrap().endless_manifest && path.contains("/manifests/") {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&[b' '; 65536]).await?;
            }
        }
        let response = answer(&path, &headers, address, &mut content.lock().unwrap());
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Length: {}\r\n{}\r\n",
            response.status,
            response.body.len(),
            response.headers
        );
        stream.write_all(head.as_bytes()).await?;
        let sent = response.cut.unwrap_or(response.body.len());
        stream.write_all(&response.body[..sent]).await?;
        stream.flush().await?;
        if response.cut.is_some() {
            return Ok(());
        }
    }
}

fn answer(
    path: &str,
    headers: &HashMap<String, String>,
    address: SocketAddr,
    content: &mut Content,
) -> Response {
    // "u:p".
    let has_password = headers
        .get("authorization")
        .is_some_and(|value| value == "Basic dTpw");
    if path.starts_with("/token") {
        return if has_password && path.contains("repository%3Aapp%3Apull") {
            Response::new("200 OK", br#"{"token":"secret-token"}"#)
        } else {
            Response::new("401 Unauthorized", b"no")
        };
    }
    let is_in = match content.auth {
        Auth::None => true,
        Auth::Basic => has_password,
        Auth::Bearer => headers
            .get("authorization")
            .is_some_and(|value| value == "Bearer secret-token"),
    };
    if !is_in {
        let mut response = Response::new("401 Unauthorized", b"{}");
        response.headers = match content.auth {
            Auth::Bearer => format!(
                "WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"test\"\r\n"
            ),
            Auth::Basic | Auth::None => "WWW-Authenticate: Basic realm=\"test\"\r\n".to_owned(),
        };
        return response;
    }
    if path == "/v2/" {
        return Response::new("200 OK", b"{}");
    }
    if let Some(reference) = path.strip_prefix("/v2/app/manifests/") {
        return match content.manifests.get(reference) {
            Some((media_type, bytes)) => {
                let mut response = Response::new("200 OK", bytes);
                response.headers = format!("Content-Type: {media_type}\r\n");
                response
            }
            None => Response::new("404 Not Found", b"{}"),
        };
    }
    let blob = path
        .strip_prefix("/v2/app/blobs/")
        .and_then(|digest| Some((digest, content.blobs.get(digest)?)));
    let Some((digest, blob)) = blob else {
        return Response::new("404 Not Found", b"{}");
    };
    let start = headers
        .get("range")
        .and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        })
        .filter(|_| !content.no_ranges);
    let mut response = match start {
        Some(start) => Response::new("206 Partial Content", &blob[start..]),
        None => Response::new("200 OK", blob),
    };
    if let Some(cuts) = content.cuts.get_mut(digest)
        && *cuts > 0
    {
        *cuts -= 1;
        response.cut = Some(response.body.len() / 2);
    }
    response
}
