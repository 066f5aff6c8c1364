//! The program, its arguments and its environment.

use oci_spec::image::Config;
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User};

use super::{Identity, Request};
use crate::values::environment::{self as variables, Variable};

/// Where programs are found when the image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files of a process, soft and hard, unless asked otherwise.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// Why there is nothing to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// Neither the image nor the person names a program.
    #[error("no command: the image has none, so name one after the image")]
    Missing,
}

/// The program and its arguments: the person's entry point or the image's, then the person's command
/// or (with the image's own entry point) the image's. An empty entry point takes the image's away.
pub(crate) fn command(
    image: Option<&Config>,
    entrypoint: Option<&str>,
    command: &[String],
) -> Result<Vec<String>, CommandError> {
    let of_image = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let mut args = match entrypoint {
        Some("") => Vec::new(),
        Some(program) => vec![program.to_owned()],
        None => of_image(image.and_then(|image| image.entrypoint().as_ref())),
    };
    if command.is_empty() && entrypoint.is_none() {
        args.extend(of_image(image.and_then(|image| image.cmd().as_ref())));
    } else {
        args.extend_from_slice(command);
    }
    // An empty program name can only come from the image or from "" as the command.
    if args.first().is_none_or(String::is_empty) {
        return Err(CommandError::Missing);
    }
    Ok(args)
}

/// The environment: defaults, then the image's, then the person's.
pub(crate) fn environment(
    image: Option<&Config>,
    variables: impl IntoIterator<Item = Variable>,
    hostname: &str,
    home: &str,
    terminal: bool,
) -> Vec<String> {
    let mut env = vec![
        format!("PATH={DEFAULT_PATH}"),
        format!("HOSTNAME={hostname}"),
        format!("HOME={home}"),
    ];
    if terminal {
        env.push("TERM=xterm".to_owned());
    }
    let of_image = image
        .and_then(|image| image.env().as_ref())
        .into_iter()
        .flatten();
    // What is no variable in an image is left out: no program could see it.
    let of_image = of_image.filter_map(|text| variables::parse(text).ok());
    let set = of_image.filter(|variable| matches!(variable, Variable::Set(..)));
    variables::apply(&mut env, set);
    variables::apply(&mut env, variables);
    env
}

/// Writes an identity into a process's user.
pub(crate) fn user(identity: &Identity) -> User {
    let mut user = User::default();
    user.set_uid(identity.uid);
    user.set_gid(identity.gid);
    user.set_additional_gids(Some(identity.additional_gids.clone()));
    user
}

pub(super) fn process(request: &Request) -> Process {
    let mut process = Process::default();
    process.set_terminal(Some(request.terminal));
    process.set_user(user(&request.identity));
    process.set_args(Some(request.args.clone()));
    process.set_env(Some(request.env.clone()));
    process.set_cwd(request.cwd.clone());
    process.set_capabilities(Some(request.capabilities.to_oci()));
    process.set_no_new_privileges(Some(request.no_new_privileges));
    process.set_rlimits(Some(rlimits(&request.rlimits)));
    process
}

/// A resource limit.
pub(crate) fn rlimit(typ: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
    let builder = PosixRlimitBuilder::default().typ(typ).soft(soft).hard(hard);
    builder.build().expect("all fields are given")
}

fn rlimits(asked: &[PosixRlimit]) -> Vec<PosixRlimit> {
    let mut limits = asked.to_vec();
    if !asked
        .iter()
        .any(|limit| limit.typ() == PosixRlimitType::RlimitNofile)
    {
        let (soft, hard) = OPEN_FILES;
        limits.push(rlimit(PosixRlimitType::RlimitNofile, soft, hard));
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(entrypoint: &[&str], cmd: &[&str]) -> Config {
        let list = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect());
        let mut config = Config::default();
        config.set_entrypoint(list(entrypoint));
        config.set_cmd(list(cmd));
        config
    }

    fn run(entrypoint: Option<&str>, args: &[&str]) -> Result<Vec<String>, CommandError> {
        let args: Vec<_> = args.iter().map(|s| (*s).to_owned()).collect();
        command(Some(&image(&["ep"], &["cmd", "1"])), entrypoint, &args)
    }

    #[test]
    fn entry_point_and_command_combine_as_in_docker() {
        assert_eq!(run(None, &[]).unwrap(), ["ep", "cmd", "1"]);
        assert_eq!(run(None, &["x"]).unwrap(), ["ep", "x"]);
        assert_eq!(run(Some("other"), &[]).unwrap(), ["other"]);
        assert_eq!(run(Some("other"), &["x"]).unwrap(), ["other", "x"]);
        assert_eq!(run(Some(""), &["x"]).unwrap(), ["x"]);
        assert_eq!(run(Some(""), &[]), Err(CommandError::Missing));
        assert_eq!(command(None, None, &[]), Err(CommandError::Missing));
    }

    #[test]
    fn the_environment_is_layered() {
        let mut config = Config::default();
        let of_image = ["PATH=/x", "A=image", "broken"];
        config.set_env(Some(of_image.map(str::to_owned).into()));
        let asked = [Variable::Set("A".to_owned(), "asked".to_owned())];
        let env = environment(Some(&config), asked, "box", "/root", true);
        assert_eq!(
            env,
            [
                "PATH=/x",
                "HOSTNAME=box",
                "HOME=/root",
                "TERM=xterm",
                "A=asked"
            ]
        );
    }

    #[test]
    fn an_asked_limit_replaces_the_default() {
        let asked = crate::values::ulimit::parse("nofile=10").unwrap();
        assert_eq!(rlimits(&[asked]).len(), 1);
        assert_eq!(rlimits(&[]).len(), 1);
    }
}
