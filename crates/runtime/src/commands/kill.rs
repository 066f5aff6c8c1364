//! `kill`.

use hull_shim::client::signals;

use super::Context;
use crate::arguments::KillArgs;
use crate::container::{ALIVE, Container};
use crate::error::RuntimeError;

/// Sends a signal to a container's first process, or to all.
pub(super) async fn kill(context: &Context, args: &KillArgs) -> Result<(), RuntimeError> {
    let signal = parse(&args.signal)
        .ok_or_else(|| RuntimeError::Invalid(format!("unknown signal {:?}", args.signal)))?;
    let container = Container::find(&context.store, &args.id).await?;
    match send(&container, signal, args.all).await {
        // Nothing of it is left that could be meant. Engines then look by themselves whether its process is there.
        Err(RuntimeError::NotRunning) => {
            container.gone().await;
            match args.all {
                true => Ok(()),
                false => Err(RuntimeError::NotRunning),
            }
        }
        sent => sent,
    }
}

async fn send(container: &Container, signal: u32, all: bool) -> Result<(), RuntimeError> {
    let pod = container.pod_if("signal", &ALIVE).await?;
    Ok(pod.kill("", signal, all).await?)
}

/// A number, or a name with or without `SIG`, real-time signals as `RTMIN+3` and `RTMAX-3`. 0 is none, and asks.
fn parse(text: &str) -> Option<u32> {
    match text.parse() {
        Ok(0) => Some(0),
        Ok(_) | Err(_) => signals::parse(text).or_else(|| from_last(text)),
    }
}

/// A real-time signal, counted from the last.
fn from_last(text: &str) -> Option<u32> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = match name.strip_prefix("RTMAX")? {
        "" => 0,
        offset => offset.strip_prefix('-')?.parse().ok()?,
    };
    u32::try_from(libc::SIGRTMAX())
        .ok()?
        .checked_sub(offset)
        .filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn signals_have_numbers_and_names() {
        for (text, number) in [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("SIGTERM", Some(15)),
            ("sigusr1", Some(10)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX", Some(64)),
            ("RTMAX-3", Some(61)),
            ("64", Some(64)),
            ("0", Some(0)),
            ("65", None),
            ("NOPE", None),
            ("RTMIN3", None),
            ("RTMAX+3", None),
            ("RTMIN-3", None),
            ("", None),
        ] {
            assert_eq!(parse(text), number, "{text}");
        }
    }
}
