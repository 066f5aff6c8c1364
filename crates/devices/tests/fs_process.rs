//! `hull-fs` as a process in its sandbox, with a VMM or streams and a few FUSE requests in this one.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod support;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

use hull_loop::{Access, LoopDevice};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, mknod};
use support::vmm::{self, Vmm};
use support::{Guest, NEXT, WRITE};
use tempfile::TempDir;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hull-fs");
const REQUESTS: usize = 1;
const ROOT: u64 = 1;
const ANSWER: GuestAddress = GuestAddress(0x60_0000);

/// Operations of FUSE.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const READLINK: u32 = 5;
const MKDIR: u32 = 9;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE_FILE: u32 = 16;
const SETXATTR: u32 = 21;
const INIT: u32 = 26;

/// What the guest says it can do: mounts in mounts, and leaving the privileges of files to us.
const GUEST_CAN: u32 = 1 << 27 | 1 << 28;

/// The mode bits that say what a file is.
const FILE_TYPE: u32 = 0o170_000;

/// How requests get to the server.
#[derive(Debug, Clone, Copy)]
enum Way {
    Device,
    Streams,
}

const WAYS: [Way; 2] = [Way::Device, Way::Streams];

/// The other end.
enum Client {
    Device {
        vmm: Vmm,
        guest: Box<Guest>,
    },
    /// The next request goes over the first.
    Streams([UnixStream; 2]),
}

struct Bench {
    directory: TempDir,
    child: Child,
    client: Client,
}

impl Bench {
    /// Shares the directory `share` with `file` and some bait beside it.
    fn new(way: Way, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let share = directory.path().join("share");
        std::fs::create_dir_all(share.join("late")).unwrap();
        std::fs::write(share.join("file"), "contents").unwrap();
        std::fs::write(directory.path().join("secret"), "secret").unwrap();
        symlink("../secret", share.join("link")).unwrap();
        Self::start(way, directory, &share, options)
    }

    fn start(way: Way, directory: TempDir, share: &Path, options: &[&str]) -> Self {
        let socket = directory.path().join("vhost");
        let listener = vmm::listen(&socket);
        let mut arguments = vec![
            format!("--socket-fd={}", listener.as_raw_fd()),
            format!("--shared-dir={}", share.display()),
        ];
        arguments.extend(options.iter().map(ToString::to_string));
        if matches!(way, Way::Streams) {
            arguments.push("--streams=2".to_owned());
        }
        let child = vmm::start(PROGRAM, &arguments, &[&listener]);
        let mut bench = Self {
            directory,
            child,
            client: Client::connect(way, &socket),
        };
        let mut init = [0; 16];
        (init[0], init[1], init[3]) = (7, 38, GUEST_CAN);
        bench.call(INIT, 0, &words(&init)).unwrap();
        bench
    }

    fn share(&self) -> PathBuf {
        self.directory.path().join("share")
    }

    /// A request and its answer without the header, or its error number.
    fn call(&mut self, operation: u32, node: u64, arguments: &[u8]) -> Result<Vec<u8>, i32> {
        let request = request(operation, node, arguments);
        let mut answer = self.client.exchange(&request);
        let error = i32::from_le_bytes(answer[4..8].try_into().unwrap());
        if error == 0 {
            Ok(answer.split_off(16))
        } else {
            Err(-error)
        }
    }

    /// The node and the mode of a name in a directory.
    fn lookup(&mut self, directory: u64, name: &str) -> Result<(u64, u32), i32> {
        let answer = self.call(LOOKUP, directory, &text(name))?;
        let node = u64::from_le_bytes(answer[..8].try_into().unwrap());
        // After the entry's 40 bytes: six long fields and three short ones, then the mode.
        let mode = u32::from_le_bytes(answer[100..104].try_into().unwrap());
        Ok((node, mode))
    }

    /// The handle of a file, opened with `O_*`.
    fn open(&mut self, node: u64, flags: i32) -> Result<Vec<u8>, i32> {
        let mut handle = self.call(OPEN, node, &words(&[flags.cast_unsigned(), 0]))?;
        handle.truncate(8);
        Ok(handle)
    }

    fn read(&mut self, node: u64) -> Vec<u8> {
        let mut arguments = self.open(node, libc::O_RDONLY).unwrap();
        arguments.extend_from_slice(&words(&[0, 0, 4096, 0, 0, 0, 0, 0]));
        self.call(READ, node, &arguments).unwrap()
    }

    fn finish(self) -> (ExitStatus, String) {
        drop(self.client);
        vmm::end(self.child)
    }
}

