//! A process's streams: the ends that it gets, and the tasks that serve the others.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_agent_api::agent::Stdio;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::container::terminal_size;
use crate::error::AgentError;
use crate::helper::{NewTerminal, TerminalSize, null_device};
use crate::relay::{self, Connections, PipeOutput, Terminal};
use crate::spec::Process;
use crate::stdio::{Connection, Parked};

/// The streams that a process is to have, with their connections to the host.
#[derive(Debug)]
pub(crate) struct Streams {
    terminal: Option<NewTerminal>,
    connections: Claimed,
}

#[derive(Debug)]
struct Claimed {
    stdin: Option<Connection>,
    stdout: Option<Connection>,
    stderr: Option<Connection>,
}

impl Claimed {
    fn claim(stdio: &Stdio, parked: &Parked) -> Result<Self, AgentError> {
        let claim = |token: &str| match token {
            "" => Ok(None),
            token => match parked.claim(token) {
                Some(connection) => Ok(Some(connection)),
                None => Err(AgentError::NotFound {
                    kind: "stdio stream",
                    id: token.to_owned(),
                }),
            },
        };
        Ok(Self {
            stdin: claim(&stdio.stdin)?,
            stdout: claim(&stdio.stdout)?,
            stderr: claim(&stdio.stderr)?,
        })
    }
}

impl Streams {
    /// Claims the connections that the host names.
    pub(crate) fn claim(stdio: &Stdio, parked: &Parked) -> Result<Self, AgentError> {
        if stdio.terminal && !stdio.stderr.is_empty() {
            return Err(AgentError::Invalid {
                field: "stdio.stderr",
                value: stdio.stderr.clone(),
            });
        }
        let terminal = if stdio.terminal {
            Some(NewTerminal {
                size: terminal_size(stdio.columns, stdio.rows)?,
                bare_newlines: stdio.bare_newlines,
            })
        } else {
            None
        };
        Ok(Self {
            terminal,
            connections: Claimed::claim(stdio, parked)?,
        })
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// As the host says, and of the size that the process asks for where the host names none.
    pub(crate) fn new_terminal(&self, process: &Process) -> NewTerminal {
        let mut terminal = self.terminal.unwrap_or_default();
        let unknown = terminal.size.columns == 0 || terminal.size.rows == 0;
        if let (true, Some(size)) = (unknown, process.console_size) {
            terminal.size = TerminalSize {
                columns: size.width,
                rows: size.height,
            };
        }
        terminal
    }
}

/// Our side of a process's streams.
#[derive(Debug, Default)]
pub(super) struct Plumbing {
    stdin: Option<mpsc::Sender<Connection>>,
    stdout: Option<mpsc::Sender<Connection>>,
    stderr: Option<mpsc::Sender<Connection>>,
    outputs: Outputs,
    input_relay: Option<JoinHandle<()>>,
    output_relays: Vec<JoinHandle<()>>,
}

/// What is asked for the number of bytes written.
#[derive(Debug, Clone, Default)]
pub(super) struct Outputs {
    stdout: Option<Arc<PipeOutput>>,
    stderr: Option<Arc<PipeOutput>>,
    terminal: Option<Arc<Terminal>>,
}

impl Outputs {
    /// Bytes written to standard output and error so far.
    pub(super) fn written(&self) -> (u64, u64) {
        if let Some(terminal) = &self.terminal {
            return (terminal.written(), 0);
        }
        let written =
            |output: &Option<Arc<PipeOutput>>| output.as_ref().map_or(0, |output| output.written());
        (written(&self.stdout), written(&self.stderr))
    }
}

/// The connections of a stream, beginning with the first.
fn connections(first: Connection) -> (mpsc::Sender<Connection>, Connections) {
    let (sender, receiver) = mpsc::channel(1);
    // There is room for one.
    let _sent = sender.try_send(first);
    (sender, receiver)
}

impl Plumbing {
    /// Pipes for the streams that the host has connections for, the null device for the others.
    /// Also returns the process's ends: standard input, output, error.
    pub(super) fn pipes(streams: Streams) -> Result<(Self, Vec<OwnedFd>), AgentError> {
        let failed = || AgentError::io("make the process's streams");
        let Claimed {
            stdin,
            stdout,
            stderr,
        } = streams.connections;
        let mut plumbing = Self::default();
        let mut process = Vec::with_capacity(3);
        match stdin {
            None => process.push(null_device().map_err(failed())?),
            Some(connection) => {
                let ends = relay::input_pipe().map_err(failed())?;
                let (sender, receiver) = connections(connection);
                process.push(ends.process);
                plumbing.stdin = Some(sender);
                plumbing.input_relay = Some(tokio::spawn(relay::relay_input(ends.ours, receiver)));
            }
        }
        for (number, connection) in [stdout, stderr].into_iter().enumerate() {
            let Some(connection) = connection else {
                process.push(null_device().map_err(failed())?);
                continue;
            };
            let ends = relay::output_pipe().map_err(failed())?;
            let output = PipeOutput::new(ends.ours);
            let (sender, receiver) = connections(connection);
            process.push(ends.process);
            let relay = tokio::spawn(Arc::clone(&output).relay(receiver));
            plumbing.output_relays.push(relay);
            if number == 0 {
                plumbing.stdout = Some(sender);
                plumbing.outputs.stdout = Some(output);
            } else {
                plumbing.stderr = Some(sender);
                plumbing.outputs.stderr = Some(output);
            }
        }
        Ok((plumbing, process))
    }

