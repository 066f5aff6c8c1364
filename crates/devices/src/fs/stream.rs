//! FUSE over streams, for virtual machines without virtio-fs: requests as a guest's kernel has them on `/dev/fuse`, one
//! after the other on each stream, and the answers.
//!
//! A request begins with its length (`fuse_in_header` in the kernel's `include/uapi/linux/fuse.h`), and so does its
//! answer (`fuse_out_header`). Four zero bytes answer what FUSE does not answer, so whoever asks need not know what that
//! is.
//!
//! The `virtiofsd` crate reads requests from chains of descriptors in a guest's memory. Here that memory is the
//! server's own, with one chain in it: the request and room for the answer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use virtiofsd::descriptor_utils::{self, Reader, Writer};
use virtiofsd::filesystem::FileSystem;
use virtiofsd::server::Server;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Why the streams could not be served to their end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The memory for a stream.
    #[error("cannot make the memory for a stream")]
    Memory,
    /// The chain in it.
    #[error("cannot describe a request")]
    Chain(#[source] descriptor_utils::Error),
    /// The VMM's connection.
    #[error("cannot accept a stream")]
    Accept(#[source] io::Error),
    /// A thread.
    #[error("cannot start the thread of a stream")]
    Thread(#[source] io::Error),
    /// A thread.
    #[error("the thread of a stream panicked")]
    Panicked,
    /// What the guest sent is no request.
    #[error("the guest sent a request of {0} bytes")]
    Length(u32),
    /// What the guest sent is no request.
    #[error("the guest sent a malformed request")]
    Malformed(#[source] virtiofsd::Error),
    /// The connection broke.
    #[error("cannot read from or write to a stream")]
    Stream(#[source] io::Error),
}

/// Largest request or answer: the crate's largest read or write, with its headers.
const MAX_BYTES: u32 = (1 << 20) + (4 << 10);
/// `fuse_in_header`.
const MIN_BYTES: u32 = 40;
/// Answers a request that has no answer.
const NO_ANSWER: [u8; 4] = [0; 4];

/// Where things are in the memory of a stream.
const DESCRIPTORS: GuestAddress = GuestAddress(0);
const AVAILABLE: GuestAddress = GuestAddress(0x100);
const USED: GuestAddress = GuestAddress(0x200);
const REQUEST: GuestAddress = GuestAddress(0x1000);
const ANSWER: GuestAddress = GuestAddress(0x1000 + MAX_BYTES as u64);
const END: usize = 0x1000 + 2 * MAX_BYTES as usize;

/// Serves as many streams as are asked for, each by a thread of its own, until all are closed.
pub(super) fn serve<F>(fs: F, listener: OwnedFd, streams: usize) -> Result<(), Error>
where
    F: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static,
{
    let server = Arc::new(Server::new(fs));
    let threads = {
        // Closed before the wait: nobody else shall queue up on it.
        let listener = UnixListener::from(listener);
        let accepted = (0..streams).map(|_| {
            let (stream, _) = listener.accept().map_err(Error::Accept)?;
            // As a file it is read and written to by the calls that the system call filter lets through.
            let stream = File::from(OwnedFd::from(stream));
            start(Arc::clone(&server), stream)
        });
        accepted.collect::<Result<Vec<_>, _>>()?
    };
    threads.into_iter().try_for_each(|thread| {
        let ended = thread.join();
        ended.map_err(|_| Error::Panicked)?
    })
}

fn start<F>(server: Arc<Server<F>>, stream: File) -> Result<JoinHandle<Result<(), Error>>, Error>
where
    F: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static,
{
    let run = move || {
        // The file system changes its thread's directory.
        unshare(CloneFlags::CLONE_FS).map_err(|errno| Error::Thread(errno.into()))?;
        let exchange = Exchange::new()?;
        exchange.serve(&server, stream)
    };
    std::thread::Builder::new()
        .name("stream".to_owned())
        .spawn(run)
        .map_err(Error::Thread)
}

/// A request and its answer.
struct Exchange {
    memory: GuestMemoryMmap<BitmapMmapRegion>,
}

impl Exchange {
    fn new() -> Result<Self, Error> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), END)]);
        Ok(Self {
            memory: memory.map_err(|_| Error::Memory)?,
        })
    }

    /// Until the other end closes.
    fn serve<F>(&self, server: &Server<F>, mut stream: File) -> Result<(), Error>
    where
        F: FileSystem<Inode = u64, Handle = u64> + Sync,
    {
        while let Some(length) = self.read(&mut stream)? {
            let (reader, writer) = self.chain(length)?;
            let handled = server.handle_message(reader, writer, None::<&mut ()>);
            let answer = handled.map_err(Error::Malformed)?;
            self.answer(answer, &mut stream);
        }
        Ok(())
    }

    /// Reads a request. Answers with its length; nothing when there is none.
    fn read(&self, stream: &mut File) -> Result<Option<u32>, Error> {
        let mut length = [0; 4];
        match stream.read_exact(&mut length) {
            Ok(()) => {}
            // A virtual machine that ends.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::Stream(error)),
        }
        let bytes = u32::from_le_bytes(length);
        if !(MIN_BYTES..=MAX_BYTES).contains(&bytes) {
            return Err(Error::Length(bytes));
        }
        let write = self.memory.write_slice(&length, REQUEST);
        write.map_err(|_| Error::Memory)?;
        // What is exact in the memory's own calls is one read, and a request arrives in pieces.
        let mut read = 4;
        while read < bytes as usize {
            let place = GuestAddress(REQUEST.0 + read as u64);
            let piece = self
                .memory
                .read_volatile_from(place, stream, bytes as usize - read);
            match piece {
                // In the middle of a request.
                Ok(0) | Err(_) => return Ok(None),
                Ok(piece) => read += piece,
            }
        }
        Ok(Some(bytes))
    }

    /// What the answer to a request of this length may take. The crate reads as much of a file as there is room for, not
    /// as much as was asked for.
    fn room(&self, length: u32) -> Result<u32, Error> {
        const READ: u32 = 15;
        /// `fuse_out_header`
        const HEADER: u32 = 16;
        /// Of `fuse_in_header`'s `opcode`, and of `fuse_read_in`'s `size` behind that header.
        const OPERATION_AT: u64 = 4;
        const SIZE_AT: u64 = 56;
        let word = |at| self.memory.read_obj::<u32>(GuestAddress(REQUEST.0 + at));
        let word = |at| word(at).map_err(|_| Error::Memory);
        let is_read = word(OPERATION_AT)? == READ && u64::from(length) >= SIZE_AT + 4;
        match is_read {
            true => Ok(word(SIZE_AT)?.saturating_add(HEADER).min(MAX_BYTES)),
            false => Ok(MAX_BYTES),
        }
    }

    /// The chain of a request of this length.
    fn chain(&self, length: u32) -> Result<(Reader<'_>, Writer<'_>), Error> {
        /// `VRING_DESC_F_NEXT` and `VRING_DESC_F_WRITE`
        const NEXT: u16 = 1;
        const WRITE: u16 = 2;
        let request = Descriptor::new(REQUEST.0, length, NEXT, 1);
        let answer = Descriptor::new(ANSWER.0, self.room(length)?, WRITE, 0);
        let write = || {
            let memory = &self.memory;
            memory.write_obj(request, DESCRIPTORS)?;
            memory.write_obj(answer, GuestAddress(16))?;
            // Flags, the next index, the first entry, 16 bits each.
            memory.write_slice(&[0, 0, 1, 0, 0, 0], AVAILABLE)
        };
        write().map_err(|_| Error::Memory)?;
        let mut queue = Queue::new(2).map_err(|_| Error::Memory)?;
        let mut placed = || {
            queue.try_set_desc_table_address(DESCRIPTORS)?;
            queue.try_set_avail_ring_address(AVAILABLE)?;
            queue.try_set_used_ring_address(USED)
        };
        placed().map_err(|_| Error::Memory)?;
        queue.set_ready(true);
        let chain = queue.pop_descriptor_chain(&self.memory);
        let chain = chain.ok_or(Error::Memory)?;
        let reader = Reader::new(&self.memory, chain.clone());
        let writer = Writer::new(&self.memory, chain);
        Ok((reader.map_err(Error::Chain)?, writer.map_err(Error::Chain)?))
    }

    /// Sends an answer of this length. When the other end is gone, the next read tells.
    fn answer(&self, length: usize, stream: &mut File) {
        if length == 0 {
            let _ = stream.write_all(&NO_ANSWER);
        } else {
            let mut written = 0;
            while written < length {
                let place = GuestAddress(ANSWER.0 + written as u64);
                let rest = length - written;
                match self.memory.write_volatile_to(place, stream, rest) {
                    Ok(0) | Err(_) => return,
                    Ok(piece) => written += piece,
                }
            }
        }
    }
}