impl Client {
    fn connect(way: Way, socket: &Path) -> Self {
        match way {
            Way::Device => {
                let guest = Box::new(Guest::new(vmm::shared_memory()));
                let rings = [&guest.receive, &guest.transmit];
                let features = VhostUserProtocolFeatures::MQ;
                let vmm = Vmm::connect(socket, &guest.memory, &rings, features);
                Self::Device { vmm, guest }
            }
            Way::Streams => Self::Streams([(), ()].map(|()| UnixStream::connect(socket).unwrap())),
        }
    }

    /// Sends a request and answers with what comes back.
    fn exchange(&mut self, request: &[u8]) -> Vec<u8> {
        match self {
            Self::Device { vmm, guest } => {
                let len = u32::try_from(request.len()).unwrap();
                let memory = &guest.memory;
                memory.write_slice(request, Guest::slot(0)).unwrap();
                let ring = &mut guest.transmit;
                ring.describe(memory, 0, Descriptor::new(Guest::slot(0).0, len, NEXT, 1));
                ring.describe(memory, 1, Descriptor::new(ANSWER.0, 65_536, WRITE, 0));
                ring.offer(memory, 0);
                vmm.kick(REQUESTS);
                let used = loop {
                    if let Some((_, used)) = ring.take(memory) {
                        break used;
                    }
                    vmm.wait(REQUESTS);
                };
                let mut answer = vec![0; usize::try_from(used).unwrap()];
                memory.read_slice(&mut answer, ANSWER).unwrap();
                answer
            }
            Self::Streams(streams) => {
                // One after the other.
                streams.reverse();
                let stream = &mut streams[0];
                stream.write_all(request).unwrap();
                let mut answer = vec![0; 4];
                stream.read_exact(&mut answer).unwrap();
                let length = u32::from_le_bytes(answer[..].try_into().unwrap());
                answer.resize(usize::try_from(length).unwrap().max(4), 0);
                stream.read_exact(&mut answer[4..]).unwrap();
                answer
            }
        }
    }
}

fn request(operation: u32, node: u64, arguments: &[u8]) -> Vec<u8> {
    let len = u32::try_from(40 + arguments.len()).unwrap();
    let mut request = words(&[len, operation, 7, 0]);
    request.extend_from_slice(&node.to_le_bytes());
    request.extend_from_slice(&words(&[0; 4]));
    request.extend_from_slice(arguments);
    request
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

#[test]
fn files_are_served_from_the_sandbox_until_the_vmm_goes() {
    for way in WAYS {
        let mut bench = Bench::new(way, &[]);
        let (file, _) = bench.lookup(ROOT, "file").unwrap();
        assert_eq!(bench.read(file), b"contents");
        bench
            .call(MKDIR, ROOT, &[words(&[0o750, 0]), text("new")].concat())
            .unwrap();
        assert!(bench.share().join("new").is_dir());
        let (exit, errors) = bench.finish();
        assert_eq!((exit.code(), errors.as_str()), (Some(0), ""));
    }
}

#[test]
fn nothing_outside_the_directory_can_be_reached() {
    for way in WAYS {
        let mut bench = Bench::new(way, &[]);
        let (link, mode) = bench.lookup(ROOT, "link").unwrap();
        assert_eq!(
            mode & FILE_TYPE,
            0o120_000,
            "links are the guest's to follow"
        );
        assert_eq!(bench.call(READLINK, link, &[]).unwrap(), b"../secret");
        for name in ["../secret", "late/../../secret", "/etc/passwd"] {
            bench.lookup(ROOT, name).unwrap_err();
        }
        // The root has no parent: its ".." is refused or is the root.
        if let Ok((parent, _)) = bench.lookup(ROOT, "..") {
            bench.lookup(parent, "secret").unwrap_err();
        }
    }
}

#[test]
fn the_process_is_shut_in() {
    for way in WAYS {
        let bench = Bench::new(way, &[]);
        let kept = "00000000880000db";
        assert_eq!(vmm::status(&bench.child, "CapEff"), kept);
        assert_eq!(vmm::status(&bench.child, "CapPrm"), kept);
        assert_eq!(vmm::status(&bench.child, "NoNewPrivs"), "1");
        assert_eq!(vmm::status(&bench.child, "Seccomp"), "2");
        let mounts =
            std::fs::read_to_string(format!("/proc/{}/mountinfo", bench.child.id())).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let its = std::fs::read_link(format!("/proc/{}/ns/net", bench.child.id())).unwrap();
        assert_ne!(own, its);
    }
}

#[test]
fn a_read_only_share_cannot_be_changed() {
    for way in WAYS {
        let mut bench = Bench::new(way, &["--readonly"]);
        let (file, _) = bench.lookup(ROOT, "file").unwrap();
        assert_eq!(bench.read(file), b"contents");
        let arguments = [words(&[0o750, 0]), text("new")].concat();
        assert_eq!(bench.call(MKDIR, ROOT, &arguments), Err(libc::EROFS));
        assert!(!bench.share().join("new").exists());
    }
}

#[test]
fn the_guests_trusted_attributes_are_not_the_hosts() {
    for way in WAYS {
        let mut bench = Bench::new(way, &[]);
        let (file, _) = bench.lookup(ROOT, "file").unwrap();
        let mut set = |name: &str| {
            let arguments = [words(&[1, 0]), text(name), b"y".to_vec()].concat();
            bench.call(SETXATTR, file, &arguments).map(drop)
        };
        set("trusted.overlay.opaque").unwrap();
        assert_eq!(set("user.hull.trusted.other"), Err(libc::EPERM));
        let path = bench.share().join("file");
        let attribute = |name: &std::ffi::CStr| {
            use nix::NixPath;
            let size = path.with_nix_path(|path| {
                // SAFETY: both strings are terminated; with size 0 nothing is written.
                unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) }
            });
            size.unwrap()
        };
        assert_eq!(attribute(c"user.hull.trusted.overlay.opaque"), 1);
        assert_eq!(attribute(c"trusted.overlay.opaque"), -1);
    }
}

