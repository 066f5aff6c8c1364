//! The loopback of the engine's namespace leads into the guest: containerd forwards a port by connecting
//! to `localhost` in the namespace, where nothing listens.
//!
//! A program that the kernel runs when it looks for a connection's listener (`BPF_PROG_TYPE_SK_LOOKUP`,
//! kernel documentation bpf/prog_sk_lookup) gives every TCP connection to 127.0.0.0/8 and ::1, whatever
//! its port, to a listener of ours. The port that was dialled is the accepted socket's own. All of it
//! vanishes with its descriptors.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Listeners that get every connection to the namespace's loopback.
#[derive(Debug)]
pub struct Loopback {
    /// Not blocking.
    pub(crate) listeners: Vec<TcpListener>,
    /// Keeps the program attached.
    pub(crate) link: OwnedFd,
}

impl Loopback {
    /// Takes the loopback of this thread's network namespace over.
    ///
    /// # Errors
    /// When the kernel cannot (before 5.9, or without BPF).
    pub(super) fn take() -> io::Result<Self> {
        let mut listeners = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
        // A namespace without IPv6 has no such address.
        listeners.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)));
        let map = create_map()?;
        for (index, listener) in (0_u32..).zip(&listeners) {
            listener.set_nonblocking(true)?;
            put(&map, index, listener.as_raw_fd())?;
        }
        let program = load(&program(map.as_raw_fd()))?;
        let namespace = File::open("/proc/thread-self/ns/net")?;
        let link = attach(&program, &namespace)?;
        Ok(Self { listeners, link })
    }
}

/// An instruction (kernel documentation, bpf/standardization/instruction-set).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Source register in the high half, destination in the low.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: from << 4 | to,
        offset,
        immediate,
    }
}

/// `to = from`
const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

