//! Commands about this program: `version`, `config`, `completions` and `man`.

use std::io;
use std::path::Path;

use clap::{Command as ClapCommand, CommandFactory};
use serde_json::json;

use super::{CommandError, print};
use crate::arguments::{Arguments, CompletionsArgs, ConfigCommand, ManArgs, VersionArgs};

/// `hull version`.
pub(crate) fn version(args: &VersionArgs) -> Result<u8, CommandError> {
    let guest = hull_sandbox::GuestFiles::find().ok();
    let kernel = guest
        .as_ref()
        .map(|guest| guest.kernel.display().to_string());
    if args.json {
        return print(&format!(
            "{:#}\n",
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "agent_protocol": hull_agent_api::hello::PROTOCOL,
                "guest_kernel": kernel,
            })
        ));
    }
    print(&format!(
        "hull            {}\nagent protocol  {}\nguest kernel    {}\n",
        env!("CARGO_PKG_VERSION"),
        hull_agent_api::hello::PROTOCOL,
        kernel.as_deref().unwrap_or("none found"),
    ))
}

/// `hull completions`.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<u8, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "hull", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// `hull man`.
pub(crate) fn man(args: &ManArgs) -> Result<u8, CommandError> {
    let failed = |error| CommandError::System("write the manual pages", error);
    std::fs::create_dir_all(&args.output).map_err(failed)?;
    let mut command = Arguments::command();
    command.build();
    pages(&command, "hull", &args.output).map_err(failed)?;
    Ok(0)
}

/// Writes the page of a command and of those below it: `hull-run.1` and so on.
fn pages(command: &ClapCommand, name: &str, dir: &Path) -> io::Result<()> {
    let page = clap_mangen::Man::new(command.clone()).title(name.to_uppercase());
    let mut text = Vec::new();
    page.render(&mut text)?;
    std::fs::write(dir.join(format!("{name}.1")), text)?;
    for below in command
        .get_subcommands()
        .filter(|below| below.get_name() != "help")
    {
        pages(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    Ok(())
}

/// `hull config`.
pub(crate) fn config(command: &ConfigCommand) -> Result<u8, CommandError> {
    match command {
        ConfigCommand::Show => print(&hull_config::Config::load(None)?.to_text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("man1");
        man(&ManArgs {
            output: output.clone(),
        })
        .unwrap();
        for page in ["hull.1", "hull-run.1", "hull-volume-rm.1"] {
            let text = std::fs::read_to_string(output.join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
    }
}
