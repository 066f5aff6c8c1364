//! Where errors and warnings are told: the standard error, and the file that an engine reads.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::json;

use crate::arguments::{GlobalArgs, LogFormat};

/// Where errors and warnings go.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
}

impl Log {
    pub(crate) fn new(arguments: &GlobalArgs) -> Self {
        Self {
            file: arguments.log.clone(),
            format: arguments.log_format,
        }
    }

    /// Tells of an error.
    pub(crate) fn error(&self, message: &str) {
        eprintln!("hull-runtime: {message}");
        self.write("error", message);
    }

    /// Tells of what is not as it was asked for, and is no reason to fail.
    pub(crate) fn warning(&self, message: &str) {
        eprintln!("hull-runtime: warning: {message}");
        self.write("warning", message);
    }

    /// Nobody is left to be told when that fails.
    fn write(&self, level: &str, message: &str) {
        let Some(path) = &self.file else {
            return;
        };
        let now = humantime::format_rfc3339_nanos(SystemTime::now());
        let line = match self.format {
            LogFormat::Json => {
                json!({"level": level, "msg": message, "time": now.to_string()}).to_string()
            }
            LogFormat::Text => format!("time={now} level={level} msg={message:?}"),
        };
        let file = File::options().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
            eprintln!("hull-runtime: cannot write {}: {error}", path.display());
        }
    }
}
