//! `hull check`: what this host can do, and what to do about what is missing.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use hull_sandbox::GuestFiles;
use hull_sandbox::mount::{self, MountSpec};
use hull_vm::process::find_program;
use hull_vm::{VmError, Vmm};
use nix::unistd::{Uid, geteuid};
use serde::Serialize;

use super::{CommandError, Context, print};
use crate::arguments::CheckArgs;
use crate::container::create_dir;
use crate::files::RootView;
use crate::id;
use crate::rootless;
use hull_shim::client::report::chain;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// As it should be.
    Ok,
    /// Hull works without it, less well.
    Limited,
    /// Hull does not work without it.
    Missing,
    /// Not there, and needed only by who asks for it.
    Absent,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    status: Status,
    /// What was found.
    detail: String,
    /// What to do; nothing when all is well.
    advice: Option<&'static str>,
}

fn ok(name: &'static str, detail: impl Into<String>) -> Finding {
    Finding {
        name,
        status: Status::Ok,
        detail: detail.into(),
        advice: None,
    }
}

fn limited(name: &'static str, detail: impl Into<String>, advice: &'static str) -> Finding {
    Finding {
        name,
        status: Status::Limited,
        detail: detail.into(),
        advice: Some(advice),
    }
}

fn missing(name: &'static str, detail: impl Into<String>, advice: &'static str) -> Finding {
    Finding {
        status: Status::Missing,
        ..limited(name, detail, advice)
    }
}

/// `hull check`.
pub(crate) fn check(context: &Context, args: &CheckArgs) -> Result<u8, CommandError> {
    let user = geteuid();
    let mut findings = vec![kvm()];
    findings.extend(Vmm::ALL.iter().copied().map(vmm));
    findings.extend([
        guest(),
        programs(),
        landlock(),
        passt(),
        mkfs_erofs(),
        vhost(),
        tap(),
    ]);
    // In this order: the overlay is tried in the user namespace.
    findings.push(user_namespace(context, user));
    findings.push(overlay(context));
    let works = findings
        .iter()
        .all(|finding| finding.status != Status::Missing);
    let text = match args.json {
        true => format!("{:#}\n", serde_json::json!(findings)),
        false => report(&findings),
    };
    print(&text)?;
    Ok(u8::from(!works))
}

fn report(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.status {
            Status::Ok => "ok",
            Status::Limited => "limited",
            Status::Missing => "MISSING",
            Status::Absent => "absent",
        };
        writeln!(text, "{mark:8} {:16} {}", finding.name, finding.detail)
            .expect("a String takes everything");
        if let Some(advice) = finding.advice {
            writeln!(text, "{:25} -> {advice}", "").expect("a String takes everything");
        }
    }
    text
}

/// Opens a device as whoever uses it does.
fn open(device: &str) -> io::Result<fs::File> {
    fs::File::options().read(true).write(true).open(device)
}

fn kvm() -> Finding {
    const NAME: &str = "KVM";
    match hull_vm::accel::kvm_problem() {
        None => ok(NAME, "a guest's instructions run in hardware"),
        Some(problem) if !Path::new("/dev/kvm").exists() => limited(
            NAME,
            format!("{problem}; guests run on QEMU's TCG, which is slow"),
            "enable virtualisation in the firmware, or nested virtualisation for this machine, and load kvm_intel or kvm_amd",
        ),
        Some(problem) if open("/dev/kvm").is_err() => limited(
            NAME,
            format!("{problem}; guests run on QEMU's TCG, which is slow"),
            "add yourself to the group of /dev/kvm: `sudo usermod -aG kvm $USER`, then log in again",
        ),
        Some(problem) => limited(
            NAME,
            format!("{problem}; guests run on QEMU's TCG, which is slow"),
            "this host's KVM cannot run guests: use a host with (nested) hardware virtualisation",
        ),
    }
}

fn tap() -> Finding {
    const NAME: &str = "tap devices";
    match open("/dev/net/tun") {
        Ok(_) => ok(NAME, "pods of containerd and Kubernetes have a network"),
        Err(error) => limited(
            NAME,
            format!(
                "/dev/net/tun: {error}; `hull run` with QEMU does not need it, other VMMs and pods of containerd and \
                 Kubernetes have no network"
            ),
            "`sudo modprobe tun`",
        ),
    }
}

/// A VMM, and what its driver can do.
fn vmm(vmm: Vmm) -> Finding {
    let name = vmm.name();
    let program = vmm.program();
    // Only the default one is needed.
    let (without, broken) = match vmm == Vmm::default() {
        true => (Status::Missing, Status::Missing),
        false => (Status::Absent, Status::Limited),
    };
    let wrong = |status, detail: String, advice| Finding {
        status,
        ..limited(name, detail, advice)
    };
    let path = match program.find() {
        Ok(path) => path,
        // Its advice is in the finding.
        Err(VmError::ProgramMissing { advice, .. }) => {
            return wrong(without, "not found in PATH".to_owned(), advice);
        }
        Err(error) => return wrong(without, chain(&error), program.advice),
    };
    let found = program.version(&path).and_then(|version| {
        let can = vmm.driver()?.capabilities();
        Ok(format!("{version} ({}): {can}", path.display()))
    });
    match found {
        Ok(found) => ok(name, found),
        Err(error) => wrong(
            broken,
            chain(&error),
            "install it again, or correct its variable",
        ),
    }
}

