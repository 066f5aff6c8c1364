//! What a cgroup has used, as an `io.containerd.cgroups.v2.Metrics` message.
//!
//! The message is written field by field: its generated code would be larger than the rest of the
//! cgroup support together.

use std::fs;
use std::path::Path;

use protobuf::CodedOutputStream;

use super::{Cgroup, CgroupError, MOUNT_POINT, PARENT, read};
use crate::guest::kilobytes;

/// Fields of `CPUStat` and the lines of `cpu.stat` that they come from.
const CPU: [(u32, &str); 8] = [
    (1, "usage_usec"),
    (2, "user_usec"),
    (3, "system_usec"),
    (4, "nr_periods"),
    (5, "nr_throttled"),
    (6, "throttled_usec"),
    (8, "nr_bursts"),
    (9, "burst_usec"),
];

/// Fields of `MemoryStat` and the lines of `memory.stat`.
const MEMORY: [(u32, &str); 31] = [
    (1, "anon"),
    (2, "file"),
    (3, "kernel_stack"),
    (4, "slab"),
    (5, "sock"),
    (6, "shmem"),
    (7, "file_mapped"),
    (8, "file_dirty"),
    (9, "file_writeback"),
    (10, "anon_thp"),
    (11, "inactive_anon"),
    (12, "active_anon"),
    (13, "inactive_file"),
    (14, "active_file"),
    (15, "unevictable"),
    (16, "slab_reclaimable"),
    (17, "slab_unreclaimable"),
    (18, "pgfault"),
    (19, "pgmajfault"),
    (20, "workingset_refault"),
    (21, "workingset_activate"),
    (22, "workingset_nodereclaim"),
    (23, "pgrefill"),
    (24, "pgscan"),
    (25, "pgsteal"),
    (26, "pgactivate"),
    (27, "pgdeactivate"),
    (28, "pglazyfree"),
    (29, "pglazyfreed"),
    (30, "thp_fault_alloc"),
    (31, "thp_collapse_alloc"),
];

/// Fields of `MemoryStat` and the files of one number.
const MEMORY_FILES: [(u32, &str); 6] = [
    (32, "memory.current"),
    (33, "memory.max"),
    (34, "memory.swap.current"),
    (35, "memory.swap.max"),
    (36, "memory.peak"),
    (37, "memory.swap.peak"),
];

/// Fields of `MemoryEvents` and the lines of `memory.events`.
const MEMORY_EVENTS: [(u32, &str); 6] = [
    (1, "low"),
    (2, "high"),
    (3, "max"),
    (4, "oom"),
    (5, "oom_kill"),
    (6, "oom_group_kill"),
];

/// Fields of `IOEntry` and the keys of a line of `io.stat`.
const IO: [(u32, &str); 4] = [(3, "rbytes"), (4, "wbytes"), (5, "rios"), (6, "wios")];

/// Where figures are read.
#[derive(Debug)]
enum Source<'a> {
    Cgroup(&'a Path),
    /// The hierarchy's root, and the parent of all containers for what a root does not count.
    Guest {
        root: &'a Path,
        containers: &'a Path,
        meminfo: &'a str,
    },
}

impl Source<'_> {
    /// What a file says. A controller that this kernel lacks has none, and its part of the message is
    /// empty.
    fn text(&self, file: &str) -> String {
        match *self {
            Self::Cgroup(path) => fs::read_to_string(path.join(file)).unwrap_or_default(),
            Self::Guest {
                root,
                containers,
                meminfo,
            } => match file {
                "memory.current" => used(meminfo).to_string(),
                "memory.max" => kilobytes(meminfo, "MemTotal:").to_string(),
                _ => fs::read_to_string(root.join(file))
                    .or_else(|_| fs::read_to_string(containers.join(file)))
                    .unwrap_or_default(),
            },
        }
    }

    /// Where the files of huge pages are.
    fn hugepages(&self) -> &Path {
        match self {
            Self::Cgroup(path) => path,
            Self::Guest { containers, .. } => containers,
        }
    }
}

/// Bytes of the guest's memory that hold anything, the page cache included, as a cgroup counts.
fn used(meminfo: &str) -> u64 {
    kilobytes(meminfo, "MemTotal:").saturating_sub(kilobytes(meminfo, "MemFree:"))
}