/// `to = value`
const fn set(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

/// `to = *(u32 *)(from + offset)`
const fn load_word(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

/// `if (register != value) goto pc + jump`
const fn unless_equal(register: u8, value: i32, jump: i16) -> Instruction {
    instruction(0x55, register, 0, jump, value)
}

/// `call function`
const fn call(function: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, function)
}

/// A program that is being written, and where in it the search goes on without us.
#[derive(Default)]
struct Program {
    instructions: Vec<Instruction>,
    passes: Vec<usize>,
}

impl Program {
    fn then(&mut self, instructions: impl IntoIterator<Item = Instruction>) {
        self.instructions.extend(instructions);
    }

    /// What follows is for when `register` has this value.
    fn only_if(&mut self, register: u8, value: i32) {
        self.passes.push(self.instructions.len());
        self.then([unless_equal(register, value, 0)]);
    }

    /// Lets the search go on.
    fn pass(mut self) -> Vec<Instruction> {
        const PASS: i32 = 1;
        let end = self.instructions.len();
        for at in self.passes {
            let distance = i16::try_from(end - at - 1).expect("a short program");
            self.instructions[at].offset = distance;
        }
        self.instructions
            .extend([set(0, PASS), instruction(0x95, 0, 0, 0, 0)]);
        self.instructions
    }
}

/// Gives connections to a loopback address to the listener of their family in `map`.
fn program(map: RawFd) -> Vec<Instruction> {
    /// Offsets in `struct bpf_sk_lookup`.
    const FAMILY: i16 = 8;
    const PROTOCOL: i16 = 12;
    const LOCAL_V4: i16 = 40;
    const LOCAL_V6: i16 = 44;
    const LOOK_UP: i32 = 1;
    const RELEASE: i32 = 86;
    const ASSIGN: i32 = 124;
    const MAP_BY_DESCRIPTOR: u8 = 1;
    let one_in_network_order = i32::from_ne_bytes(1_i32.to_be_bytes());
    // r6: the context; r7: the listener; the map's key is in r2, then on the stack.
    let mut program = Program::default();
    program.then([copy(6, 1), load_word(2, 6, PROTOCOL)]);
    program.only_if(2, libc::IPPROTO_TCP);
    program.then([
        load_word(2, 6, FAMILY),
        // To where the family is compared with the other.
        unless_equal(2, libc::AF_INET, 5),
        load_word(2, 6, LOCAL_V4),
        // r2 &= the address's first byte
        instruction(0x57, 2, 0, 0, i32::from_ne_bytes([0xff, 0, 0, 0])),
    ]);
    program.only_if(2, i32::from_ne_bytes([127, 0, 0, 0]));
    // Key 0, and over the nine instructions for IPv6 and the one that sets its key.
    program.then([set(2, 0), instruction(0x05, 0, 0, 10, 0)]);
    program.only_if(2, libc::AF_INET6);
    for (word, value) in [(0, 0), (4, 0), (8, 0), (12, one_in_network_order)] {
        program.then([load_word(2, 6, LOCAL_V6 + word)]);
        program.only_if(2, value);
    }
    program.then([
        set(2, 1),
        // *(u32 *)(r10 - 4) = r2; r2 = r10 - 4; r1 = map (two instructions)
        instruction(0x63, 10, 2, -4, 0),
        copy(2, 10),
        instruction(0x07, 2, 0, 0, -4),
        instruction(0x18, 1, MAP_BY_DESCRIPTOR, 0, map),
        instruction(0, 0, 0, 0, 0),
        call(LOOK_UP),
        // A namespace without IPv6 has no listener for it: the kernel says so by a null pointer.
        instruction(0x55, 0, 0, 2, 0),
        set(0, 1),
        instruction(0x95, 0, 0, 0, 0),
        copy(7, 0),
        copy(1, 6),
        copy(2, 7),
        set(3, 0),
        call(ASSIGN),
        copy(1, 7),
        call(RELEASE),
    ]);
    program.pass()
}

/// `bpf(2)`: `attributes` are the bytes of `union bpf_attr` that the command takes.
fn bpf(command: libc::c_int, attributes: &[u8]) -> io::Result<RawFd> {
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

fn new_descriptor(command: libc::c_int, attributes: &[u8]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn address<T: ?Sized>(of: &T) -> [u8; 8] {
    let pointer: *const T = of;
    (pointer.cast::<u8>() as u64).to_ne_bytes()
}

fn create_map() -> io::Result<OwnedFd> {
    const MAP_CREATE: libc::c_int = 0;
    const SOCKMAP: u32 = 15;
    let (key_bytes, value_bytes, entries) = (4, 4, 2);
    new_descriptor(
        MAP_CREATE,
        &words(&[SOCKMAP, key_bytes, value_bytes, entries, 0]),
    )
}

fn put(map: &OwnedFd, index: u32, socket: RawFd) -> io::Result<()> {
    const MAP_UPDATE_ELEM: libc::c_int = 2;
    let mut attributes = words(&[map.as_raw_fd().cast_unsigned(), 0]);
    attributes.extend(address(&index));
    attributes.extend(address(&socket));
    attributes.extend(0_u64.to_ne_bytes());
    bpf(MAP_UPDATE_ELEM, &attributes).map(drop)
}

const SK_LOOKUP_PROGRAM: u32 = 30;
const SK_LOOKUP_ATTACH: u32 = 36;

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    let count = u32::try_from(program.len()).expect("a short program");
    let mut attributes = words(&[SK_LOOKUP_PROGRAM, count]);
    attributes.extend(address(program));
    attributes.extend(address(c"Apache-2.0".to_bytes_with_nul()));
    // No log, whose size and address are left out; no kernel version, flags, name or device.
    attributes.extend(words(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    attributes.extend(words(&[SK_LOOKUP_ATTACH]));
    new_descriptor(PROG_LOAD, &attributes)
}

fn attach(program: &OwnedFd, namespace: &File) -> io::Result<OwnedFd> {
    const LINK_CREATE: libc::c_int = 28;
    let descriptors = [program.as_raw_fd(), namespace.as_raw_fd()];
    let [program, namespace] = descriptors.map(i32::cast_unsigned);
    new_descriptor(
        LINK_CREATE,
        &words(&[program, namespace, SK_LOOKUP_ATTACH, 0]),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpStream;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn every_port_of_the_loopback_leads_to_us() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: it needs root");
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let loopback = Loopback::take().unwrap();
        for (listener, address) in loopback.listeners.iter().zip(["127.0.0.1", "::1"]) {
            let mut client = TcpStream::connect((address, 8080)).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(accepted.local_addr().unwrap().port(), 8080);
            drop(accepted);
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        drop(loopback);
        assert!(TcpStream::connect(("127.0.0.1", 8080)).is_err());
    }
}
