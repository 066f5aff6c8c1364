//! Whether this host can run guest instructions in hardware.
//!
//! A `/dev/kvm` that opens proves little: there are hosts where it does and no guest ever runs. So
//! the probe makes a virtual machine and runs a few instructions in it.

use std::io;
use std::str::FromStr;
use std::time::{Duration, Instant};

use kvm_ioctls::{Kvm, VcpuExit};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::error::VmError;

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// KVM where it works, else TCG.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// QEMU's translator, for hosts without hardware virtualisation. Slow.
    Tcg,
}

/// What a machine runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl FromStr for Acceleration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            other => Err(format!("{other:?} is none of auto, kvm, tcg")),
        }
    }
}

/// Why KVM cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum KvmProblem {
    /// There is no `/dev/kvm`, or it may not be opened.
    #[error("/dev/kvm cannot be opened")]
    Open(#[source] io::Error),
    /// A system call of the probe failed.
    #[error("the probe's virtual machine cannot be made ({0})")]
    Setup(&'static str, #[source] io::Error),
    /// The instructions did not run.
    #[error("the probe's instructions did not run: {0}")]
    Run(String),
}

impl Acceleration {
    /// Decides what to run on. The probe runs at most once in a process.
    ///
    /// # Errors
    /// When KVM is asked for and cannot run a guest.
    pub fn resolve(self) -> Result<Accelerator, VmError> {
        match self {
            Self::Tcg => Ok(Accelerator::Tcg),
            Self::Kvm => match kvm_problem() {
                None => Ok(Accelerator::Kvm),
                Some(reason) => Err(VmError::KvmUnusable { reason }),
            },
            Self::Auto => Ok(match kvm_problem() {
                None => Accelerator::Kvm,
                Some(_) => Accelerator::Tcg,
            }),
        }
    }

    /// The same for `driver`, whose VMM has no translator.
    ///
    /// # Errors
    /// When the translator is asked for, or KVM cannot run a guest.
    pub(crate) fn hardware(self, driver: &'static str) -> Result<Accelerator, VmError> {
        match self {
            Self::Tcg => Err(VmError::Unsupported {
                driver,
                what: "run a guest without KVM",
            }),
            Self::Kvm | Self::Auto => Self::Kvm.resolve(),
        }
    }
}

/// Why KVM cannot run a guest here, as one line; nothing when it can. Probes once in a process.
#[must_use]
pub fn kvm_problem() -> Option<String> {
    static PROBED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    PROBED
        .get_or_init(|| {
            use std::error::Error;
            probe_kvm().err().map(|problem| match problem.source() {
                Some(cause) => format!("{problem}: {cause}"),
                None => problem.to_string(),
            })
        })
        .clone()
}

/// Where the probe's code and page tables lie in its 64 KiB of memory.
mod layout {
    pub(super) const MEMORY: usize = 0x1_0000;
    pub(super) const CODE: u64 = 0x1000;
    pub(super) const PML4: u64 = 0x2000;
    pub(super) const PDPT: u64 = 0x3000;
    pub(super) const PD: u64 = 0x4000;
    pub(super) const STACK: u64 = 0x9000;
}

/// What any kernel for many processors needs: an atomic exchange of 16 bytes (some hosts emulate the
/// guest's kernel mode and lack it), 64-bit arithmetic, a trip over the stack, and an exit with a
/// value that only a CPU that ran all of it can give.
const CODE: &[u8] = &[
    0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x24, // lock cmpxchg16b [rsp]
    0x48, 0xc7, 0xc0, 0x29, 0x00, 0x00, 0x00, // mov rax, 0x29
    0x50, // push rax
    0x59, // pop rcx
    0x48, 0x8d, 0x04, 0x48, // lea rax, [rax + rcx * 2]
    0xe6, 0x10, // out 0x10, al
    0xf4, // hlt
];
/// 3 x 0x29.
const ANSWER: u8 = 0x7b;

/// How long the probe's dozen instructions may take before the CPU counts as unable to run them.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes a virtual machine with one CPU in 64-bit mode and runs [`CODE`] in it.
fn probe_kvm() -> Result<(), KvmProblem> {
    let open = |error: kvm_ioctls::Error| KvmProblem::Open(error.into());
    let setup = |what| move |error: kvm_ioctls::Error| KvmProblem::Setup(what, error.into());

    let kvm = Kvm::new().map_err(open)?;
    let vm = kvm.create_vm().map_err(setup("KVM_CREATE_VM"))?;
    let memory = probe_memory()?;
    let host_address = memory
        .get_host_address(GuestAddress(0))
        .expect("the region starts at 0");
    let region = kvm_bindings::kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: layout::MEMORY as u64,
        userspace_addr: host_address as u64,
    };
    // SAFETY: the region is exactly the mapping of `memory`, which outlives `vm` and its CPU: locals
    // are dropped in reverse order, and nothing moves out of this function.
    unsafe { vm.set_user_memory_region(region) }.map_err(setup("KVM_SET_USER_MEMORY_REGION"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(setup("KVM_CREATE_VCPU"))?;
    enter_long_mode(&vcpu)?;

    let started = Instant::now();
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(0x10, &[ANSWER])) => return Ok(()),
            Ok(exit) => return Err(KvmProblem::Run(format!("{exit:?}"))),
            Err(error) if error.errno() == libc::EINTR && started.elapsed() < PATIENCE => {}
            Err(error) => return Err(KvmProblem::Run(error.to_string())),
        }
    }
}