/// The encoded message.
pub(crate) fn metrics(cgroup: &Cgroup) -> Result<Vec<u8>, CgroupError> {
    encoded(&Source::Cgroup(&cgroup.path))
}

/// The same for all that runs in the guest.
pub(crate) fn guest_metrics() -> Result<Vec<u8>, CgroupError> {
    let root = Path::new(MOUNT_POINT);
    encoded(&Source::Guest {
        root,
        containers: &root.join(PARENT),
        meminfo: &read(Path::new("/proc/meminfo"))?,
    })
}

fn encoded(source: &Source<'_>) -> Result<Vec<u8>, CgroupError> {
    let text = |file: &str| source.text(file);
    let cpu = match source {
        Source::Cgroup(path) | Source::Guest { root: path, .. } => read(&path.join("cpu.stat"))?,
    };
    let bytes = encode(&[
        (
            1,
            numbers(&[(1, text("pids.current")), (2, text("pids.max"))]),
        ),
        (
            2,
            concat(lines(&cpu, &CPU), pressure(7, &text("cpu.pressure"))),
        ),
        (4, memory(source)),
        (5, rdma(&text("rdma.current"), &text("rdma.max"))),
        (
            6,
            concat(
                io_entries(&text("io.stat")),
                pressure(2, &text("io.pressure")),
            ),
        ),
        (8, lines(&text("memory.events"), &MEMORY_EVENTS)),
    ]);
    Ok(concat(bytes, hugepages(source.hugepages())))
}

fn memory(source: &Source<'_>) -> Vec<u8> {
    let files: Vec<_> = MEMORY_FILES
        .iter()
        .map(|&(field, file)| (field, source.text(file)))
        .collect();
    let stat = concat(lines(&source.text("memory.stat"), &MEMORY), numbers(&files));
    concat(stat, pressure(38, &source.text("memory.pressure")))
}

/// The number on the line that starts with `name`.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| number(value)).flatten()
    })
}

/// "max" is the largest number there is.
fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// Encodes sub-messages under their field numbers.
fn encode(messages: &[(u32, Vec<u8>)]) -> Vec<u8> {
    written(|out| {
        for (field, bytes) in messages {
            out.write_bytes(*field, bytes)?;
        }
        Ok(())
    })
}

fn lines(text: &str, fields: &[(u32, &str)]) -> Vec<u8> {
    written(|out| {
        for &(number, name) in fields {
            out.write_uint64(number, field(text, name).unwrap_or(0))?;
        }
        Ok(())
    })
}

fn numbers(files: &[(u32, String)]) -> Vec<u8> {
    written(|out| {
        for (field, text) in files {
            if let Some(value) = number(text) {
                out.write_uint64(*field, value)?;
            }
        }
        Ok(())
    })
}

/// `PSIStats` under `field`: lines such as "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
fn pressure(field: u32, text: &str) -> Vec<u8> {
    let mut kinds = Vec::new();
    for line in text.lines() {
        let (kind, values) = line.split_once(' ').unwrap_or((line, ""));
        let number = match kind {
            "some" => 1,
            "full" => 2,
            _ => continue,
        };
        let value = |key: &str| {
            values
                .split_whitespace()
                .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
        };
        let average = |key| value(key).and_then(|v| v.parse().ok()).unwrap_or(0.0);
        let data = written(|out| {
            out.write_double(1, average("avg10"))?;
            out.write_double(2, average("avg60"))?;
            out.write_double(3, average("avg300"))?;
            out.write_uint64(4, value("total").and_then(|v| v.parse().ok()).unwrap_or(0))
        });
        kinds.push((number, data));
    }
    if kinds.is_empty() {
        return Vec::new();
    }
    encode(&[(field, encode(&kinds))])
}

/// `IOEntry` messages: lines such as "8:0 rbytes=1 wbytes=2 rios=3 wios=4".
fn io_entries(text: &str) -> Vec<u8> {
    let entries: Vec<_> = text.lines().filter_map(io_entry).collect();
    encode(
        &entries
            .into_iter()
            .map(|bytes| (1, bytes))
            .collect::<Vec<_>>(),
    )
}

