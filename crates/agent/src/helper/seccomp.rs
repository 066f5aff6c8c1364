//! Seccomp filters: from the specification's rules to a loaded program.

use std::ffi::{CString, c_int, c_void};
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;

use serde::{Deserialize, Serialize};

use super::error::{Context, SetupError};
use crate::spec::{Seccomp, SeccompArgument};
use crate::sys::check;

/// libseccomp's interface (seccomp.h), as far as it is used here.
mod ffi {
    use std::ffi::{c_char, c_int, c_uint, c_void};

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub(super) struct ArgCmp {
        pub(super) arg: c_uint,
        pub(super) op: c_int,
        pub(super) datum_a: u64,
        pub(super) datum_b: u64,
    }

    #[link(name = "seccomp", kind = "static")]
    unsafe extern "C" {
        pub(super) fn seccomp_init(default_action: u32) -> *mut c_void;
        pub(super) fn seccomp_release(context: *mut c_void);
        pub(super) fn seccomp_arch_native() -> u32;
        pub(super) fn seccomp_arch_resolve_name(name: *const c_char) -> u32;
        pub(super) fn seccomp_arch_add(context: *mut c_void, arch: u32) -> c_int;
        pub(super) fn seccomp_syscall_resolve_name(name: *const c_char) -> c_int;
        pub(super) fn seccomp_rule_add_array(
            context: *mut c_void,
            action: u32,
            syscall: c_int,
            count: c_uint,
            arguments: *const ArgCmp,
        ) -> c_int;
        pub(super) fn seccomp_export_bpf(context: *const c_void, fd: c_int) -> c_int;
    }
}

const ACT_KILL_PROCESS: u32 = 0x8000_0000;
const ACT_KILL_THREAD: u32 = 0;
const ACT_TRAP: u32 = 0x0003_0000;
const ACT_ERRNO: u32 = 0x0005_0000;
const ACT_TRACE: u32 = 0x7ff0_0000;
const ACT_LOG: u32 = 0x7ffc_0000;
const ACT_ALLOW: u32 = 0x7fff_0000;

/// What libseccomp returns for a name that it does not know.
const UNKNOWN_SYSCALL: c_int = -1;

/// First number of x86's x32 calls, which are told from the usual ones by this bit.
const X32_BIT: u32 = 0x4000_0000;

/// A program that the kernel can load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// Instructions, each as the eight bytes that the kernel has it in.
    program: Vec<u64>,
    flags: u64,
}

const _: () = assert!(size_of::<libc::sock_filter>() == 8 && align_of::<libc::sock_filter>() <= 8);

/// Compiles a specification's rules.
pub(super) fn compile(seccomp: &Seccomp) -> Result<Filter, SetupError> {
    if seccomp.listener_path.is_some() {
        return Err(SetupError::Unsupported(
            "linux.seccomp.listenerPath".to_owned(),
        ));
    }
    let default = action(&seccomp.default_action, seccomp.default_errno_ret)?;
    let context = Builder::new(default)?;
    for name in &seccomp.architectures {
        context.add_architecture(name)?;
    }
    let mut highest = 0;
    for rule in &seccomp.syscalls {
        let rule_action = action(&rule.action, rule.errno_ret)?;
        for name in &rule.names {
            let Some(number) = resolve(name)? else {
                // Newer than libseccomp or of another architecture.
                continue;
            };
            highest = highest.max(number);
            if rule_action == default {
                continue;
            }
            for arguments in alternatives(&rule.args)? {
                context.add_rule(rule_action, number, &arguments)?;
            }
        }
    }
    let mut program = Vec::new();
    if let Ok(highest) = u32::try_from(highest)
        && refuses(default)
    {
        // SAFETY: no preconditions.
        program.extend(unknown_calls(
            unsafe { ffi::seccomp_arch_native() },
            highest,
        ));
    }
    program.extend(context.export()?);
    Ok(Filter {
        program,
        flags: flags(&seccomp.flags)?,
    })
}

impl Filter {
    /// Puts this process under the filter.
    pub(super) fn load(&self) -> Result<(), SetupError> {
        let length = u16::try_from(self.program.len())
            .map_err(io::Error::other)
            .when("load the seccomp filter")?;
        let program = libc::sock_fprog {
            len: length,
            filter: self.program.as_ptr().cast_mut().cast(),
        };
        // SAFETY: the instructions have the kernel's size and no stricter alignment, and live through
        // the call, which only reads them.
        check(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags,
                &raw const program,
            )
        })
        .when("load the seccomp filter")?;
        Ok(())
    }
}