/// The code, and page tables that map the first 2 MiB to themselves.
fn probe_memory() -> Result<GuestMemoryMmap, KvmProblem> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const HUGE: u64 = 1 << 7;
    let failed = |error: String| KvmProblem::Setup("mmap", io::Error::other(error));
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), layout::MEMORY)])
        .map_err(|error| failed(error.to_string()))?;
    let tables = [
        (layout::PML4, layout::PDPT | PRESENT_WRITABLE),
        (layout::PDPT, layout::PD | PRESENT_WRITABLE),
        (layout::PD, PRESENT_WRITABLE | HUGE),
    ];
    for (address, entry) in tables {
        memory
            .write_obj(entry, GuestAddress(address))
            .map_err(|error| failed(error.to_string()))?;
    }
    memory
        .write_slice(CODE, GuestAddress(layout::CODE))
        .map_err(|error| failed(error.to_string()))?;
    Ok(memory)
}

/// Puts the CPU where a kernel would be: 64-bit mode with paging, about to run [`CODE`].
fn enter_long_mode(vcpu: &kvm_ioctls::VcpuFd) -> Result<(), KvmProblem> {
    const CR0_PE_PG: u64 = 1 | 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
    let setup = |what| move |error: kvm_ioctls::Error| KvmProblem::Setup(what, error.into());

    let mut special = vcpu.get_sregs().map_err(setup("KVM_GET_SREGS"))?;
    let code = kvm_bindings::kvm_segment {
        limit: u32::MAX,
        selector: 0x8,
        type_: 0b1011,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_bindings::kvm_segment {
        selector: 0x10,
        type_: 0b0011,
        l: 0,
        db: 1,
        ..code
    };
    special.cs = code;
    special.ds = data;
    special.es = data;
    special.ss = data;
    special.cr3 = layout::PML4;
    special.cr4 |= CR4_PAE;
    special.cr0 |= CR0_PE_PG;
    special.efer |= EFER_LME_LMA;
    vcpu.set_sregs(&special).map_err(setup("KVM_SET_SREGS"))?;

    let registers = kvm_bindings::kvm_regs {
        rip: layout::CODE,
        rsp: layout::STACK,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&registers).map_err(setup("KVM_SET_REGS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acceleration_is_parsed_strictly() {
        assert_eq!("kvm".parse(), Ok(Acceleration::Kvm));
        assert!("KVM!".parse::<Acceleration>().is_err());
    }

    #[test]
    fn a_vmm_without_a_translator_needs_kvm() {
        assert!(matches!(
            Acceleration::Tcg.hardware("it"),
            Err(VmError::Unsupported { driver: "it", .. })
        ));
        let works = kvm_problem().is_none();
        assert_eq!(Acceleration::Auto.hardware("it").is_ok(), works);
    }

    #[test]
    fn auto_follows_the_probe() {
        let expected = match kvm_problem() {
            None => Accelerator::Kvm,
            Some(_) => Accelerator::Tcg,
        };
        assert_eq!(Acceleration::Auto.resolve().unwrap(), expected);
        assert_eq!(Acceleration::Tcg.resolve().unwrap(), Accelerator::Tcg);
    }
}
