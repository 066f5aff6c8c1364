//! `hull logs`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{CommandError, Context};
use crate::arguments::LogsArgs;
use crate::container::{Container, State, StoreError, settle};

/// `hull logs`.
pub(crate) async fn logs(context: &Context, args: &LogsArgs) -> Result<u8, CommandError> {
    let settled = settle(context.store.find(&args.container)?).await?;
    let container = settled.ok_or_else(|| StoreError::NotFound(args.container.clone()))?;
    let mut printer = Printer {
        timestamps: args.timestamps,
        line: Vec::new(),
    };
    // Watched before the file is read: nothing comes in between.
    let watch = match args.follow {
        true => Some(Watch::new(&container)?),
        false => None,
    };
    let Some(mut log) = open(&container)? else {
        // Never started, or started a moment ago: nothing has been written.
        return Ok(0);
    };
    let printed = match args.tail {
        None => printer.print_rest(&mut log),
        Some(lines) => printer.print_last(&mut log, lines),
    };
    finish(printed)?;
    if let Some(watch) = watch {
        follow(container, &watch, &mut printer, &mut log).await?;
    }
    Ok(0)
}

fn open(container: &Container) -> Result<Option<BufReader<File>>, CommandError> {
    match File::open(container.dir.log()) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CommandError::System("open the container's log", error)),
    }
}

/// A reader that has read enough closes our output; that is its right.
fn finish(printed: io::Result<()>) -> Result<(), CommandError> {
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::System("show the container's log", error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn follow(
    container: Container,
    watch: &Watch,
    printer: &mut Printer,
    log: &mut BufReader<File>,
) -> Result<(), CommandError> {
    loop {
        // The state first: what was written before the end is there when the end is seen.
        let now = Container::read(container.dir.clone())?;
        let runs = now.is_some_and(|now| matches!(now.state(), State::Running { .. }));
        match printer.print_rest(log) {
            Ok(()) => {}
            Err(error) => return finish(Err(error)),
        }
        if !runs {
            return Ok(());
        }
        watch.changed().await?;
    }
}

/// Tells when something happens in a container's directory.
struct Watch(Arc<Inotify>);

impl Watch {
    fn new(container: &Container) -> Result<Self, CommandError> {
        let failed =
            |error: nix::Error| CommandError::System("watch the container's log", error.into());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(failed)?;
        let events = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF;
        inotify
            .add_watch(&container.dir.data, events)
            .map_err(failed)?;
        Ok(Self(Arc::new(inotify)))
    }

    /// Which event it was does not matter: the log and the state are read again after any.
    async fn changed(&self) -> Result<(), CommandError> {
        let inotify = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || inotify.read_events());
        let read = read.await.expect("reading does not panic");
        read.map(drop)
            .map_err(|error| CommandError::System("watch the container's log", error.into()))
    }
}

/// Writes entries of the CRI log format as they were said.
struct Printer {
    timestamps: bool,
    /// The part of an entry that has been read.
    line: Vec<u8>,
}

/// An entry: `TIME STREAM TAG TEXT`.
struct Entry<'a> {
    time: &'a [u8],
    to_stderr: bool,
    /// The program wrote a line end here.
    full: bool,
    text: &'a [u8],
}

impl<'a> Entry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.strip_suffix(b"\n")?.splitn(4, |byte| *byte == b' ');
        let (time, stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self {
            time,
            to_stderr: stream == b"stderr",
            full: tag != b"P",
            text: fields.next()?,
        })
    }
}

impl Printer {
    fn print_rest(&mut self, log: &mut impl BufRead) -> io::Result<()> {
        let (mut stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
        loop {
            log.read_until(b'\n', &mut self.line)?;
            if !self.line.ends_with(b"\n") {
                // The rest of this entry is still to come.
                return stdout.flush();
            }
            self.print(&mut stdout, &mut stderr)?;
            self.line.clear();
        }
    }

    fn print_last(&mut self, log: &mut impl BufRead, lines: usize) -> io::Result<()> {
        let mut last = VecDeque::new();
        let mut rest = Vec::new();
        loop {
            rest.clear();
            log.read_until(b'\n', &mut rest)?;
            if !rest.ends_with(b"\n") {
                break;
            }
            last.push_back(rest.clone());
            if last.len() > lines {
                last.pop_front();
            }
        }
        let (mut stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
        for line in last {
            self.line = line;
            self.print(&mut stdout, &mut stderr)?;
        }
        self.line = rest;
        stdout.flush()
    }

    fn print(&self, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<()> {
        // A line that is no entry is not ours and is left out.
        let Some(entry) = Entry::parse(&self.line) else {
            return Ok(());
        };
        let out: &mut dyn Write = if entry.to_stderr { stderr } else { stdout };
        if self.timestamps {
            out.write_all(entry.time)?;
            out.write_all(b" ")?;
        }
        out.write_all(entry.text)?;
        if entry.full || self.timestamps {
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] =
        b"T1 stdout F one\nT2 stderr F two words\nnonsense\nT3 stdout P thr\nT4 stdout F ee\n";

    fn print(timestamps: bool, tail: Option<usize>) -> (String, String) {
        let printer = Printer {
            timestamps,
            line: Vec::new(),
        };
        let lines: Vec<_> = LOG.split_inclusive(|byte| *byte == b'\n').collect();
        let first = tail.map_or(0, |tail| lines.len() - tail);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for line in &lines[first..] {
            let one = Printer {
                line: line.to_vec(),
                ..printer
            };
            one.print(&mut out, &mut err).unwrap();
        }
        (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    #[test]
    fn entries_are_shown_as_they_were_said() {
        assert_eq!(
            print(false, None),
            ("one\nthree\n".into(), "two words\n".into())
        );
        let (out, _) = print(true, Some(1));
        assert_eq!(out, "T4 ee\n");
    }

    #[test]
    fn an_entry_needs_all_its_fields_and_its_end() {
        for line in [&b"T stdout F x"[..], b"T stdout F\n", b"\n", b""] {
            assert!(Entry::parse(line).is_none());
        }
        assert!(Entry::parse(b"T stdout F \n").is_some_and(|entry| entry.text.is_empty()));
    }
}