/// An action's number with its return value.
fn action(name: &str, errno: Option<u32>) -> Result<u32, SetupError> {
    let value = errno.unwrap_or(libc::EPERM.cast_unsigned()) & 0xffff;
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => ACT_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => ACT_KILL_PROCESS,
        "SCMP_ACT_TRAP" => ACT_TRAP,
        "SCMP_ACT_ERRNO" => ACT_ERRNO | value,
        "SCMP_ACT_TRACE" => ACT_TRACE | value,
        "SCMP_ACT_ALLOW" => ACT_ALLOW,
        "SCMP_ACT_LOG" => ACT_LOG,
        // Its listener is a program on the host.
        "SCMP_ACT_NOTIFY" => return Err(SetupError::Unsupported(name.to_owned())),
        _ => {
            return Err(SetupError::Invalid {
                field: "linux.seccomp action",
                value: name.to_owned(),
            });
        }
    })
}

fn flags(names: &[String]) -> Result<u64, SetupError> {
    let mut flags = 0;
    for name in names {
        flags |= match name.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => libc::SECCOMP_FILTER_FLAG_TSYNC,
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // Means something for a listener only.
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => 0,
            _ => {
                return Err(SetupError::Invalid {
                    field: "linux.seccomp.flags",
                    value: name.clone(),
                });
            }
        };
    }
    Ok(flags)
}

/// Whether calls that no rule names are refused.
fn refuses(default: u32) -> bool {
    matches!(
        default & 0xffff_0000,
        ACT_KILL_PROCESS | ACT_KILL_THREAD | ACT_TRAP | ACT_ERRNO
    )
}

fn resolve(name: &str) -> Result<Option<c_int>, SetupError> {
    let name = CString::new(name).map_err(|_| SetupError::Invalid {
        field: "linux.seccomp.syscalls names",
        value: name.to_owned(),
    })?;
    // SAFETY: the name is NUL-terminated and only read.
    let number = unsafe { ffi::seccomp_syscall_resolve_name(name.as_ptr()) };
    Ok((number != UNKNOWN_SYSCALL).then_some(number))
}

/// libseccomp takes one condition for each argument and joins them by "and"; several conditions on
/// one argument mean "or" and become rules of their own.
fn alternatives(arguments: &[SeccompArgument]) -> Result<Vec<Vec<ffi::ArgCmp>>, SetupError> {
    let conditions = arguments
        .iter()
        .map(|argument| {
            Ok(ffi::ArgCmp {
                arg: argument.index,
                op: operator(&argument.op)?,
                datum_a: argument.value,
                datum_b: argument.value_two,
            })
        })
        .collect::<Result<Vec<_>, SetupError>>()?;
    let repeated =
        (1..conditions.len()).any(|i| conditions[..i].iter().any(|c| c.arg == conditions[i].arg));
    Ok(if repeated {
        conditions.into_iter().map(|c| vec![c]).collect()
    } else {
        vec![conditions]
    })
}

fn operator(name: &str) -> Result<c_int, SetupError> {
    Ok(match name {
        "SCMP_CMP_NE" => 1,
        "SCMP_CMP_LT" => 2,
        "SCMP_CMP_LE" => 3,
        "SCMP_CMP_EQ" => 4,
        "SCMP_CMP_GE" => 5,
        "SCMP_CMP_GT" => 6,
        "SCMP_CMP_MASKED_EQ" => 7,
        _ => {
            return Err(SetupError::Invalid {
                field: "linux.seccomp.syscalls args op",
                value: name.to_owned(),
            });
        }
    })
}

/// Answers calls newer than any that the rules name with ENOSYS, so that a C library falls back to
/// an older call instead of taking the refusal for a lack of rights.
fn unknown_calls(native: u32, highest: u32) -> [u64; 6] {
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_GREATER: u16 = 0x25;
    const JUMP_GREATER_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const ARCH_OFFSET: u32 = 4;
    const NUMBER_OFFSET: u32 = 0;
    [
        instruction(LOAD, 0, 0, ARCH_OFFSET),
        instruction(JUMP_EQUAL, 0, 4, native),
        instruction(LOAD, 0, 0, NUMBER_OFFSET),
        instruction(JUMP_GREATER_EQUAL, 2, 0, X32_BIT),
        instruction(JUMP_GREATER, 0, 1, highest),
        instruction(RETURN, 0, 0, ACT_ERRNO | libc::ENOSYS.cast_unsigned()),
    ]
}