/// A directory that is a shared mount, with directories in it.
fn shared_mount(directories: &[&str]) -> (TempDir, PathBuf) {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let share = directory.path().join("share");
    for name in directories {
        std::fs::create_dir_all(share.join(name)).unwrap();
    }
    mount(Some(&share), &share, none, MsFlags::MS_BIND, none).unwrap();
    mount(none, &share, none, MsFlags::MS_SHARED, none).unwrap();
    (directory, share)
}

fn mount_tmpfs(dir: &Path) {
    let (tmpfs, none) = (Some("tmpfs"), None::<&str>);
    mount(tmpfs, dir, tmpfs, MsFlags::empty(), none).unwrap();
}

/// Over streams all files are of one file system to the guest, where programs tell them apart by their numbers.
#[test]
fn files_of_different_mounts_are_told_apart() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    let (directory, share) = shared_mount(&["a", "b"]);
    for name in ["a", "b"] {
        let dir = share.join(name);
        mount_tmpfs(&dir);
        std::fs::write(dir.join("file"), "").unwrap();
        std::fs::hard_link(dir.join("file"), dir.join("link")).unwrap();
    }
    let mut bench = Bench::start(Way::Streams, directory, &share, &[]);
    let mut numbers = |dir: &str| {
        let (dir, _) = bench.lookup(ROOT, dir).unwrap();
        ["file", "link"].map(|name| {
            let answer = bench.call(LOOKUP, dir, &text(name)).unwrap();
            let node = u64::from_le_bytes(answer[..8].try_into().unwrap());
            let number = &answer[40..48];
            let again = bench.call(GETATTR, node, &[0; 16]).unwrap();
            assert_eq!(&again[16..24], number);
            number.to_owned()
        })
    };
    let ([a, link], [b, _]) = (numbers("a"), numbers("b"));
    assert_eq!(a, link);
    assert_ne!(a, b);
}

#[test]
fn what_is_mounted_later_below_a_shared_mount_appears() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    let (directory, share) = shared_mount(&["late"]);
    let mut bench = Bench::start(Way::Device, directory, &share, &["--cache=never"]);
    let late = share.join("late");
    let (node, _) = bench.lookup(ROOT, "late").unwrap();
    bench.lookup(node, "mounted").unwrap_err();
    mount_tmpfs(&late);
    std::fs::write(late.join("mounted"), "x").unwrap();
    let (node, _) = bench.lookup(ROOT, "late").unwrap();
    let (file, _) = bench.lookup(node, "mounted").unwrap();
    assert_eq!(bench.read(file), b"x");
    let (exit, errors) = bench.finish();
    assert_eq!((exit.code(), errors.as_str()), (Some(0), ""));
}

/// A node below `dir` with the number of a loop device.
fn make_node(dir: &Path, name: &str, mode: Mode, device: &LoopDevice) {
    let number = libc::makedev(hull_loop::MAJOR, device.minor());
    mknod(&dir.join(name), SFlag::S_IFBLK, mode, number).unwrap();
}

