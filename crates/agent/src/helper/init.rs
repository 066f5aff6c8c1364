//! The container's first process, from clone to execve.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};

use super::error::{Context, SetupError};
use super::hooks::HookState;
use super::mounts::{self, Prepared, Setting};
use super::process::{self, Settled};
use super::protocol::{FromInit, NewTerminal, Proceed, StartFailure};
use super::seccomp::Filter;
use super::{console, devices, hooks, rootfs, tuning};
use crate::spec::{NamespaceKind, Spec};
use crate::sys::clone::exit_now;
use crate::sys::path::{Missing, ensure_in_root};
use crate::sys::{check, socket};

/// Everything that init works with; made before the clone.
#[derive(Debug)]
pub(super) struct Init {
    pub(super) spec: Spec,
    pub(super) root: OwnedFd,
    pub(super) mounts: Vec<Prepared>,
    pub(super) filter: Option<Filter>,
    pub(super) cgroup: PathBuf,
    pub(super) terminal: NewTerminal,
    pub(super) hook_state: HookState,
    pub(super) new_user_namespace: bool,
    pub(super) new_network_namespace: bool,
    /// To the helper.
    pub(super) helper: UnixStream,
    /// To the agent, which says here when to start.
    pub(super) start: UnixStream,
    pub(super) streams: Vec<OwnedFd>,
}

impl Init {
    /// Sets the container up, waits for the start, and becomes the container's program.
    pub(super) fn run(mut self) -> ! {
        match self.wait_for_helper() {
            Ok(pid) => self.hook_state.pid = pid,
            Err(error) => self.give_up(error),
        }
        let mut settled = match self.set_up() {
            Ok(settled) => settled,
            Err(error) => self.give_up(error),
        };
        // The helper reads "ready" and leaves; its socket is not needed any more.
        let mut go = [0];
        match (&self.start).read_exact(&mut go) {
            Ok(()) => {}
            // The agent gave the container up before it was started.
            Err(_) => exit_now(1),
        }
        let error = match self.run_start_hooks(&mut settled) {
            Ok(()) => settled.run(),
            Err(error) => error,
        };
        let failure: StartFailure = error.into();
        // Without the agent nobody is left to be told.
        let _told = socket::send(&self.start, &failure, &[]);
        exit_now(1)
    }

    fn give_up(&self, error: SetupError) -> ! {
        // The helper sees the end of this process if it cannot be told.
        let _told = socket::send(&self.helper, &FromInit::Failed(error.into()), &[]);
        exit_now(1)
    }