/// One instruction: what to do, where to go on if so and if not, and an operand.
fn instruction(code: u16, if_so: u8, if_not: u8, operand: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&code.to_ne_bytes());
    (bytes[2], bytes[3]) = (if_so, if_not);
    bytes[4..].copy_from_slice(&operand.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// A filter being built, freed when dropped.
struct Builder(*mut c_void);

impl Builder {
    fn new(default: u32) -> Result<Self, SetupError> {
        // SAFETY: no preconditions; null is checked for.
        let context = unsafe { ffi::seccomp_init(default) };
        if context.is_null() {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory)).when("make a seccomp filter");
        }
        Ok(Self(context))
    }

    fn add_architecture(&self, name: &str) -> Result<(), SetupError> {
        let invalid = || SetupError::Invalid {
            field: "linux.seccomp.architectures",
            value: name.to_owned(),
        };
        let short = name
            .strip_prefix("SCMP_ARCH_")
            .ok_or_else(invalid)?
            .to_ascii_lowercase();
        let short = CString::new(short).map_err(|_| invalid())?;
        // SAFETY: the name is NUL-terminated and only read.
        let arch = unsafe { ffi::seccomp_arch_resolve_name(short.as_ptr()) };
        if arch == 0 {
            return Err(invalid());
        }
        // SAFETY: the context is valid until it is dropped.
        let result = unsafe { ffi::seccomp_arch_add(self.0, arch) };
        if result == -libc::EEXIST {
            return Ok(());
        }
        library(result).when("add an architecture to the seccomp filter")
    }

    fn add_rule(
        &self,
        action: u32,
        syscall: c_int,
        arguments: &[ffi::ArgCmp],
    ) -> Result<(), SetupError> {
        let count = u32::try_from(arguments.len())
            .map_err(io::Error::other)
            .when("add a rule to the seccomp filter")?;
        // SAFETY: the context is valid until it is dropped; the array has the length given and is
        // only read.
        let result = unsafe {
            ffi::seccomp_rule_add_array(self.0, action, syscall, count, arguments.as_ptr())
        };
        library(result).when("add a rule to the seccomp filter")
    }

    fn export(&self) -> Result<Vec<u64>, SetupError> {
        let mut file = std::fs::File::from(
            nix::sys::memfd::memfd_create("seccomp", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
                .when("make a file for the seccomp filter")?,
        );
        // SAFETY: the context is valid until it is dropped; the descriptor is open.
        let result = unsafe { ffi::seccomp_export_bpf(self.0, file.as_raw_fd()) };
        library(result).when("compile the seccomp filter")?;
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .when("read the seccomp filter")?;
        let (instructions, _) = bytes.as_chunks::<8>();
        Ok(instructions
            .iter()
            .map(|i| u64::from_ne_bytes(*i))
            .collect())
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        // SAFETY: the context came from seccomp_init and is not used again.
        unsafe { ffi::seccomp_release(self.0) }
    }
}

/// libseccomp returns negated error numbers.
fn library(result: c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SeccompRule;

    fn rule(name: &str, action: &str) -> SeccompRule {
        SeccompRule {
            names: vec![name.to_owned()],
            action: action.to_owned(),
            ..SeccompRule::default()
        }
    }

    /// "Return ENOSYS."
    fn refusal() -> u64 {
        instruction(0x06, 0, 0, 0x0005_0026)
    }

    #[test]
    fn a_profile_compiles() {
        let seccomp = Seccomp {
            default_action: "SCMP_ACT_ERRNO".to_owned(),
            architectures: vec!["SCMP_ARCH_X86_64".to_owned(), "SCMP_ARCH_X86".to_owned()],
            syscalls: vec![
                rule("read", "SCMP_ACT_ALLOW"),
                rule("no_such_call", "SCMP_ACT_ALLOW"),
                rule("write", "SCMP_ACT_ERRNO"),
            ],
            ..Seccomp::default()
        };
        let filter = compile(&seccomp).unwrap();
        assert!(filter.program.len() > 6);
        // The prefix that answers ENOSYS comes first.
        assert_eq!(filter.program[5], refusal());
    }

    #[test]
    fn an_allowing_default_needs_no_prefix() {
        let seccomp = Seccomp {
            default_action: "SCMP_ACT_ALLOW".to_owned(),
            syscalls: vec![rule("mkdir", "SCMP_ACT_ERRNO")],
            ..Seccomp::default()
        };
        let filter = compile(&seccomp).unwrap();
        assert!(!filter.program.contains(&refusal()));
    }

    #[test]
    fn what_is_unknown_is_refused() {
        assert!(matches!(
            action("SCMP_ACT_SHRUG", None),
            Err(SetupError::Invalid { .. })
        ));
        assert!(matches!(
            action("SCMP_ACT_NOTIFY", None),
            Err(SetupError::Unsupported(_))
        ));
        assert!(flags(&["SECCOMP_FILTER_FLAG_X".to_owned()]).is_err());
    }

    #[test]
    fn conditions_on_one_argument_are_alternatives() {
        let argument = |index| SeccompArgument {
            index,
            value: 1,
            value_two: 0,
            op: "SCMP_CMP_EQ".to_owned(),
        };
        assert_eq!(alternatives(&[argument(0), argument(1)]).unwrap().len(), 1);
        assert_eq!(alternatives(&[argument(0), argument(0)]).unwrap().len(), 2);
        assert_eq!(alternatives(&[]).unwrap().len(), 1);
    }
}
