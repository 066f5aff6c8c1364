//! libseccomp (seccomp.h), as far as it is used here. It is linked statically.

use std::ffi::{CString, c_int, c_void};
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::LinuxSeccompOperator;

use crate::SeccompError;

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

/// What libseccomp returns for a name that it does not know.
const UNKNOWN_SYSCALL: c_int = -1;

/// A test of one argument of a system call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Condition {
    /// Which argument, from 0.
    pub(crate) argument: u32,
    pub(crate) operator: LinuxSeccompOperator,
    pub(crate) value: u64,
    pub(crate) second: u64,
}

impl Condition {
    fn comparison(&self) -> ffi::ArgCmp {
        // The numbers of `enum scmp_compare`.
        let op = match self.operator {
            LinuxSeccompOperator::ScmpCmpNe => 1,
            LinuxSeccompOperator::ScmpCmpLt => 2,
            LinuxSeccompOperator::ScmpCmpLe => 3,
            LinuxSeccompOperator::ScmpCmpEq => 4,
            LinuxSeccompOperator::ScmpCmpGe => 5,
            LinuxSeccompOperator::ScmpCmpGt => 6,
            LinuxSeccompOperator::ScmpCmpMaskedEq => 7,
        };
        ffi::ArgCmp {
            arg: self.argument,
            op,
            datum_a: self.value,
            datum_b: self.second,
        }
    }
}

/// The `AUDIT_ARCH_*` number of this machine.
pub(crate) fn native_architecture() -> u32 {
    // SAFETY: no preconditions.
    unsafe { ffi::seccomp_arch_native() }
}

/// The number of a system call; nothing when libseccomp does not know it. Calls that this machine's own
/// instruction set lacks have negative numbers.
pub(crate) fn system_call(name: &str) -> Result<Option<c_int>, SeccompError> {
    let name = c_string("system call", name)?;
    // SAFETY: the name is NUL-terminated and only read.
    let number = unsafe { ffi::seccomp_syscall_resolve_name(name.as_ptr()) };
    Ok((number != UNKNOWN_SYSCALL).then_some(number))
}

fn c_string(field: &'static str, text: &str) -> Result<CString, SeccompError> {
    CString::new(text).map_err(|_| SeccompError::Invalid {
        field,
        value: text.to_owned(),
    })
}

/// A filter being built, freed when dropped.
pub(crate) struct Builder(*mut c_void);

impl Builder {
    pub(crate) fn new(default: u32) -> Result<Self, SeccompError> {
        // SAFETY: no preconditions; null is checked for.
        let context = unsafe { ffi::seccomp_init(default) };
        if context.is_null() {
            return Err(SeccompError::Library {
                action: "begin",
                source: io::ErrorKind::OutOfMemory.into(),
            });
        }
        Ok(Self(context))
    }

    /// Adds an instruction set by its name in a specification, such as `SCMP_ARCH_X86`.
    pub(crate) fn add_architecture(&self, name: &str) -> Result<(), SeccompError> {
        let short = name.strip_prefix("SCMP_ARCH_").unwrap_or(name);
        let short = c_string("architecture", &short.to_ascii_lowercase())?;
        // SAFETY: the name is NUL-terminated and only read.
        let arch = unsafe { ffi::seccomp_arch_resolve_name(short.as_ptr()) };
        if arch == 0 {
            return Err(SeccompError::Invalid {
                field: "architecture",
                value: name.to_owned(),
            });
        }
        // SAFETY: the context is valid until it is dropped.
        let result = unsafe { ffi::seccomp_arch_add(self.0, arch) };
        if result == -libc::EEXIST {
            return Ok(());
        }
        checked("add an architecture to", result)
    }

    pub(crate) fn add_rule(
        &self,
        action: u32,
        system_call: c_int,
        conditions: &[Condition],
    ) -> Result<(), SeccompError> {
        let comparisons: Vec<_> = conditions.iter().map(Condition::comparison).collect();
        let count = u32::try_from(comparisons.len()).map_err(|_| SeccompError::Invalid {
            field: "number of arguments",
            value: comparisons.len().to_string(),
        })?;
        // SAFETY: the context is valid until it is dropped; the array has the length given and is
        // only read.
        let result = unsafe {
            ffi::seccomp_rule_add_array(self.0, action, system_call, count, comparisons.as_ptr())
        };
        checked("add a rule to", result)
    }

    /// The program: `struct sock_filter` one after the other.
    pub(crate) fn export(&self) -> Result<Vec<u8>, SeccompError> {
        let failed = |source: io::Error| SeccompError::Library {
            action: "compile",
            source,
        };
        let file = memfd_create("seccomp", MFdFlags::MFD_CLOEXEC);
        let mut file = std::fs::File::from(file.map_err(|errno| failed(errno.into()))?);
        // SAFETY: the context is valid until it is dropped; the descriptor is open.
        let result = unsafe { ffi::seccomp_export_bpf(self.0, file.as_raw_fd()) };
        checked("compile", result)?;
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .map_err(failed)?;
        Ok(bytes)
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        // SAFETY: the context came from seccomp_init and is not used again.
        unsafe { ffi::seccomp_release(self.0) }
    }
}

/// libseccomp returns negated error numbers.
fn checked(action: &'static str, result: c_int) -> Result<(), SeccompError> {
    if result < 0 {
        return Err(SeccompError::Library {
            action,
            source: io::Error::from_raw_os_error(-result),
        });
    }
    Ok(())
}