fn guest() -> Finding {
    const NAME: &str = "guest";
    match GuestFiles::find() {
        Ok(guest) if guest.kernel.is_file() && guest.initramfs.is_file() => {
            ok(NAME, guest.kernel.display().to_string())
        }
        Ok(guest) => missing(
            NAME,
            format!(
                "{} or its initramfs.img is not there",
                guest.kernel.display()
            ),
            "build it with `make guest`, or correct the variable HULL_GUEST",
        ),
        Err(error) => missing(
            NAME,
            chain(&error),
            "build it with `make guest`, or install Hull with `make install`",
        ),
    }
}

fn programs() -> Finding {
    const NAME: &str = "Hull's programs";
    let needed = [
        "containerd-shim-hull-v2",
        "hull-fs",
        "hull-vsock",
        "hull-net",
    ];
    let absent: Vec<_> = needed
        .into_iter()
        .filter(|program| find_program(program).is_none())
        .collect();
    match absent[..] {
        [] => ok(NAME, "pod process, virtio-fs, vsock and network filter"),
        _ => missing(
            NAME,
            format!("no {}", absent.join(", ")),
            "install Hull again",
        ),
    }
}

fn landlock() -> Finding {
    const NAME: &str = "Landlock";
    match hull_vm::has_landlock() {
        true => ok(
            NAME,
            "a VMM reaches no files of the host's but those that it needs",
        ),
        false => limited(
            NAME,
            "not there: file modes alone keep a VMM from the host's files",
            "use a kernel with it (Linux 5.13), and name it in `lsm=` where the kernel's command line has that",
        ),
    }
}

fn passt() -> Finding {
    const NAME: &str = "passt";
    match find_program("passt") {
        Some(program) => ok(NAME, program.display().to_string()),
        None => limited(
            NAME,
            "not found: only --network none works",
            "install it: `sudo apt-get install passt`",
        ),
    }
}

fn mkfs_erofs() -> Finding {
    const NAME: &str = "mkfs.erofs";
    match find_program(NAME) {
        Some(program) => ok(NAME, program.display().to_string()),
        None => Finding {
            status: Status::Absent,
            ..limited(
                NAME,
                "not found: no images of roots (root.kind)",
                "install it: `sudo apt-get install erofs-utils`",
            )
        },
    }
}

fn vhost() -> Finding {
    let detail = match open("/dev/vhost-net").is_ok() {
        true => "under KVM the kernel carries the packets of pods of containerd and Kubernetes",
        false => "not there: the VMM carries the packets of pods, which is slower",
    };
    ok("vhost-net", detail)
}

/// Makes this process root in a namespace of its own when it is an ordinary user's.
fn user_namespace(context: &Context, user: Uid) -> Finding {
    const NAME: &str = "user namespaces";
    if user.is_root() {
        return ok(NAME, "not needed: you are root");
    }
    let ranges = rootless::own_ranges(user).is_some();
    let tools = rootless::find("newuidmap").is_some() && rootless::find("newgidmap").is_some();
    match (rootless::enter(&context.locations.state), ranges, tools) {
        (Err(error), ..) => missing(
            NAME,
            chain(&error),
            "allow them: `sudo sysctl kernel.unprivileged_userns_clone=1` (Debian), `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu), or user.max_user_namespaces above 0",
        ),
        (Ok(()), true, true) => ok(NAME, "with the ranges in /etc/subuid and /etc/subgid"),
        (Ok(()), _, false) => limited(
            NAME,
            "only your own id: images lose their files' owners",
            "install newuidmap and newgidmap: `sudo apt-get install uidmap`",
        ),
        (Ok(()), false, true) => limited(
            NAME,
            "only your own id: images lose their files' owners",
            "get ranges: `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER`",
        ),
    }
}

/// Tries what every container's root is, in the directory where they are.
fn overlay(context: &Context) -> Finding {
    const NAME: &str = "overlayfs";
    let tried = context
        .locations
        .data
        .join(format!("check-{}", id::random()));
    let found = try_overlay(&tried);
    if let Err(error) = fs::remove_dir_all(&tried)
        && tried.exists()
    {
        return limited(
            NAME,
            format!("cannot remove {}: {error}", tried.display()),
            "remove it",
        );
    }
    let place = context.locations.data.display();
    match found {
        Ok(()) => ok(NAME, format!("works in {place}")),
        Err(problem) => missing(
            NAME,
            format!("{place}: {problem}"),
            "keep Hull's data on ext4, XFS or btrfs: set HULL_ROOT or use --root",
        ),
    }
}

fn try_overlay(dir: &Path) -> Result<(), String> {
    let path = |name: &str| dir.join(name);
    for name in ["lower", "upper", "work", "at"] {
        create_dir(&path(name)).map_err(|error| chain(&error))?;
    }
    let option = |key: &str, name: &str| mount::overlay::option(key, &[path(name)]);
    let mut root = MountSpec {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec![
            option("lowerdir", "lower"),
            option("upperdir", "upper"),
            option("workdir", "work"),
        ],
    };
    let privileged = RootView::mount(&root, &path("at"));
    let view = privileged.or_else(|_| {
        root.options.push("userxattr".to_owned());
        RootView::mount(&root, &path("at"))
    });
    let view = view.map_err(|error| chain(&error))?;
    view.create_dir_all(Path::new("/made"))
        .map_err(|error| error.to_string())?;
    match path("upper/made").is_dir() {
        true => Ok(()),
        false => Err("what is written does not arrive in the upper directory".to_owned()),
    }
}
