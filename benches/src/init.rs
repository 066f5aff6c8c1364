//! The smallest guest: an initramfs whose `/init` says so on the console and resets the machine.

/// What `/init` says.
pub(crate) const LINE: &[u8] = b"bench: init runs";

/// `write(1, LINE)`, then `reboot(RESTART)`; the machine has no more to do. The four bytes after
/// `lea rsi, [rip + …]` and after `mov edx, …` of the first call are filled in.
const CODE: [u8; 48] = [
    0xb8, 1, 0, 0, 0, // mov eax, 1 (write)
    0xbf, 1, 0, 0, 0, // mov edi, 1
    0x48, 0x8d, 0x35, 0, 0, 0, 0, // lea rsi, [rip + line]
    0xba, 0, 0, 0, 0, // mov edx, length
    0x0f, 0x05, // syscall
    0xb8, 169, 0, 0, 0, // mov eax, 169 (reboot)
    0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, LINUX_REBOOT_MAGIC1
    0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, LINUX_REBOOT_MAGIC2
    0xba, 0x67, 0x45, 0x23, 0x01, // mov edx, LINUX_REBOOT_CMD_RESTART
    0x0f, 0x05, // syscall
    0xeb, 0xfe, // jmp to itself
];
const LINE_OFFSET_AT: usize = 13;
const LINE_OFFSET_FROM: usize = 17;
const LINE_LENGTH_AT: usize = 18;

const ELF_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Where the file is in memory.
const BASE: u64 = 0x40_0000;

fn u32_of(value: usize) -> u32 {
    u32::try_from(value).expect("everything here is small")
}

/// A static ELF program.
fn program() -> Vec<u8> {
    let mut code = CODE;
    let offset = u32_of(CODE.len() - LINE_OFFSET_FROM);
    code[LINE_OFFSET_AT..LINE_OFFSET_AT + 4].copy_from_slice(&offset.to_le_bytes());
    let length = u32_of(LINE.len());
    code[LINE_LENGTH_AT..LINE_LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());

    let start = ELF_HEADER + PROGRAM_HEADER;
    let size = (start + code.len() + LINE.len()) as u64;
    let mut elf = Vec::new();
    // 64 bits, little endian, version 1.
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, 62] {
        // Executable, x86-64.
        elf.extend_from_slice(&half.to_le_bytes());
    }
    elf.extend_from_slice(&1_u32.to_le_bytes());
    // Entry, program headers, no section headers.
    for word in [BASE + start as u64, ELF_HEADER as u64, 0] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(&0_u32.to_le_bytes());
    for half in [ELF_HEADER, PROGRAM_HEADER, 1, 0, 0, 0] {
        let half = u16::try_from(half).expect("everything here is small");
        elf.extend_from_slice(&half.to_le_bytes());
    }
    // One segment, loaded, readable and executable: the whole file.
    for word in [1_u32, 5] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(&code);
    elf.extend_from_slice(LINE);
    elf
}

/// Appends a member to a cpio archive of the "newc" kind.
fn member(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let pad = |archive: &mut Vec<u8>| archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(b"070701");
    // inode, mode, user, group, links, time, size, four device numbers, length of the name, check
    let (size, name_size) = (u32_of(content.len()), u32_of(name.len() + 1));
    for field in [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

/// An initramfs with nothing but `/init`.
pub(crate) fn initramfs() -> Vec<u8> {
    let mut archive = Vec::new();
    member(&mut archive, "init", 0o100_755, &program());
    member(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn init_says_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init");
        // Without the reset, which is a system call that this machine must not see.
        let mut program = program();
        let reboot = program.windows(5).position(|w| w == [0xb8, 169, 0, 0, 0]);
        let exit = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
        let at = reboot.unwrap();
        program[at..at + exit.len()].copy_from_slice(&exit);
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let output = std::process::Command::new(&path).output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, LINE);
    }
}
