//! Bad input: one clear line, a documented exit code, and nothing changes.

use harness::machine::vmm_variable;
use harness::traces::processes_with;
use harness::{Hull, busybox};

#[test]
fn bad_flag_values_are_refused() {
    let hull = Hull::new();
    for options in [
        &["--memory", "0"][..],
        &["--memory", "lots"],
        &["--cpus", "-1"],
        &["--cpus", "0"],
        &["--pids-limit", "x"],
        &["-p", "99999:1"],
        &["-v", "relative/../path:/x:bogus"],
        &["--cap-add", "NO_SUCH_CAP"],
        &["--security-opt", "bogus=1"],
        &["--ulimit", "nofile"],
        &["--vmm", "bochs"],
        &["--name", "../escape"],
        &["-w", "relative"],
    ] {
        let line = hull.run(options, &["true"]).one_error(125);
        assert!(line.contains(options[1]), "{options:?}: {line}");
    }
    assert_eq!(hull.hull(["ps", "-a", "-q"]).ok(), "");
    let left = processes_with(&hull.root().display().to_string());
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn an_unknown_image_user_or_command_is_one_line() {
    let hull = Hull::new();
    let unknown = hull.hull(["run", "--rm", "oci:/no/such/layout", "true"]);
    let _ = unknown.one_error(125);
    assert!(
        hull.run(&["-u", "nobody-such"], &["true"])
            .one_error(125)
            .contains("nobody-such")
    );
}

#[test]
fn a_file_that_is_no_kernel_is_named() {
    let hull = Hull::new();
    let guest = tempfile::tempdir().expect("a directory");
    std::fs::write(guest.path().join("vmlinux"), "not a kernel").expect("written");
    std::fs::write(guest.path().join("initramfs.img"), "").expect("written");
    let outcome = hull
        .command(harness::run_arguments(&[], &["true"]))
        .env("HULL_GUEST", guest.path())
        .output()
        .expect("hull starts");
    let line = harness::Outcome(outcome).one_error(125);
    assert!(
        line.contains("is not an uncompressed x86-64 ELF kernel"),
        "{line}"
    );
}

#[test]
fn a_missing_vmm_is_named() {
    let hull = Hull::new();
    let outcome = hull
        .command(harness::run_arguments(&[], &["true"]))
        .env(vmm_variable(), "/no/such/vmm")
        .output()
        .expect("hull starts");
    let line = harness::Outcome(outcome).one_error(125);
    assert!(line.contains("/no/such/vmm"), "{line}");
    assert!(line.contains(vmm_variable()), "{line}");
    assert_eq!(hull.hull(["ps", "-a", "-q"]).ok(), "", "{}", busybox());
}
