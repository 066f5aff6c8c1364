//! `hull-agent`: PID 1 of a Hull guest, which runs the pod's containers for the host.
//!
//! - Started by the kernel, it brings the guest up ([`boot`]) and serves the host over vsock
//!   ([`server`]).
//! - Started with `serve DIRECTORY`, it serves over Unix sockets in that directory instead, in
//!   whatever namespaces and cgroup hierarchy it finds itself. That needs no virtual machine, and is
//!   how most of its tests run it.

mod boot;
mod cgroup;
mod container;
mod error;
mod events;
mod forward;
mod guest;
mod helper;
mod kmsg;
mod launch;
mod listen;
mod names;
mod net;
mod notify;
mod process;
mod reaper;
mod relay;
mod rpc;
mod sandbox;
mod server;
mod size;
mod spec;
mod stdio;
mod storage;
mod sys;
mod sysctl;
mod watch;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use listen::Transport;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    // The kernel passes on words of its command line that it does not know.
    if boot::is_first_process() {
        return be_guest();
    }
    match (first.as_deref().and_then(OsStr::to_str), arguments.next()) {
        (Some("serve"), Some(directory)) => {
            kmsg::start(false);
            serve_directory(directory.into())
        }
        _ => {
            eprintln!(
                "hull-agent is started by a guest's kernel, or as: hull-agent serve DIRECTORY"
            );
            ExitCode::from(2)
        }
    }
}

/// Never returns in health. The kernel panics when this process ends, and so the host learns of it.
fn be_guest() -> ExitCode {
    let result = boot::boot().and_then(|()| serve(&Transport::Vsock));
    match result {
        Ok(()) => sandbox::restart_machine(),
        Err(error) => log::error!("{error:#}"),
    }
    ExitCode::FAILURE
}

fn serve(transport: &Transport) -> anyhow::Result<()> {
    // SAFETY: nothing has started a thread so far.
    let helpers = unsafe { helper::start_server() }.context("cannot start the maker of helpers")?;
    server::run(transport, helpers)
}

fn serve_directory(directory: PathBuf) -> ExitCode {
    let prepared = cgroup::prepare()
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(std::fs::create_dir_all(helper::ASSEMBLY_POINT)?));
    let result = prepared.and_then(|()| serve(&Transport::Directory(directory)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