fn io_entry(line: &str) -> Option<Vec<u8>> {
    let (device, values) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    Some(written(|out| {
        out.write_uint64(1, major)?;
        out.write_uint64(2, minor)?;
        for (field, key) in IO {
            let value = values
                .split_whitespace()
                .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            out.write_uint64(field, value.and_then(|v| v.parse().ok()).unwrap_or(0))?;
        }
        Ok(())
    }))
}

/// `RdmaStat`: lines such as "mlx4_0 hca_handle=2 hca_object=max".
fn rdma(current: &str, limit: &str) -> Vec<u8> {
    let entry = |line: &str| {
        let (device, values) = line.split_once(' ')?;
        let value = |key: &str| {
            let text = values
                .split_whitespace()
                .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))?;
            match text {
                "max" => Some(u32::MAX),
                text => text.parse().ok(),
            }
        };
        Some(written(|out| {
            out.write_string(1, device)?;
            out.write_uint32(2, value("hca_handle").unwrap_or(0))?;
            out.write_uint32(3, value("hca_object").unwrap_or(0))
        }))
    };
    let entries = |field, text: &str| {
        text.lines()
            .filter_map(entry)
            .map(|bytes| (field, bytes))
            .collect::<Vec<_>>()
    };
    concat(encode(&entries(1, current)), encode(&entries(2, limit)))
}

/// `HugeTlbStat` messages under field 7, one for each page size that has files.
fn hugepages(path: &Path) -> Vec<u8> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let mut sizes: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    let messages: Vec<_> = sizes
        .iter()
        .map(|size| {
            let text = |kind: &str| {
                let file = path.join(format!("hugetlb.{size}.{kind}"));
                fs::read_to_string(file).unwrap_or_default()
            };
            let message = written(|out| {
                out.write_uint64(1, number(&text("current")).unwrap_or(0))?;
                out.write_uint64(2, number(&text("max")).unwrap_or(0))?;
                out.write_string(3, size)?;
                out.write_uint64(4, field(&text("events"), "max").unwrap_or(0))
            });
            (7, message)
        })
        .collect();
    encode(&messages)
}

fn concat(mut first: Vec<u8>, second: Vec<u8>) -> Vec<u8> {
    first.extend(second);
    first
}

/// What `write` writes. Writing to memory does not fail.
fn written(write: impl FnOnce(&mut CodedOutputStream<'_>) -> protobuf::Result<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    {
        let mut out = CodedOutputStream::vec(&mut bytes);
        if write(&mut out).and_then(|()| out.flush()).is_err() {
            log::error!("a statistics message could not be encoded");
        }
    }
    bytes
}

/// How often the kernel's OOM killer hit a cgroup, since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct OomCounter {
    seen: u64,
}

impl OomCounter {
    /// Whether it hit again.
    pub(crate) fn advanced(&mut self, cgroup: &Cgroup) -> bool {
        let kills = kills(cgroup);
        let advanced = kills > self.seen;
        self.seen = kills;
        advanced
    }

    /// Whether it ever hit.
    pub(crate) fn ever(cgroup: &Cgroup) -> bool {
        kills(cgroup) > 0
    }
}

/// A kernel without the memory controller kills nothing on a container's account.
fn kills(cgroup: &Cgroup) -> u64 {
    let events = fs::read_to_string(cgroup.path.join("memory.events")).unwrap_or_default();
    field(&events, "oom_kill").unwrap_or(0)
}

impl Cgroup {
    /// The file that changes when the OOM killer hits.
    pub(crate) fn memory_events_file(&self) -> std::path::PathBuf {
        self.path.join("memory.events")
    }
}

#[cfg(test)]
mod tests {
    use protobuf::CodedInputStream;

    use super::*;

    /// Fields of a message: number and either an integer or bytes.
    fn fields(bytes: &[u8]) -> Vec<(u32, Result<u64, Vec<u8>>)> {
        let mut input = CodedInputStream::from_bytes(bytes);
        let mut fields = Vec::new();
        while let Some(tag) = input.read_raw_tag_or_eof().unwrap() {
            let value = match tag & 7 {
                0 => Ok(input.read_uint64().unwrap()),
                1 => Ok(input.read_fixed64().unwrap()),
                2 => Err(input.read_bytes().unwrap()),
                kind => panic!("wire type {kind}"),
            };
            fields.push((tag >> 3, value));
        }
        fields
    }

