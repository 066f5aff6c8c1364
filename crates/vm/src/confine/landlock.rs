//! Which of the host's files a VMM reaches (kernel documentation, userspace-api/landlock).
//!
//! The rules are of files and directories, whatever their paths: a link that leads out of a directory leads nowhere,
//! and what a VMM was handed it opens again under `/proc/self/fd`. The kernel asks them when a file is opened, made,
//! removed, moved or run, not when it is looked for or looked at, nor when a socket is connected to by its path.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Once;

use landlock::{
    ABI, Access, AccessFs, AccessNet, AddRuleError, AddRulesError, BitFlags, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};

use crate::error::VmError;

/// What loads a program that is not complete in itself.
const LOADERS: [&str; 2] = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"];
/// Where it finds the program's libraries, besides those that were installed with the program.
const LIBRARIES: [&str; 6] = [
    "/etc/ld.so.cache",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
];
/// Where some systems have all of this, each program and library in a directory of its own.
const STORES: [&str; 2] = ["/nix/store", "/gnu/store"];

const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile});
const RUN: BitFlags<AccessFs> = make_bitflags!(AccessFs::{Execute | ReadFile});
const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate});
const DEVICE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
/// In a directory that was handed over: files and sockets, and no links, pipes, devices or further directories.
const DIRECTORY: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | WriteFile | Truncate | ReadDir | MakeReg | MakeSock | RemoveFile
});

/// What a VMM reaches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach<'a> {
    /// Its program, with the loader and libraries.
    pub(crate) program: &'a Path,
    /// What it reads of what was installed with it: `share/x` for a program in `bin`.
    pub(crate) data: &'a [&'a str],
    /// Devices that it opens.
    pub(crate) devices: &'a [&'a str],
    /// What it was handed. It reads or writes files and pipes as they are open already. Directories are its own.
    pub(crate) handed: &'a [OwnedFd],
}

impl Reach<'_> {
    /// The rules that a process takes on by [`enforce`]; none, and a warning, where the kernel has no Landlock.
    pub(super) fn ruleset(&self) -> Result<Option<OwnedFd>, VmError> {
        let mut rules = Rules(empty().map_err(VmError::Landlock)?);
        self.add_to(&mut rules).map_err(VmError::Landlock)?;
        let ruleset = Option::<OwnedFd>::from(rules.0);
        if ruleset.is_none() {
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                tracing::warn!(
                    "this kernel has no Landlock: file modes alone keep VMMs from the host's files"
                );
            });
        }
        Ok(ruleset)
    }

    fn add_to(&self, rules: &mut Rules) -> Result<(), RulesetError> {
        rules.allow(self.program, RUN)?;
        if let Some(interpreter) = interpreter(self.program) {
            rules.allow(interpreter, RUN)?;
        }
        for path in LOADERS.iter().chain(&STORES) {
            rules.allow(path, RUN)?;
        }
        for path in LIBRARIES {
            rules.allow(path, READ)?;
        }
        let program = std::fs::canonicalize(self.program).unwrap_or_default();
        if let Some(prefix) = program.parent().and_then(Path::parent) {
            for path in ["lib", "lib64"].iter().chain(self.data) {
                rules.allow(prefix.join(path), READ)?;
            }
        }
        for path in self.devices {
            rules.allow(path, DEVICE)?;
        }
        for file in self.handed {
            if let Some(access) = access_of(file) {
                rules.allow_file(file, access)?;
            }
        }
        Ok(())
    }
}

struct Rules(RulesetCreated);

impl Rules {
    /// What is not there, or not for us, is not for the VMM either.
    fn allow(
        &mut self,
        path: impl AsRef<Path>,
        access: BitFlags<AccessFs>,
    ) -> Result<(), RulesetError> {
        match PathFd::new(path) {
            Ok(file) => self.allow_file(file, access),
            Err(_) => Ok(()),
        }
    }

    fn allow_file(
        &mut self,
        file: impl AsFd,
        access: BitFlags<AccessFs>,
    ) -> Result<(), RulesetError> {
        match (&mut self.0).add_rule(PathBeneath::new(file, access)) {
            // In no file system that has paths, such as memory. Nobody is kept from it.
            Err(RulesetError::AddRules(AddRulesError::Fs(AddRuleError::AddRuleCall {
                source,
                ..
            }))) if source.raw_os_error() == Some(libc::EBADFD) => Ok(()),
            added => added.map(drop),
        }
    }
}

/// Rules that allow nothing of what the newest Landlock knows that these were tried with. An older one keeps a VMM from
/// less.
fn empty() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V7))?
        .handle_access(AccessNet::from_all(ABI::V7))?
        .scope(Scope::from_all(ABI::V7))?
        .create()
}

/// Whether the kernel limits what VMMs reach.
#[must_use]
pub fn has_landlock() -> bool {
    empty().is_ok_and(|ruleset| Option::<OwnedFd>::from(ruleset).is_some())
}

/// What a VMM may do with an open file by opening it again: as much as it may already.
fn access_of(file: &OwnedFd) -> Option<BitFlags<AccessFs>> {
    let mode = fstat(file).ok()?.st_mode & SFlag::S_IFMT.bits();
    match SFlag::from_bits_truncate(mode) {
        SFlag::S_IFDIR => Some(DIRECTORY),
        SFlag::S_IFREG | SFlag::S_IFIFO => {
            let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).ok()?);
            match flags & OFlag::O_ACCMODE {
                OFlag::O_RDONLY => Some(READ),
                _ => Some(WRITE),
            }
        }
        _ => None,
    }
}

/// What runs a program that is a script.
fn interpreter(program: &Path) -> Option<PathBuf> {
    /// The kernel reads no more of it (`BINPRM_BUF_SIZE`).
    const MOST: u64 = 256;
    let mut start = Vec::new();
    let file = File::open(program).ok()?;
    file.take(MOST).read_to_end(&mut start).ok()?;
    let line = start
        .strip_prefix(b"#!")?
        .split(|&byte| byte == b'\n')
        .next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.split_whitespace().next().map(PathBuf::from)
}

/// Keeps this process, and what it runs, to these rules. It makes a system call and nothing else.
pub(super) fn enforce(ruleset: &OwnedFd) -> io::Result<()> {
    // SAFETY: the call takes a descriptor that is open and a number.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