    /// Both directions of a terminal.
    pub(super) fn terminal(streams: Streams, main: OwnedFd) -> Result<Self, AgentError> {
        let terminal = Terminal::new(main).map_err(AgentError::io("serve the terminal"))?;
        let mut plumbing = Self::default();
        if let Some(connection) = streams.connections.stdin {
            let (sender, receiver) = connections(connection);
            plumbing.stdin = Some(sender);
            let relay = Arc::clone(&terminal).relay_input(receiver);
            plumbing.input_relay = Some(tokio::spawn(relay));
        }
        let output = Arc::clone(&terminal);
        let relay = match streams.connections.stdout {
            Some(connection) => {
                let (sender, receiver) = connections(connection);
                plumbing.stdout = Some(sender);
                tokio::spawn(output.relay_output(receiver))
            }
            None => tokio::spawn(output.discard_output()),
        };
        plumbing.output_relays.push(relay);
        plumbing.outputs.terminal = Some(terminal);
        Ok(plumbing)
    }

    pub(super) fn outputs(&self) -> Outputs {
        self.outputs.clone()
    }

    pub(super) fn resize(&self, size: TerminalSize) -> Option<std::io::Result<()>> {
        let terminal = self.outputs.terminal.as_ref()?;
        Some(terminal.resize(size))
    }

    /// Gives streams whose connections broke new ones. A stream that the process does not have, or
    /// that has come to its end, is dropped, which closes it.
    pub(super) fn attach(&self, stdio: &Stdio, parked: &Parked) -> Result<(), AgentError> {
        let claimed = Claimed::claim(stdio, parked)?;
        let pairs = [
            (&self.stdin, claimed.stdin),
            (&self.stdout, claimed.stdout),
            (&self.stderr, claimed.stderr),
        ];
        for (sender, connection) in pairs {
            if let (Some(sender), Some(connection)) = (sender, connection) {
                // Full: the one before it was not even looked at yet, and will be first.
                let _queued = sender.try_send(connection);
            }
        }
        Ok(())
    }

    /// Nobody reads standard input any more.
    pub(super) fn end_input(&self) -> Option<tokio::task::AbortHandle> {
        self.input_relay.as_ref().map(JoinHandle::abort_handle)
    }

    /// Lets go of all streams.
    pub(super) fn close(&self) {
        for relay in self.input_relay.iter().chain(&self.output_relays) {
            relay.abort();
        }
    }
}