    fn sub(bytes: &[u8], number: u32) -> Vec<u8> {
        let found = fields(bytes)
            .into_iter()
            .find(|(field, _)| *field == number);
        found.unwrap().1.unwrap_err()
    }

    fn value(bytes: &[u8], number: u32) -> u64 {
        let found = fields(bytes)
            .into_iter()
            .find(|(field, _)| *field == number);
        found.unwrap().1.unwrap()
    }

    #[test]
    fn files_become_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write(
            "cpu.stat",
            "usage_usec 120\nuser_usec 70\nsystem_usec 50\nnr_bursts 3\n",
        );
        write("pids.current", "4\n");
        write("pids.max", "max\n");
        write("memory.stat", "anon 4096\nfile 8192\npgfault 11\n");
        write("memory.current", "16384\n");
        write("memory.max", "32768\n");
        write("memory.events", "oom_kill 2\n");
        write("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\n");
        write(
            "cpu.pressure",
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n",
        );
        write("hugetlb.2MB.current", "2097152\n");
        write("hugetlb.2MB.max", "max\n");
        write("hugetlb.2MB.rsvd.current", "0\n");
        let cgroup = Cgroup {
            path: dir.path().to_owned(),
        };
        let bytes = metrics(&cgroup).unwrap();
        assert_eq!(value(&sub(&bytes, 1), 1), 4);
        assert_eq!(value(&sub(&bytes, 1), 2), u64::MAX);
        let cpu = sub(&bytes, 2);
        assert_eq!((value(&cpu, 1), value(&cpu, 8)), (120, 3));
        let some = sub(&sub(&cpu, 7), 1);
        assert_eq!((f64::from_bits(value(&some, 1)), value(&some, 4)), (1.5, 9));
        let memory = sub(&bytes, 4);
        assert_eq!((value(&memory, 1), value(&memory, 18)), (4096, 11));
        assert_eq!((value(&memory, 32), value(&memory, 33)), (16384, 32768));
        let io = sub(&sub(&bytes, 6), 1);
        assert_eq!((value(&io, 1), value(&io, 3), value(&io, 6)), (8, 1, 4));
        let huge = sub(&bytes, 7);
        assert_eq!(
            (value(&huge, 1), sub(&huge, 3)),
            (2_097_152, b"2MB".to_vec())
        );
        assert_eq!(value(&sub(&bytes, 8), 5), 2);
    }

    #[test]
    fn the_guests_figures_are_its_roots_and_else_its_containers() {
        let dir = tempfile::tempdir().unwrap();
        let containers = dir.path().join("containers");
        fs::create_dir(&containers).unwrap();
        fs::write(dir.path().join("cpu.stat"), "usage_usec 120\n").unwrap();
        fs::write(dir.path().join("memory.stat"), "anon 4096\n").unwrap();
        fs::write(containers.join("memory.stat"), "anon 1\n").unwrap();
        fs::write(containers.join("memory.current"), "2\n").unwrap();
        fs::write(containers.join("pids.current"), "3\n").unwrap();
        let bytes = encoded(&Source::Guest {
            root: dir.path(),
            containers: &containers,
            meminfo: "MemTotal:  8 kB\nMemFree:  5 kB\n",
        })
        .unwrap();
        assert_eq!(value(&sub(&bytes, 1), 1), 3);
        assert_eq!(value(&sub(&bytes, 2), 1), 120);
        let memory = sub(&bytes, 4);
        let [anon, used, total] = [1, 32, 33].map(|field| value(&memory, field));
        assert_eq!((anon, used, total), (4096, 3 << 10, 8 << 10));
    }

    #[test]
    fn the_counter_tells_new_kills() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = Cgroup {
            path: dir.path().to_owned(),
        };
        let mut counter = OomCounter::default();
        assert!(!counter.advanced(&cgroup) && !OomCounter::ever(&cgroup));
        fs::write(cgroup.memory_events_file(), "oom 1\noom_kill 1\n").unwrap();
        assert!(counter.advanced(&cgroup) && OomCounter::ever(&cgroup));
        assert!(!counter.advanced(&cgroup));
    }
}
