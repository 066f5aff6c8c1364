//! Many containers at a time, made, entered and deleted by the runtime's own command line, over and over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use harness::bundle::Bundle;
use harness::namespaces::mounts_below;
use harness::number;
use harness::traces::{tree, wait_for_all};

fn cycle(bundle: &Bundle, id: &str) {
    bundle.call_without_streams(&["create", id]);
    let _ = bundle.call(&["start", id]).ok();
    let exec = bundle.call(&["exec", id, "sh", "-c", "echo inside"]);
    assert_eq!(exec.ok(), "inside\n");
    let _ = bundle.call(&["delete", "--force", id]).ok();
}

/// `HULL_TEST_WORKERS` at a time, each at least twice and for `HULL_TEST_SECONDS`.
#[test]
fn containers_come_and_go() {
    let workers = number("HULL_TEST_WORKERS", 4);
    let span = Duration::from_secs(number("HULL_TEST_SECONDS", 0));
    let bundle = Bundle::new("sleep 1000");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let bundle = &bundle;
            scope.spawn(move || {
                let mut cycles = 0;
                while cycles < 2 || begun.elapsed() < span {
                    cycle(bundle, &format!("w{worker}-{cycles}"));
                    cycles += 1;
                }
                eprintln!("worker {worker}: {cycles} cycles");
            });
        }
    });
    let listed = bundle.call(&["list", "--quiet"]);
    assert_eq!(listed.ok(), "");
    wait_for_all(bundle.dir());
    let dirs_of = |dir: &str, of: &str| {
        tree(&bundle.dir().join(dir), &|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.is_dir() && name.starts_with(of)
        })
    };
    let left = [dirs_of("hull", "oci-"), dirs_of("containers", "w")];
    assert!(left.iter().all(BTreeSet::is_empty), "{left:#?}");
    let mounts = mounts_below(bundle.dir());
    assert!(mounts.is_empty(), "{mounts:#?}");
}
