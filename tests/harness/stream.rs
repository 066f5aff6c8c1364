//! The streaming half of the CRI: `exec`, `attach` and `port-forward` over a WebSocket, as an API server
//! asks a runtime for them.

use std::net::TcpStream;
use std::time::Duration;

use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

/// Each message begins with its channel's number.
const PROTOCOL: &str = "v4.channel.k8s.io";
/// Longest wait for a message.
const PATIENCE: Duration = Duration::from_secs(60);

/// Channels of `exec` and `attach`.
pub const STDIN: u8 = 0;
/// See [`STDIN`].
pub const STDOUT: u8 = 1;
/// See [`STDIN`].
pub const STDERR: u8 = 2;
/// How it ended, as a Kubernetes `Status` in JSON.
pub const STATUS: u8 = 3;
/// The terminal's size, in JSON.
pub const RESIZE: u8 = 4;

/// A connection with several channels.
#[derive(Debug)]
pub struct Stream {
    socket: WebSocket<TcpStream>,
}

impl Stream {
    /// Opens the URL that the runtime has answered with.
    ///
    /// # Panics
    /// When nobody answers there as expected.
    #[must_use]
    pub fn open(url: &str) -> Self {
        let address = url.strip_prefix("http://").expect("http");
        let (host, _) = address.split_once('/').expect("a path");
        let tcp = TcpStream::connect(host).expect("the runtime listens");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let mut request = format!("ws://{address}")
            .into_client_request()
            .expect("a request");
        let protocol = HeaderValue::from_static(PROTOCOL);
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocol);
        let (socket, _) = tungstenite::client(request, tcp).expect("a WebSocket");
        Self { socket }
    }

    /// Sends on a channel.
    ///
    /// # Panics
    /// When the runtime has closed the connection.
    pub fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message = [&[channel], bytes].concat();
        self.socket
            .send(Message::Binary(message.into()))
            .expect("sent");
    }

    /// The next message that is not empty; nothing when the connection has ended.
    ///
    /// # Panics
    /// When it breaks.
    pub fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => {
                    let (channel, bytes) = bytes.split_first().expect("a channel");
                    if !bytes.is_empty() {
                        return Some((*channel, bytes.to_vec()));
                    }
                }
                Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => return None,
                Ok(_) => {}
                Err(error) => panic!("the stream broke: {error}"),
            }
        }
    }

    /// What comes on `channel` until it has `text` in it.
    ///
    /// # Panics
    /// When the connection ends before.
    pub fn until(&mut self, channel: u8, text: &str) -> String {
        let mut said = String::new();
        while !said.contains(text) {
            let (from, bytes) = self.read().expect("more");
            if from == channel {
                said.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        said
    }

    /// All that still comes on a channel.
    #[must_use]
    pub fn rest(mut self, channel: u8) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some((from, bytes)) = self.read() {
            if from == channel {
                all.extend(bytes);
            }
        }
        all
    }
}
