//! A registry on a loopback address that gives what it is told to give.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::layout::{TestImage, digest};

/// What the repository `app` has, by the last parts of the path: `manifests/TAG`, `manifests/DIGEST`
/// or `blobs/DIGEST`.
pub type Content = BTreeMap<String, Vec<u8>>;

/// A running registry. It ends with the test.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
}

/// What a registry has that gives `image` under the tag `latest`.
#[must_use]
pub fn content_of(image: &TestImage) -> Content {
    let manifest = |name: &str| (format!("manifests/{name}"), image.manifest.clone());
    let mut content = Content::from([manifest("latest"), manifest(&digest(&image.manifest))]);
    for (digest, bytes) in image.blobs() {
        content.insert(format!("blobs/{digest}"), bytes.to_owned());
    }
    content
}

impl Registry {
    /// Starts one.
    ///
    /// # Panics
    /// When no port can be had.
    #[must_use]
    pub fn start(content: Content) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away has got what it wanted.
                let _ = serve(stream, &content);
            }
        });
        Self { address }
    }

    /// The reference of the image with this tag, or with `@` and a digest.
    #[must_use]
    pub fn reference(&self, tag: &str) -> String {
        let separator = if tag.starts_with('@') { "" } else { ":" };
        format!("{}/app{separator}{tag}", self.address)
    }
}

/// Answers one request.
fn serve(mut stream: TcpStream, content: &Content) -> std::io::Result<()> {
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let name = path.strip_prefix("/v2/app/");
    let (status, body): (_, &[u8]) = match name.and_then(|name| content.get(name)) {
        Some(body) => ("200 OK", body),
        None if path == "/v2/" => ("200 OK", b"{}"),
        None => ("404 Not Found", b"{}"),
    };
    let kind = match path.contains("/manifests/") {
        true => "application/vnd.oci.image.manifest.v1+json",
        false => "application/octet-stream",
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}