    fn set_up(&self) -> Result<Settled<'_>, SetupError> {
        if self.new_user_namespace {
            become_root()?;
        }
        setsid().when("make a session")?;
        let linux = &self.spec.linux;
        if linux.creates(NamespaceKind::Cgroup) {
            unshare(CloneFlags::CLONE_NEWCGROUP).when("make a cgroup namespace")?;
        }
        umask(Mode::empty());
        let root_propagation = rootfs::propagation(linux)?;
        let root = rootfs::assemble(&self.root, root_propagation)?;
        self.fill(&root)?;
        self.run_outer_hooks()?;
        // Opened while the guest's /proc is there: the container need not have one.
        let sysctls = open_sysctls(&self.spec.linux.sysctl)?;
        rootfs::enter(&root)?;
        umask(Mode::from_bits_truncate(0o022));
        self.make_working_directory()?;
        let terminal = self.take_standard_streams()?;
        self.name_host()?;
        if self.new_network_namespace {
            crate::net::loopback_up().when("bring the loopback interface up")?;
        }
        set_sysctls(sysctls)?;
        let process = &self.spec.process;
        rootfs::finish(
            &self.spec.linux,
            root_propagation,
            self.spec.root.readonly,
            &self.mounts,
        )?;
        if let Some(personality) = &self.spec.linux.personality {
            tuning::set_personality(personality)?;
        }
        let settled = process::settle(process, self.filter.as_ref(), &self.hook_state.id)?;
        let fds: Vec<_> = terminal.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
        socket::send(&self.helper, &FromInit::Ready, &fds).when("report to the helper")?;
        Ok(settled)
    }

    /// Waits for the helper's word, which comes with this process's pid.
    fn wait_for_helper(&self) -> Result<i32, SetupError> {
        match socket::receive::<Proceed>(&self.helper).when("hear from the helper")? {
            Some((proceed, _)) => Ok(proceed.pid),
            None => exit_now(1),
        }
    }

    fn fill(&self, root: &OwnedFd) -> Result<(), SetupError> {
        let propagation = rootfs::propagation(&self.spec.linux)?;
        let setting = Setting {
            root: root.as_fd(),
            linux: &self.spec.linux,
            cgroup: &self.cgroup,
            default_propagation: (!propagation.contains(nix::mount::MsFlags::MS_SHARED))
                .then_some(propagation),
        };
        for prepared in &self.mounts {
            mounts::mount(prepared, setting)?;
        }
        if devices::wanted(&self.spec.mounts) {
            let user_namespace = self.spec.linux.namespace(NamespaceKind::User).is_some();
            devices::create(root.as_fd(), &self.spec.linux.devices, user_namespace)?;
        }
        Ok(())
    }

    /// Hooks that run between the mounts and the change of the root: in the guest, by the helper,
    /// and in here.
    fn run_outer_hooks(&self) -> Result<(), SetupError> {
        let hooks = &self.spec.hooks;
        if !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() {
            socket::send(&self.helper, &FromInit::RootMounted, &[]).when("report to the helper")?;
            self.wait_for_helper()?;
        }
        hooks::run(
            "createContainer",
            &hooks.create_container,
            &self.hook_state,
            &[],
        )
    }

    /// Hooks that run as the program does: as its user, and under its filter.
    fn run_start_hooks(&self, settled: &mut Settled<'_>) -> Result<(), SetupError> {
        settled.restrict()?;
        hooks::run(
            "startContainer",
            &self.spec.hooks.start_container,
            &self.hook_state,
            settled.environment(),
        )
    }

    fn make_working_directory(&self) -> Result<(), SetupError> {
        let cwd = process::working_directory(&self.spec.process);
        let root = std::fs::File::open("/").at("open", Path::new("/"))?;
        ensure_in_root(root.as_fd(), cwd, Missing::Directory)
            .at("make the working directory", cwd)?;
        Ok(())
    }

    fn take_standard_streams(&self) -> Result<Option<OwnedFd>, SetupError> {
        let uid = self.spec.process.user.uid;
        if self.spec.process.terminal {
            console::open(self.terminal, uid, true).map(Some)
        } else {
            process::take_streams(&self.streams)?;
            Ok(None)
        }
    }

    fn name_host(&self) -> Result<(), SetupError> {
        if !self.spec.linux.creates(NamespaceKind::Uts) {
            return Ok(());
        }
        if !self.spec.hostname.is_empty() {
            nix::unistd::sethostname(&self.spec.hostname).when("set the host name")?;
        }
        let domain = &self.spec.domainname;
        if !domain.is_empty() {
            // SAFETY: the name is valid for its length and only read.
            check(unsafe { libc::setdomainname(domain.as_ptr().cast(), domain.len()) }.into())
                .when("set the domain name")?;
        }
        Ok(())
    }
}

/// In a new user namespace whose ids are mapped: its root.
pub(super) fn become_root() -> Result<(), SetupError> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[]).when("drop the groups")?;
    setresgid(gid, gid, gid).when("become root in the user namespace")?;
    setresuid(uid, uid, uid).when("become root in the user namespace")
}

/// The files behind the sysctls, with what goes into them. Files of the network, IPC and UTS
/// namespaces belong to those of the process that opens them.
pub(super) fn open_sysctls(
    sysctls: &BTreeMap<String, String>,
) -> Result<Vec<(std::fs::File, &str)>, SetupError> {
    let mut files = Vec::new();
    for (name, value) in sysctls {
        let path = crate::sysctl::path(name).ok_or_else(|| SetupError::Invalid {
            field: "linux.sysctl",
            value: name.clone(),
        })?;
        let file = std::fs::File::options()
            .write(true)
            .open(&path)
            .at("open the sysctl", &path)?;
        files.push((file, value.as_str()));
    }
    Ok(files)
}

pub(super) fn set_sysctls(sysctls: Vec<(std::fs::File, &str)>) -> Result<(), SetupError> {
    for (mut file, value) in sysctls {
        file.write_all(value.as_bytes()).when("set a sysctl")?;
    }
    Ok(())
}
