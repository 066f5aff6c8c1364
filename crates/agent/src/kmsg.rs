//! The agent's log: the kernel's, which the host reads from the console.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Metadata, Record};

/// The kernel cuts longer messages off.
const MAX_LINE: usize = 900;

struct Kmsg {
    file: Option<File>,
}

impl log::Log for Kmsg {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The RPC library reports each closed connection as an error.
        metadata.level() <= log::max_level() && !metadata.target().starts_with("ttrpc")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = one_line(&record.args().to_string());
        let priority = priority(record.level());
        // A log that cannot be written has nowhere to say so.
        let _written = match self.file.as_ref() {
            // One write is one message.
            Some(mut file) => {
                file.write_all(format!("<{priority}>hull-agent: {text}\n").as_bytes())
            }
            None => writeln!(std::io::stderr(), "hull-agent: {text}"),
        };
    }

    fn flush(&self) {}
}

/// As syslog(2) numbers them.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Without what would end a line or move a terminal's cursor.
fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if line.len() > MAX_LINE {
        let end = (0..=MAX_LINE).rev().find(|&at| line.is_char_boundary(at));
        line.truncate(end.unwrap_or(0));
    }
    line
}

/// Logs to the kernel, or to standard error where the kernel does not take it.
pub(crate) fn start(to_kernel: bool) {
    static LOGGER: OnceLock<Kmsg> = OnceLock::new();
    let logger = LOGGER.get_or_init(|| Kmsg {
        file: to_kernel
            .then(|| File::options().write(true).open("/dev/kmsg").ok())
            .flatten(),
    });
    // Fails only when a logger is set already, which is then this one.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_bounded_line() {
        assert_eq!(one_line("a\nb\tc"), "a b c");
        assert!(one_line(&"ä".repeat(MAX_LINE)).len() <= MAX_LINE);
    }
}
