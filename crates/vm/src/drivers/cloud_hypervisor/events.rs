//! What Cloud Hypervisor tells without being asked (`docs/api.md` of its sources, "Event monitor").
//!
//! Events are JSON objects, one after the other, with spaces and newlines wherever the VMM likes. It may be in the
//! guest's hands, so what is kept of them is bounded.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

use crate::process::Process;

/// Where they arrive.
pub(super) fn pipe(run_dir: &Path) -> PathBuf {
    run_dir.join("events.fifo")
}

/// Longest event, bytes; those that are known have fewer than 300.
const MAX_EVENT: usize = 64 << 10;

/// How the guest has ended its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuestEnd {
    /// It has powered it off.
    PowerOff,
    /// It has restarted it, which its kernel does when it panics. The VMM was ended for that.
    Restart,
}

/// The events of a running VMM.
#[derive(Debug)]
pub(super) struct Events(watch::Receiver<Heard>);

/// What has been read of them.
#[derive(Debug, Default)]
struct Heard {
    guest_end: Option<GuestEnd>,
    /// The machine went on after it had stood still.
    resumed: bool,
    /// There will be no more.
    all: bool,
}

#[derive(Debug, Deserialize)]
struct Event {
    source: String,
    event: String,
}

impl Event {
    fn is_resumed(&self) -> bool {
        (self.source.as_str(), self.event.as_str()) == ("vm", "resumed")
    }

    fn guest_end(&self) -> Option<GuestEnd> {
        match (self.source.as_str(), self.event.as_str()) {
            ("vmm", "shutdown") => Some(GuestEnd::PowerOff),
            ("vm", "rebooting") => Some(GuestEnd::Restart),
            _ => None,
        }
    }
}

impl Events {
    /// Reads them until the VMM's end, and ends it when its guest restarts, as a machine starts once, or when what it
    /// says cannot be read, as a restart would then not be seen.
    pub(super) fn follow(
        stream: impl AsyncRead + Unpin + Send + 'static,
        vmm: &Arc<Process>,
    ) -> Self {
        let (hear, heard) = watch::channel(Heard::default());
        // Whoever gives the machine up ends the VMM, whether or not somebody reads here.
        let vmm = Arc::downgrade(vmm);
        tokio::spawn(async move {
            let end_vmm = || {
                if let Some(vmm) = vmm.upgrade() {
                    vmm.signal(Signal::SIGKILL);
                }
            };
            let noted = |event: Event| {
                tracing::debug!(?event, "event of Cloud Hypervisor");
                if event.is_resumed() {
                    hear.send_modify(|heard| heard.resumed = true);
                }
                let Some(cause) = event.guest_end() else {
                    return;
                };
                hear.send_modify(|heard| {
                    heard.guest_end.get_or_insert(cause);
                });
                if cause == GuestEnd::Restart {
                    end_vmm();
                }
            };
            if let Err(error) = read(stream, noted).await {
                tracing::error!(%error, "cannot read Cloud Hypervisor's events, so it is ended");
                end_vmm();
            }
            hear.send_modify(|heard| heard.all = true);
        });
        Self(heard)
    }

    /// Waits until the machine goes on; false when the VMM ended before.
    pub(super) async fn resumed(&self) -> bool {
        let mut heard = self.0.clone();
        // An error means that the reader is gone, which is an end too.
        let _ = heard.wait_for(|heard| heard.resumed || heard.all).await;
        self.0.borrow().resumed
    }

    /// How the guest ended its machine, if it was the guest. After the VMM's end.
    pub(super) async fn guest_end(&self) -> Option<GuestEnd> {
        // An error means that the reader is gone, which is an end too.
        let _ = self.0.clone().wait_for(|heard| heard.all).await;
        self.0.borrow().guest_end
    }
}

async fn read(mut stream: impl AsyncRead + Unpin, mut noted: impl FnMut(Event)) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let mut events = serde_json::Deserializer::from_slice(&buffer).into_iter::<Event>();
        for event in events.by_ref() {
            match event {
                Ok(event) => noted(event),
                Err(error) if error.is_eof() => break,
                Err(error) => return Err(error.into()),
            }
        }
        let done = events.byte_offset();
        buffer.drain(..done);
        if buffer.len() > MAX_EVENT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an event without an end",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTING: &str = "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": 5\n  },\n  \"source\": \"vm\",\n  \
                           \"event\": \"booting\",\n  \"properties\": null\n}\n\n";
    const REBOOTING: &str = r#"{"timestamp":{"secs":1,"nanos":0},"source":"vm","event":"rebooting","properties":{"a":"b"}}"#;

    /// The names of the events in `pieces`, which arrive one after the other.
    async fn names(pieces: &[&str]) -> (Vec<String>, io::Result<()>) {
        let mut stream = stream_of(pieces);
        let mut names = Vec::new();
        let result = read(&mut stream, |event| names.push(event.event)).await;
        (names, result)
    }

    /// A stream that gives no more than one piece at a read.
    fn stream_of(pieces: &[&str]) -> impl AsyncRead + Unpin {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|piece| piece.as_bytes().to_vec())
            .collect();
        pieces.into_iter().fold(
            Box::new(tokio::io::empty()) as Box<dyn AsyncRead + Unpin>,
            |all, piece| Box::new(all.chain(io::Cursor::new(piece))),
        )
    }

    #[tokio::test]
    async fn events_are_found_however_they_arrive() {
        let (head, tail) = BOOTING.split_at(40);
        let both = format!("{tail}{REBOOTING}");
        let (names, result) = names(&[head, &both]).await;
        result.unwrap();
        assert_eq!(names, ["booting", "rebooting"]);
    }

    #[tokio::test]
    async fn what_is_no_event_ends_the_reading() {
        let (found, result) = names(&[BOOTING, "}"]).await;
        assert_eq!(found.len(), 1);
        result.unwrap_err();
        let endless = format!("{{\"source\": \"{}", "x".repeat(MAX_EVENT));
        let (_, result) = names(&[&endless]).await;
        result.unwrap_err();
    }

    #[tokio::test]
    async fn a_vmm_whose_guest_restarts_or_that_is_not_understood_is_ended() {
        for (said, guest_end) in [(REBOOTING, Some(GuestEnd::Restart)), ("}", None)] {
            let dir = tempfile::tempdir().unwrap();
            let mut command = tokio::process::Command::new("sleep");
            command.arg("1000");
            let vmm = Process::spawn(command, vec![], &dir.path().join("log")).unwrap();
            let vmm = Arc::new(vmm);
            let events = Events::follow(io::Cursor::new(said), &vmm);
            vmm.wait().await;
            assert_eq!(events.guest_end().await, guest_end);
        }
    }

    #[test]
    fn a_restart_and_a_power_off_are_told_apart() {
        let end = |text: &str| serde_json::from_str::<Event>(text).unwrap().guest_end();
        assert_eq!(end(BOOTING), None);
        assert_eq!(end(REBOOTING), Some(GuestEnd::Restart));
        let off = REBOOTING
            .replace("\"vm\"", "\"vmm\"")
            .replace("rebooting", "shutdown");
        assert_eq!(end(&off), Some(GuestEnd::PowerOff));
    }
}
