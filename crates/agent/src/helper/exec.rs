//! Starting a further process in a container.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sched::CloneFlags;
use nix::unistd::{Pid, setsid};

use super::error::{Context, SetupError};
use super::namespaces::Owner;
use super::protocol::{FromInit, NewTerminal};
use super::seccomp::Filter;
use super::{ExecRequest, Made, console, create, process, tuning};
use crate::spec::{CpuAffinity, Personality, Process};
use crate::sys::clone::{Cloned, clone_sibling, exit_now};
use crate::sys::socket;

/// Starts the process; it runs its program when this returns.
pub(super) fn run(
    request: ExecRequest,
    mut fds: Vec<OwnedFd>,
    agent: &UnixStream,
) -> Result<Made, SetupError> {
    let ExecRequest {
        id,
        process,
        cgroup,
        uid_mappings,
        cgroup_namespace,
        personality,
        filter,
        terminal,
    } = request;
    let streams = fds.split_off(1.min(fds.len()));
    let init = fds.pop().ok_or_else(|| SetupError::Invalid {
        field: "descriptors",
        value: "none".to_owned(),
    })?;
    if let Some(score) = process.oom_score_adj {
        create::set_oom_score(score)?;
    }
    nix::sys::prctl::set_dumpable(false).when("hide this process's memory")?;
    let cgroup_fd = File::open(&cgroup).at("open the cgroup", &cgroup)?;
    tuning::set_affinity(CpuAffinity::on_entry(process.exec_cpu_affinity.as_ref()))?;
    process::give_streams(&streams, process.user.uid, &uid_mappings)?;
    let user_namespace = !uid_mappings.is_empty();
    if user_namespace {
        // Once inside, the rights to raise limits are gone.
        tuning::set_rlimits(tuning::SELF, &process.rlimits)?;
    }
    let owner = Owner::new(init);
    owner.join(user_namespace)?;
    let (parent, child) = UnixStream::pair().when("make a socket to the process")?;
    // SAFETY: helpers are single-threaded.
    let cloned = unsafe { clone_sibling(CloneFlags::empty(), Some(cgroup_fd.as_fd())) };
    match cloned.when("make the process")? {
        Cloned::Child => {
            drop(parent);
            let new = New {
                id,
                process,
                set_rlimits: !user_namespace,
                user_namespace,
                personality,
                cgroup_namespace_of: cgroup_namespace.then_some(owner),
                filter,
                terminal,
                streams,
                helper: child,
            };
            // SAFETY: the child never uses the helper's socket to the agent again, nor drops it.
            unsafe { libc::close(agent.as_raw_fd()) };
            new.run()
        }
        Cloned::Parent(pid) => {
            drop((child, streams));
            wait_until_it_runs(pid, &parent)
        }
    }
}

fn wait_until_it_runs(pid: Pid, child: &UnixStream) -> Result<Made, SetupError> {
    let mut ready = None;
    loop {
        match socket::receive::<FromInit>(child).when("hear from the process")? {
            Some((FromInit::Failed(failure), _)) => return Err(SetupError::Relayed(failure)),
            Some((FromInit::Ready, fds)) => ready = Some(fds.into_iter().next()),
            Some((FromInit::RootMounted, _)) => {}
            // execve closed it, or the end of a process that never got so far.
            None => {
                let terminal = ready.ok_or(SetupError::InitEnded)?;
                return Ok(Made { pid, terminal });
            }
        }
    }
}

/// The process while it is being made.
struct New {
    id: String,
    process: Process,
    set_rlimits: bool,
    user_namespace: bool,
    personality: Option<Personality>,
    cgroup_namespace_of: Option<Owner>,
    filter: Option<Filter>,
    terminal: NewTerminal,
    streams: Vec<OwnedFd>,
    helper: UnixStream,
}

impl New {
    fn run(self) -> ! {
        let error = match self.set_up() {
            Ok(settled) => settled.run(),
            Err(error) => error,
        };
        // The helper sees the end of this process if it cannot be told.
        let _told = socket::send(&self.helper, &FromInit::Failed(error.into()), &[]);
        exit_now(1)
    }

    fn set_up(&self) -> Result<process::Settled<'_>, SetupError> {
        if let Some(owner) = &self.cgroup_namespace_of {
            owner.join_cgroup_namespace()?;
        }
        if self.user_namespace {
            super::init::become_root()?;
        }
        setsid().when("make a session")?;
        let uid = self.process.user.uid;
        let terminal = if self.process.terminal {
            Some(console::open(self.terminal, uid, false)?)
        } else {
            process::take_streams(&self.streams)?;
            None
        };
        if self.set_rlimits {
            tuning::set_rlimits(tuning::SELF, &self.process.rlimits)?;
        }
        if let Some(personality) = &self.personality {
            tuning::set_personality(personality)?;
        }
        let settled = process::settle(&self.process, self.filter.as_ref(), &self.id)?;
        let fds: Vec<_> = terminal.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
        socket::send(&self.helper, &FromInit::Ready, &fds).when("report to the helper")?;
        Ok(settled)
    }
}
