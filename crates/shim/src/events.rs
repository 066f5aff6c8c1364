//! What happens in a pod, told to containerd: its Events service, over ttrpc, in order.

use std::path::PathBuf;
use std::time::Duration;

use containerd_shim_protos::api::{Empty, ForwardRequest};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::EventsClient;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::with_duration;

/// Events that wait for a containerd that is away. The ones that come when so many wait are lost, as
/// containerd asks for the state of every task when it comes back.
const WAITING: usize = 1024;
/// How long containerd has to take an event.
const DEADLINE: Duration = Duration::from_secs(10);
/// How soon a containerd that is away is tried again; each time later, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Where events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Socket of the Events service.
    pub socket: PathBuf,
    /// The engine's namespace in which they happen.
    pub namespace: String,
}

/// Tells containerd of events, or nobody.
#[derive(Debug, Clone)]
pub struct Events {
    sender: Option<mpsc::Sender<Envelope>>,
    namespace: String,
}

impl Events {
    /// For a pod that no engine watches.
    #[must_use]
    pub fn to_nobody() -> Self {
        Self {
            sender: None,
            namespace: String::new(),
        }
    }

    /// Tells the service at `address`. Events are sent one after the other by a task, for whose end
    /// [`Publisher::finish`] asks.
    #[must_use]
    pub fn to(address: Address) -> (Self, Publisher) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(publish(address.socket, receiver, stopped));
        let events = Self {
            sender: Some(sender),
            namespace: address.namespace,
        };
        (events, Publisher { task, stop })
    }

    /// Whether somebody is told.
    #[must_use]
    pub fn are_heard(&self) -> bool {
        self.sender.is_some()
    }

    /// Tells of an event, some time after those before it. `topic` is a path such as
    /// `/tasks/start`.
    pub fn send<E: MessageFull>(&self, topic: &str, event: &E) {
        let Some(sender) = &self.sender else {
            return;
        };
        let envelope = Envelope {
            timestamp: now(),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(Any {
                type_url: E::descriptor().full_name().to_owned(),
                value: event.write_to_bytes().expect("plain data encodes"),
                ..Default::default()
            }),
            ..Default::default()
        };
        if sender.try_send(envelope).is_err() {
            tracing::error!(topic, "containerd is away for too long: an event is lost");
        }
    }
}

/// The task that sends.
#[derive(Debug)]
pub struct Publisher {
    task: tokio::task::JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Publisher {
    /// Completes when the events so far are sent, or containerd had its time to take them.
    pub async fn finish(self) {
        // It has ended already, if it does not listen.
        let _ = self.stop.send(());
        if tokio::time::timeout(DEADLINE, self.task).await.is_err() {
            tracing::error!("containerd is away: the last events are lost");
        }
    }
}

fn now() -> MessageField<Timestamp> {
    MessageField::some(std::time::SystemTime::now().into())
}

async fn publish(
    address: PathBuf,
    mut envelopes: mpsc::Receiver<Envelope>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut connection = None;
    loop {
        let envelope = tokio::select! {
            biased;
            envelope = envelopes.recv() => envelope,
            _ = &mut stopped, if !envelopes.is_closed() => {
                envelopes.close();
                continue;
            }
        };
        let Some(envelope) = envelope else {
            return;
        };
        let request = ForwardRequest {
            envelope: MessageField::some(envelope),
            ..Default::default()
        };
        let mut pause = RETRY.0;
        loop {
            match forward(&address, &mut connection, &request).await {
                Ok(()) => break,
                Err(Failure::Refused(error)) => {
                    tracing::error!(%error, "containerd refuses an event");
                    break;
                }
                Err(Failure::Away) => {
                    connection = None;
                    tokio::time::sleep(pause).await;
                    pause = RETRY.1.min(pause * 2);
                }
            }
        }
    }
}

enum Failure {
    /// It has answered, and will not answer otherwise.
    Refused(ttrpc::Error),
    /// It does not answer.
    Away,
}

async fn forward(
    address: &PathBuf,
    connection: &mut Option<EventsClient>,
    request: &ForwardRequest,
) -> Result<(), Failure> {
    let client = match connection {
        Some(client) => client,
        None => {
            let stream = UnixStream::connect(address).await;
            let socket = Socket::new(stream.map_err(|_| Failure::Away)?);
            connection.insert(EventsClient::new(Client::new(socket)))
        }
    };
    match client.forward(with_duration(DEADLINE), request).await {
        Ok(Empty { .. }) => Ok(()),
        Err(error @ ttrpc::Error::RpcStatus(_)) => Err(Failure::Refused(error)),
        Err(_) => Err(Failure::Away),
    }
}
