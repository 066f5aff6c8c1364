//! Signals that this program gets, for the process in the container.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The highest signal number in Linux.
const LAST: u32 = 64;
/// The first real-time signal that programs may use.
const RTMIN: u32 = 34;

/// Reads `9`, `KILL`, `SIGKILL` or `RTMIN+3`.
#[must_use]
pub fn parse(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return Some(number).filter(|number| (1..=LAST).contains(number));
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: u32 = match offset.strip_prefix('+') {
            Some(offset) => offset.parse().ok()?,
            None if offset.is_empty() => 0,
            None => return None,
        };
        return RTMIN.checked_add(offset).filter(|number| *number <= LAST);
    }
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().ok()?;
    u32::try_from(signal as libc::c_int).ok()
}

/// Passed on, as a shell's child would get them.
const PASSED_ON: [libc::c_int; 6] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// The signals that arrive. From its making on, they end this program no more.
#[derive(Debug)]
pub struct Signals {
    passed_on: Vec<(u32, Signal)>,
    resized: Signal,
}

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A signal to pass on.
    Signal(u32),
    /// The terminal has another size.
    Resized,
}

impl Signals {
    /// Catches them. Those that were ignored when this program began (`nohup`, a shell's background
    /// jobs) stay so.
    pub fn catch() -> io::Result<Self> {
        let mut passed_on = Vec::new();
        for number in PASSED_ON {
            if !is_ignored(number) {
                let kind = SignalKind::from_raw(number);
                passed_on.push((u32::try_from(number).unwrap_or_default(), signal(kind)?));
            }
        }
        Ok(Self {
            passed_on,
            resized: signal(SignalKind::window_change())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Event {
        let Self { passed_on, resized } = self;
        std::future::poll_fn(|context| {
            for (number, signal) in passed_on.iter_mut() {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(Event::Signal(*number));
                }
            }
            resized.poll_recv(context).map(|_| Event::Resized)
        })
        .await
    }

    /// Lets them end this program again. For when there is nothing left to do but to say how it went, as
    /// nobody may read that.
    pub fn let_go(&self) {
        for (number, _) in &self.passed_on {
            let number = i32::try_from(*number).unwrap_or_default();
            // SAFETY: the default action runs no code of this program. What the runtime keeps for its own
            // handler is only not used any more.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }

    /// The next one that asks this program to end; others go by.
    pub async fn interrupted(&mut self) -> u32 {
        loop {
            if let Event::Signal(number) = self.next().await {
                return number;
            }
        }
    }
}

fn is_ignored(number: libc::c_int) -> bool {
    // SAFETY: a zeroed `sigaction` is a valid buffer for the kernel to fill.
    let mut current: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is changed, as no new action is given, and the buffer outlives the call.
    let result = unsafe { libc::sigaction(number, std::ptr::null(), &raw mut current) };
    result == 0 && current.sa_sigaction == libc::SIG_IGN
}
