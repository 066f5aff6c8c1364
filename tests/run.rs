//! `hull run`: what a command sees, and what becomes of its streams and its exit code.

use harness::{Hull, debian};

#[test]
fn the_kernel_is_the_guests() {
    let hull = Hull::new();
    let host = nix::sys::utsname::uname().expect("uname");
    let guest = hull.run(&[], &["uname", "-r"]).ok();
    assert_ne!(guest.trim(), host.release().to_string_lossy());
    assert!(guest.starts_with("6.12."), "{guest}");
}

#[test]
fn a_whole_distribution_runs() {
    let hull = Hull::new();
    let script = "uname -r; . /etc/os-release; echo $ID; dpkg --status bash | grep ^Status; id -un";
    let options = ["run", "--rm", "--network", "none"];
    let command = ["bash", "-c", script];
    let image = debian();
    let output = hull
        .hull(options.into_iter().chain([&*image]).chain(command))
        .ok();
    let (kernel, rest) = output.split_once('\n').expect("lines");
    assert!(kernel.ends_with("-hull"), "{kernel}");
    assert_eq!(rest, "debian\nStatus: install ok installed\nroot\n");
}

#[test]
fn exit_codes_are_the_commands() {
    let hull = Hull::new();
    // Nothing in a PID namespace can kill its first process, so a child is killed.
    let killed = "sh -c 'kill -9 $$'; exit $?";
    for (script, code) in [("exit 0", 0), ("exit 7", 7), (killed, 137)] {
        assert_eq!(
            hull.run(&[], &["sh", "-c", script]).code(),
            code,
            "{script}"
        );
    }
}

#[test]
fn a_missing_command_is_127_and_an_unusable_one_126() {
    let hull = Hull::new();
    let missing = hull.run(&[], &["/no/such/command"]);
    assert!(missing.one_error(127).contains("/no/such/command"));
    let unusable = hull.run(&[], &["/etc/passwd"]);
    assert!(unusable.one_error(126).contains("/etc/passwd"));
}

#[test]
fn standard_input_reaches_the_command_and_ends() {
    let hull = Hull::new();
    let outcome = hull.run_with_input(&["-i"], &["cat"], b"x\n");
    assert_eq!(outcome.ok(), "x\n");
}

#[test]
fn output_and_errors_stay_apart() {
    let hull = Hull::new();
    let outcome = hull.run(&[], &["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(outcome.ok(), "out\n");
    assert_eq!(outcome.stderr(), "err\n");
}

/// 64 MiB by default, so that a translated CPU has a chance; `HULL_TEST_STREAM_MIB` sets another.
#[test]
fn bulk_data_passes_through_byte_for_byte() {
    let mib: usize = harness::number("HULL_TEST_STREAM_MIB", 64);
    let hull = Hull::new();
    // A sequence that no lost, doubled or swapped block survives.
    let input: Vec<u8> = (0..(mib << 20) / 4)
        .flat_map(|n| {
            u32::try_from(n)
                .expect("at most 16 GiB")
                .wrapping_mul(2_654_435_761)
                .to_le_bytes()
        })
        .collect();
    let outcome = hull.run_with_input(&["-i"], &["cat"], &input);
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr());
    assert_eq!(outcome.0.stdout.len(), input.len());
    assert!(outcome.0.stdout == input, "the bytes differ");
}

#[test]
fn environment_user_and_directory_are_set() {
    let hull = Hull::new();
    let options = [
        "-e",
        "GREETING=hello world",
        "-w",
        "/tmp",
        "-u",
        "1000:1001",
        "--hostname",
        "box",
    ];
    let script = "echo $GREETING; pwd; id -u; id -g; hostname";
    let outcome = hull.run(&options, &["sh", "-c", script]);
    assert_eq!(outcome.ok(), "hello world\n/tmp\n1000\n1001\nbox\n");
}

#[test]
fn limits_are_enforced_by_the_guests_cgroups() {
    let hull = Hull::new();
    let options = ["--memory", "256m", "--pids-limit", "50", "--cpus", "1"];
    let script = "cat /sys/fs/cgroup/pids.max; nproc";
    assert_eq!(hull.run(&options, &["sh", "-c", script]).ok(), "50\n1\n");
}

#[test]
fn a_read_only_root_and_a_tmpfs() {
    let hull = Hull::new();
    let script = "touch /x 2>/dev/null && echo written; touch /scratch/x && echo scratch";
    let outcome = hull.run(
        &["--read-only", "--tmpfs", "/scratch"],
        &["sh", "-c", script],
    );
    assert_eq!(outcome.ok(), "scratch\n");
}

#[test]
fn volumes_are_seen_both_ways() {
    let hull = Hull::new();
    let volume = tempfile::tempdir().expect("a directory");
    std::fs::write(volume.path().join("in"), "from the host").expect("written");
    let mount = format!("{}:/data", volume.path().display());
    let script = "cat /data/in; echo from the guest > /data/out";
    assert_eq!(
        hull.run(&["-v", &mount], &["sh", "-c", script]).ok(),
        "from the host"
    );
    let written = std::fs::read_to_string(volume.path().join("out")).expect("written in the guest");
    assert_eq!(written, "from the guest\n");

    let read_only = format!("{mount}:ro");
    let outcome = hull.run(&["-v", &read_only], &["sh", "-c", "touch /data/new"]);
    assert_ne!(outcome.code(), 0);
    assert!(!volume.path().join("new").exists());
}

#[test]
fn capabilities_are_dockers_and_can_be_dropped() {
    let hull = Hull::new();
    let effective = |options: &[&str]| {
        let status = hull
            .run(options, &["grep", "CapEff", "/proc/self/status"])
            .ok();
        let value = status
            .split_whitespace()
            .nth(1)
            .expect("a value")
            .to_owned();
        u64::from_str_radix(&value, 16).expect("hexadecimal")
    };
    assert_eq!(effective(&[]), 0xa804_25fb);
    assert_eq!(effective(&["--cap-drop", "ALL"]), 0);
    assert_eq!(effective(&["--cap-drop", "ALL", "--cap-add", "CHOWN"]), 1);
}

#[test]
fn seccomp_filters_are_on() {
    let hull = Hull::new();
    let mode = |options: &[&str]| {
        let status = hull
            .run(options, &["grep", "^Seccomp:", "/proc/self/status"])
            .ok();
        status
            .split_whitespace()
            .nth(1)
            .expect("a value")
            .to_owned()
    };
    assert_eq!(mode(&[]), "2");
    assert_eq!(mode(&["--security-opt", "seccomp=unconfined"]), "0");
}