#[test]
fn a_disk_is_a_file_where_the_guest_can_make_none() {
    if !Path::new("/dev/loop-control").exists() || !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root can make loop devices, and the kernel has to have them");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    std::fs::write(&image, [b'd'; 4096]).unwrap();
    let device = LoopDevice::over(&image, Access::default()).unwrap();
    let share = directory.path().join("share");
    let disks = share.join("disks");
    std::fs::create_dir_all(&disks).unwrap();
    make_node(&disks, "w", Mode::S_IRUSR | Mode::S_IWUSR, &device);
    make_node(&disks, "r", Mode::S_IRUSR, &device);
    make_node(&share, "other", Mode::S_IRUSR | Mode::S_IWUSR, &device);
    let mut bench = Bench::start(Way::Streams, directory, &share, &["--disks=disks"]);

    // As a container with CAP_MKNOD can make it.
    let (_, mode) = bench.lookup(ROOT, "other").unwrap();
    assert_eq!(mode & FILE_TYPE, 0o060_000, "the guest's to open");

    let (dir, _) = bench.lookup(ROOT, "disks").unwrap();
    let answer = bench.call(LOOKUP, dir, &text("w")).unwrap();
    let size = u64::from_le_bytes(answer[48..56].try_into().unwrap());
    let (disk, mode) = bench.lookup(dir, "w").unwrap();
    assert_eq!((mode, size), (0o100_600, 4096));
    assert_eq!(bench.read(disk), [b'd'; 4096]);
    let mut write = bench.open(disk, libc::O_RDWR).unwrap();
    write.extend_from_slice(&words(&[512, 0, 3, 0, 0, 0, 0, 0]));
    write.extend_from_slice(b"new");
    bench.call(WRITE_FILE, disk, &write).unwrap();
    assert_eq!(&std::fs::read(device.path()).unwrap()[512..516], b"newd");

    let (disk, mode) = bench.lookup(dir, "r").unwrap();
    assert_eq!(mode, 0o100_400);
    assert_eq!(bench.read(disk)[512..516], *b"newd");
    assert_eq!(bench.open(disk, libc::O_RDWR), Err(libc::EROFS));
    for name in ["w/../w", "../other", "./w"] {
        let file = bench.lookup(dir, name).map(|(_, mode)| mode & FILE_TYPE);
        assert_ne!(file, Ok(0o100_000), "{name}");
    }
    // One that was taken away cannot be opened by what the guest still knows of it.
    std::fs::remove_file(disks.join("r")).unwrap();
    assert_eq!(bench.open(disk, libc::O_RDONLY), Err(libc::ENOENT));
}

#[test]
fn as_much_is_read_as_is_asked_for() {
    let mut bench = Bench::new(Way::Streams, &[]);
    let contents: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(bench.share().join("large"), &contents).unwrap();
    let (file, _) = bench.lookup(ROOT, "large").unwrap();
    assert_eq!(bench.read(file), contents[..4096]);
}

#[test]
fn what_is_not_answered_is_said_to_be() {
    let mut bench = Bench::new(Way::Streams, &[]);
    let (file, _) = bench.lookup(ROOT, "file").unwrap();
    let forget = request(FORGET, file, &1_u64.to_le_bytes());
    assert_eq!(bench.client.exchange(&forget), [0; 4]);
    let (file, _) = bench.lookup(ROOT, "file").unwrap();
    assert_eq!(bench.read(file), b"contents");
}

#[test]
fn a_stream_with_what_is_no_request_is_closed() {
    let too_short = words(&[39, INIT]);
    let too_long = words(&[0x10_1001, INIT]);
    let mut without_arguments = request(LOOKUP, ROOT, &[]);
    without_arguments.truncate(40);
    let mut endless_name = request(LOOKUP, ROOT, b"endless");
    endless_name[0] = 47;
    for (sent, what) in [
        (too_short, "39 bytes"),
        (too_long, "1052673 bytes"),
        (without_arguments, "malformed"),
        (endless_name, "malformed"),
    ] {
        let bench = Bench::new(Way::Streams, &[]);
        let Client::Streams(streams) = &bench.client else {
            unreachable!()
        };
        let mut stream = &streams[0];
        stream.write_all(&sent).unwrap();
        let mut rest = Vec::new();
        // Closed with what it did not read is reset.
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, [0; 0]);
        let (exit, errors) = bench.finish();
        assert_eq!(exit.code(), Some(1));
        assert!(errors.contains(what), "{errors}");
    }
}

#[test]
fn arguments_that_cannot_work_are_one_clear_line() {
    let directory = tempfile::tempdir().unwrap();
    let listener = vmm::listen(&directory.path().join("socket"));
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let start = |fd: i32, path: &Path| {
        let arguments = [
            format!("--socket-fd={fd}"),
            format!("--shared-dir={}", path.display()),
        ];
        vmm::end(vmm::start(PROGRAM, &arguments, &[&listener]))
    };
    let missing = directory.path().join("missing");
    for ((exit, errors), what) in [
        (start(999, directory.path()), "descriptor 999"),
        (start(listener.as_raw_fd(), &missing), "cannot share"),
        (start(listener.as_raw_fd(), &file), "not a directory"),
    ] {
        assert_eq!(exit.code(), Some(1), "{errors}");
        assert!(
            errors.contains(what) && errors.lines().count() == 1,
            "{errors}"
        );
    }
}
