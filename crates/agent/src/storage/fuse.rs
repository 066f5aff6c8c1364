//! The host's files where there is no virtio-fs: threads of the agent carry requests from the kernel's `/dev/fuse` to the
//! host over vsock, and the answers back.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use hull_agent_api::files::{MAX_BYTES, MIN_ANSWER_BYTES, NO_ANSWER, STREAMS};
use hull_agent_api::ports;
use nix::mount::MsFlags;

use crate::error::AgentError;
use crate::listen::dial_vsock;
use crate::sys::check;

const DEVICE: &str = "/dev/fuse";
const STACK_BYTES: usize = 64 << 10;

/// Mounts the host's files.
///
/// # Errors
/// When the host serves none, or the kernel refuses.
pub(super) fn mount(target: &Path) -> Result<(), AgentError> {
    let failed = || AgentError::io(format!("mount the host's files on {}", target.display()));
    let streams = (0..STREAMS).map(|_| dial_vsock(ports::FILES).map(File::from));
    let streams: Vec<File> = streams.collect::<io::Result<_>>().map_err(failed())?;
    std::fs::create_dir_all(target).map_err(failed())?;
    let first = open().map_err(failed())?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        first.as_raw_fd()
    );
    let (source, kind) = (Some("hull"), Some("fuse"));
    nix::mount::mount(
        source,
        target,
        kind,
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|errno| failed()(errno.into()))?;
    let further = (1..streams.len()).map(|_| join(&first));
    let mut devices: Vec<File> = further.collect::<io::Result<_>>().map_err(failed())?;
    devices.push(first);
    for (device, stream) in devices.into_iter().zip(streams) {
        start(device, stream).map_err(failed())?;
    }
    Ok(())
}

fn open() -> io::Result<File> {
    File::options().read(true).write(true).open(DEVICE)
}

/// A further way to the requests of a mount. An answer goes the way that its request came.
fn join(first: &File) -> io::Result<File> {
    /// `_IOR(229, 0, uint32_t)`
    const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;
    let device = open()?;
    let fd = u32::try_from(first.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: FUSE_DEV_IOC_CLONE reads the number of a descriptor of ours, which lives through the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const fd) }.into())?;
    Ok(device)
}

fn start(device: File, stream: File) -> io::Result<()> {
    let run = move || {
        flushes_files();
        match relay(&device, &stream) {
            Ok(()) => {}
            // What is asked of the host's files fails from now on. The host knows of the end of its own server.
            Err(error) => log::error!("lost a connection to the host's files: {error}"),
        }
    };
    let thread = std::thread::Builder::new()
        .name("files".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(run)?;
    // It ends with the mount.
    drop(thread);
    Ok(())
}

/// The kernel may wait for this thread to make memory free, which therefore must not wait for that.
fn flushes_files() {
    /// `PR_SET_IO_FLUSHER`
    const SET_IO_FLUSHER: libc::c_int = 57;
    // SAFETY: the call takes numbers only. A kernel that does not know it has other ways, so it may fail.
    unsafe { libc::prctl(SET_IO_FLUSHER, 1, 0, 0, 0) };
}

/// Carries requests and answers until the files are unmounted.
fn relay(mut device: &File, mut stream: &File) -> io::Result<()> {
    let mut buffer = vec![0; MAX_BYTES as usize];
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) => length,
            Err(error) => match error.raw_os_error() {
                // Unmounted.
                Some(libc::ENODEV) => return Ok(()),
                // The request was taken back.
                Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => continue,
                _ => return Err(error),
            },
        };
        stream.write_all(&buffer[..length])?;
        let Some(answer) = read_answer(stream, &mut buffer)? else {
            continue;
        };
        match device.write_all(answer) {
            // The request was taken back.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            written => written?,
        }
    }
}

/// The answer to a request, if there is one.
fn read_answer<'a>(mut stream: &File, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    let (head, rest) = buffer.split_at_mut(NO_ANSWER.len());
    stream.read_exact(head)?;
    if *head == NO_ANSWER {
        return Ok(None);
    }
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    if !(MIN_ANSWER_BYTES..=MAX_BYTES).contains(&length) {
        let why = format!("the host sent an answer of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    stream.read_exact(&mut rest[..length as usize - head.len()])?;
    Ok(Some(&buffer[..length as usize]))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (File, File) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (OwnedFd::from(ours).into(), OwnedFd::from(theirs).into())
    }

    #[test]
    fn answers_are_as_long_as_they_say() {
        let (ours, mut theirs) = pair();
        let mut answer = 20_u32.to_le_bytes().to_vec();
        answer.resize(20, 7);
        theirs.write_all(&NO_ANSWER).unwrap();
        theirs.write_all(&answer).unwrap();
        let mut buffer = [1; 64];
        assert_eq!(read_answer(&ours, &mut buffer).unwrap(), None);
        assert_eq!(read_answer(&ours, &mut buffer).unwrap(), Some(&answer[..]));
        drop(theirs);
        let error = read_answer(&ours, &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for length in [1, MIN_ANSWER_BYTES - 1, MAX_BYTES + 1, u32::MAX] {
            let (ours, mut theirs) = pair();
            theirs.write_all(&length.to_le_bytes()).unwrap();
            let mut buffer = vec![0; MAX_BYTES as usize];
            let error = read_answer(&ours, &mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{length}");
        }
    }
}
