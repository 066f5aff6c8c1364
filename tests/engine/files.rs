//! A container's files and volumes.

use std::fs;

use harness::engine::{BUSYBOX, Engine};

pub(crate) fn files_are_copied_in_and_out(engine: &Engine) {
    let dir = engine.dir().join("files");
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("in"), "from the host").expect("written");
    let path = |name: &str| dir.join(name).display().to_string();
    let script = "mkdir /out; echo 'from the container' > /out/file; echo ready; sleep 1000";
    engine.start("box", &[], script);
    engine.wait_for_output("box", "ready");
    let _ = engine.call(["cp", &path("in"), "box:/tmp/copied"]).ok();
    assert_eq!(engine.exec("box", "cat /tmp/copied").ok(), "from the host");
    let _ = engine.call(["cp", "box:/out", &path("out")]).ok();
    let out = fs::read_to_string(dir.join("out/file")).expect("it is there");
    assert_eq!(out, "from the container\n");

    // The same of one that does not run, and what becomes of its files as an image.
    let _ = engine.call(["kill", "box"]).ok();
    assert_eq!(engine.wait("box"), 137);
    let _ = engine.call(["cp", &path("in"), "box:/out/later"]).ok();
    let _ = engine.call(["commit", "box", "localhost/made:1"]).ok();
    let made = ["run", "--rm", "--network", "none", "localhost/made:1"];
    let command = ["cat", "/out/file", "/out/later"];
    let seen = engine.call([&made[..], &command].concat()).ok();
    assert_eq!(seen, "from the container\nfrom the host");
    let changes = engine.call(["diff", "box"]).ok();
    assert!(changes.contains("A /out/file"), "{changes}");
}

pub(crate) fn volumes_hold_files(engine: &Engine) {
    let dir = engine.dir().join("shared");
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("file"), "of the host\n").expect("written");
    let dir = dir.display();
    let options = [
        &format!("--volume={dir}:/bound"),
        &format!("--volume={dir}:/fixed:ro"),
        &format!("--volume={dir}/file:/single:ro"),
        "--volume=named:/named",
        "--tmpfs=/memory:size=1m,mode=700",
        "--read-only",
    ];
    let script = "cat /bound/file /single
        echo written > /bound/new; cat /fixed/new
        echo no > /fixed/new 2> /dev/null || echo fixed
        echo no > /new 2> /dev/null || echo read-only
        echo kept > /named/file
        grep -c ' /memory tmpfs ' /proc/mounts
        dd if=/dev/zero of=/memory/full bs=1M count=2 2> /dev/null || echo full";
    let seen = engine.run(&options, script).ok();
    assert_eq!(
        seen,
        "of the host\nof the host\nwritten\nfixed\nread-only\n1\nfull\n"
    );
    let written = fs::read_to_string(format!("{dir}/new")).expect("it is there");
    assert_eq!(written, "written\n");

    let again = engine
        .run(&["--volume=named:/elsewhere:ro"], "cat /elsewhere/file")
        .ok();
    assert_eq!(again, "kept\n");
    assert!(
        engine
            .call(["volume", "ls", "--quiet"])
            .ok()
            .contains("named")
    );
    let _ = engine.call(["volume", "rm", "named"]).ok();
}

pub(crate) fn containers_share_a_volume(engine: &Engine) {
    engine.start("one", &["--volume=both:/both"], "sleep 1000");
    let options = ["--volumes-from", "one"];
    let _ = engine
        .run(&options, "echo from the other > /both/file")
        .ok();
    assert_eq!(
        engine.exec("one", "cat /both/file").ok(),
        "from the other\n"
    );
    // An image's files come first into a new volume.
    let listed = [
        "run",
        "--rm",
        "--network",
        "none",
        "--volume=etc:/etc",
        BUSYBOX,
        "cat",
        "/etc/passwd",
    ];
    assert!(engine.call(listed).ok().starts_with("root:"));
}
