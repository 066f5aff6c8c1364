//! Small programs that the kernel runs for a namespace (`bpf(2)`).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// An instruction (kernel documentation, bpf/standardization/instruction-set).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// Source register in the high half, destination in the low.
    registers: u8,
    offset: i16,
    immediate: i32,
}

pub(super) const fn instruction(
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    immediate: i32,
) -> Instruction {
    Instruction {
        code,
        registers: from << 4 | to,
        offset,
        immediate,
    }
}

/// Ends the program with what is in register 0.
pub(super) const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// `to = from`
pub(super) const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

/// `to = value`
pub(super) const fn set(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

/// `to = *(u32 *)(from + offset)`
pub(super) const fn load_word(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

/// `to = *(u16 *)(from + offset)`
pub(super) const fn load_half(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x69, to, from, offset, 0)
}

/// `to = *(u8 *)(from + offset)`
pub(super) const fn load_byte(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x71, to, from, offset, 0)
}

/// `to += value`
pub(super) const fn add(to: u8, value: i32) -> Instruction {
    instruction(0x07, to, 0, 0, value)
}

/// `if (register != value) goto pc + jump`
pub(super) const fn unless_equal(register: u8, value: i32, jump: i16) -> Instruction {
    instruction(0x55, register, 0, jump, value)
}

/// `call function`
pub(super) const fn call(function: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, function)
}

/// A program that is being written, and where it ends without having decided anything.
#[derive(Default)]
pub(super) struct Program {
    instructions: Vec<Instruction>,
    passes: Vec<usize>,
}

impl Program {
    pub(super) fn then(&mut self, instructions: impl IntoIterator<Item = Instruction>) {
        self.instructions.extend(instructions);
    }

    /// What follows is for when `register` has this value.
    pub(super) fn only_if(&mut self, register: u8, value: i32) {
        self.unless(unless_equal(register, value, 0));
    }

    /// Goes on only when `jump`, whose offset does not count, does not jump.
    pub(super) fn unless(&mut self, jump: Instruction) {
        self.passes.push(self.instructions.len());
        self.then([jump]);
    }

    /// A jump whose target comes later.
    pub(super) fn jump(&mut self, jump: Instruction) -> usize {
        self.then([jump]);
        self.instructions.len() - 1
    }

    /// The target of such a jump is here.
    pub(super) fn land(&mut self, jump: usize) {
        let distance = self.instructions.len() - jump - 1;
        self.instructions[jump].offset = i16::try_from(distance).expect("a short program");
    }

    /// What it returns when it has decided nothing.
    pub(super) fn or_else(mut self, result: i32) -> Vec<Instruction> {
        for jump in std::mem::take(&mut self.passes) {
            self.land(jump);
        }
        self.then([set(0, result), EXIT]);
        self.instructions
    }
}

/// `bpf(2)`: `attributes` are the bytes of `union bpf_attr` that the command takes.
pub(super) fn bpf(command: libc::c_int, attributes: &[u8]) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as are given; addresses among them are of values that
    // outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            attributes.len(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(RawFd::try_from(result).expect("descriptors are ints"))
}

pub(super) fn new_descriptor(command: libc::c_int, attributes: &[u8]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(super) fn address<T: ?Sized>(of: &T) -> [u8; 8] {
    let pointer: *const T = of;
    (pointer.cast::<u8>() as u64).to_ne_bytes()
}

/// A program of this type, for this kind of attachment.
pub(super) fn load(kind: u32, attachment: u32, program: &[Instruction]) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    let count = u32::try_from(program.len()).expect("a short program");
    let mut attributes = words(&[kind, count]);
    attributes.extend(address(program));
    attributes.extend(address(c"Apache-2.0".to_bytes_with_nul()));
    // No log, whose size and address are left out; no kernel version, flags, name or device.
    attributes.extend(words(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    attributes.extend(words(&[attachment]));
    new_descriptor(PROG_LOAD, &attributes)
}
