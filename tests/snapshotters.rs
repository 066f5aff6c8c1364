//! Roots from containerd's snapshotters other than overlayfs.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::Outcome;
use harness::containerd::{BUSYBOX, CONFIGURATION, Containerd, RUNTIME, path};
use harness::cri::Cri;
use harness::layout::{Entry, TestImage, archive};
use harness::namespaces::mounts_below;
use k8s_cri::v1::{ImageSpec, ImageStatusRequest};
use tempfile::TempDir;

/// The files below a directory that block devices are made of.
fn loop_devices(dir: &Path) -> Vec<String> {
    let listed = Command::new("losetup")
        .args(["--list", "--noheadings", "--output", "BACK-FILE"])
        .output();
    let listed = Outcome(listed.expect("losetup runs")).ok();
    let dir = dir.display().to_string();
    listed
        .lines()
        .map(str::to_owned)
        .filter(|file| file.starts_with(&dir))
        .collect()
}

/// Containers run and write into their roots, each into its own, and leave nothing.
fn write_into_roots_of(containerd: &Containerd, snapshotter: &str) {
    let options = ["--snapshotter", snapshotter];
    let script =
        "test ! -e /written && echo kept > /written && cat /written && rm /bin/vi && ls /bin/vi";
    let mut devices = Vec::new();
    for id in ["one", "two"] {
        let outcome = containerd.run(&options, id, &["sh", "-c", script]);
        let errors = outcome.stderr();
        assert_eq!(outcome.stdout(), "kept\n", "{errors}");
        assert!(errors.contains("No such file"), "{errors}");
        containerd.assert_no_pods();
        devices.push(loop_devices(containerd.dir()));
    }
    // There are those of the image, and the first container was made when it was unpacked.
    assert_eq!(devices[0], devices[1]);
}

/// The same where it is the guest that mounts the roots, without a copy of any: `cache` is where images would be.
fn write_into_roots_that_the_guest_mounts(containerd: &Containerd, snapshotter: &str, more: &str) {
    let cache = containerd.dir().join("no-images");
    let settings = format!(
        "root.kind = \"image\"\nroot.cache_dir = {:?}\n{more}",
        cache.display().to_string()
    );
    containerd.set(&settings);
    write_into_roots_of(containerd, snapshotter);
    let images = fs::read_dir(cache).into_iter().flatten();
    assert_eq!(images.count(), 0);
}

/// What a container has written is there when it is started again, by its guest and by the host.
fn keep_what_is_written(containerd: &Containerd, snapshotter: &str) {
    let script = "[ ! -e /sum ] || sha256sum -c /sum; \
                  head -c 3000000 /dev/urandom > /large && sha256sum /large > /sum && cat /sum";
    let container = ["run", "--runtime", RUNTIME, "--snapshotter", snapshotter];
    let command = [BUSYBOX, "kept", "sh", "-c", script];
    let first = containerd.ctr([&container[..], &command].concat()).ok();
    let start = || containerd.ctr(["tasks", "start", "kept"]).ok();
    let second = start();
    assert!(second.starts_with("/large: OK\n"), "{first}{second}");
    containerd.set("root.kind = \"shared\"\n");
    let third = start();
    assert!(third.starts_with("/large: OK\n"), "{second}{third}");
    let _ = containerd.ctr(["containers", "rm", "kept"]).ok();
    containerd.assert_no_pods();
}

#[test]
fn a_root_may_be_a_copy() {
    let containerd = Containerd::new();
    write_into_roots_of(&containerd, "native");
}

#[test]
fn a_root_may_be_a_file_with_a_file_system() {
    let mut containerd = Containerd::new();
    let dir = containerd.dir().join("blockfile");
    let scratch = containerd.dir().join("scratch");
    let file = File::create(&scratch).expect("a file");
    file.set_len(32 << 20).expect("a size");
    let made = Command::new("mkfs.ext4").arg("-q").arg(&scratch).output();
    let _ = Outcome(made.expect("mkfs.ext4 runs")).ok();
    containerd.configure(&format!(
        r#"
[plugins."io.containerd.snapshotter.v1.blockfile"]
  root_path = "{}"
  scratch_file = "{}"
  fs_type = "ext4"
"#,
        dir.display(),
        scratch.display()
    ));
    if !containerd.has_plugin("blockfile") {
        eprintln!("this containerd has no snapshotter blockfile: nothing is tested");
        return;
    }
    write_into_roots_of(&containerd, "blockfile");
    write_into_roots_that_the_guest_mounts(&containerd, "blockfile", "");
    let running = ["run", "--detach", "--runtime", RUNTIME, "--snapshotter"];
    let command = ["blockfile", BUSYBOX, "running", "sleep", "1000"];
    let _ = containerd.ctr([&running[..], &command].concat()).ok();
    assert_eq!(loop_devices(containerd.dir()), [""; 0]);
    let _ = containerd.ctr(["tasks", "rm", "--force", "running"]).ok();
    let _ = containerd.ctr(["containers", "rm", "running"]).ok();
    keep_what_is_written(&containerd, "blockfile");
    assert_eq!(loop_devices(containerd.dir()), [""; 0]);
    assert_eq!(mounts_below(&dir).len(), 0);
}

/// Whether this machine's `mkfs.erofs` makes a file system of an archive, which containerd asks for; Debian
/// 12's is too old.
fn reads_archives() -> bool {
    let path = path();
    let mut places = std::env::split_paths(&path).map(|dir| dir.join("mkfs.erofs"));
    let found = places.find(|place| place.is_file()).unwrap_or_default();
    let help = Command::new(found).arg("--help").output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--tar"))
}

/// Has containerd mount layers from files. False where it cannot.
fn use_erofs(containerd: &mut Containerd) -> bool {
    containerd.configure(&format!(
        r#"
[plugins."io.containerd.snapshotter.v1.erofs"]
  root_path = "{}"
[plugins."io.containerd.service.v1.diff-service"]
  default = ["erofs", "walking"]
"#,
        containerd.dir().join("erofs").display()
    ));
    let can = reads_archives() && containerd.has_plugin("erofs");
    if !can {
        eprintln!("no snapshotter erofs, or a mkfs.erofs before 1.7: nothing is tested");
    }
    can
}

#[test]
fn a_root_may_be_of_layers_that_are_file_systems_in_files() {
    let mut containerd = Containerd::new();
    if use_erofs(&mut containerd) {
        write_into_roots_of(&containerd, "erofs");
        for more in ["", "root.disk_size = \"64MiB\"\n"] {
            write_into_roots_that_the_guest_mounts(&containerd, "erofs", more);
        }
    }
}

/// Waits until the CRI knows an image, which it hears of from containerd.
async fn wait_for_image(cri: &mut Cri, name: &str) {
    let request = ImageStatusRequest {
        image: Some(ImageSpec {
            image: name.to_owned(),
            ..Default::default()
        }),
        verbose: false,
    };
    loop {
        let answer = cri.images().image_status(request.clone()).await;
        if answer.expect("a status").into_inner().image.is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_layer_may_be_mounted_while_its_pod_runs() {
    const IMAGE: &str = "localhost/later:1";
    let mut containerd = Containerd::new();
    let file = containerd.dir().join(CONFIGURATION);
    let configuration = fs::read_to_string(&file).expect("read");
    let runtime = format!("runtime_type = \"{RUNTIME}\"");
    let with_snapshotter = format!("{runtime}\n  snapshotter = \"erofs\"");
    fs::write(&file, configuration.replace(&runtime, &with_snapshotter)).expect("written");
    if !use_erofs(&mut containerd) {
        return;
    }
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("early").await;
    let program = fs::read("/bin/busybox").expect("read");
    let layer = archive(&[
        Entry::Directory("bin"),
        Entry::File("bin/busybox", &program),
        Entry::File("later", b"mounted\n"),
    ]);
    let layout = TempDir::new().expect("a directory");
    let image = TestImage::new(layer).write(layout.path());
    containerd.import("k8s.io", &image, IMAGE);
    wait_for_image(&mut cri, IMAGE).await;
    let mut config = Cri::container_config("c", &["/bin/busybox", "sleep", "1000"]);
    config.image.as_mut().expect("an image").image = IMAGE.to_owned();
    let id = cri.start(&pod, config).await;
    let read = cri.exec(&id, &["/bin/busybox", "cat", "/later"]).await;
    assert_eq!(read.ok(), "mounted\n");
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

/// What a command prints that has to succeed.
fn printed(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    if !Path::new("/run/udev/control").exists() {
        command.env("DM_DISABLE_UDEV", "1");
    }
    let output = command.args(arguments).output();
    Outcome(output.unwrap_or_else(|error| panic!("{program}: {error}"))).ok()
}

/// A pool of thin volumes in files, and whatever is made of it. Gone when dropped.
struct ThinPool {
    name: String,
    devices: Vec<String>,
}

impl ThinPool {
    /// `None` where the kernel has no such pools.
    fn new(dir: &Path) -> Option<Self> {
        const SECTOR: u64 = 512;
        const DATA: u64 = 1 << 30;
        // Where there is no such module, it may be part of the kernel.
        let _ = Command::new("modprobe")
            .args(["-q", "dm_thin_pool"])
            .output();
        let targets = Command::new("dmsetup").arg("targets").output().ok()?;
        if !String::from_utf8_lossy(&targets.stdout).contains("thin-pool") {
            return None;
        }
        let mut pool = Self {
            name: format!("hull-{}", std::process::id()),
            devices: Vec::new(),
        };
        for (name, size) in [("metadata", 16 << 20), ("data", DATA)] {
            let path = dir.join(name);
            let file = File::create(&path).expect("a file");
            file.set_len(size).expect("a size");
            let path = path.display().to_string();
            let device = printed("losetup", &["--find", "--show", &path]);
            pool.devices.push(device.trim().to_owned());
        }
        let (sectors, devices) = (DATA / SECTOR, pool.devices.join(" "));
        let table = format!("0 {sectors} thin-pool {devices} 128 32768 1 skip_block_zeroing");
        let _ = printed("dmsetup", &["create", &pool.name, "--table", &table]);
        Some(pool)
    }

    /// The volumes that are active.
    fn volumes(&self) -> Vec<String> {
        let listed = printed("dmsetup", &["ls"]);
        let names = listed
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let prefix = format!("{}-", self.name);
        names
            .filter(|name| name.starts_with(&prefix))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for ThinPool {
    fn drop(&mut self) {
        let volumes = self.volumes().into_iter().chain([self.name.clone()]);
        for name in volumes {
            let _ = Command::new("dmsetup")
                .args(["remove", "--force", &name])
                .output();
        }
        for device in &self.devices {
            let _ = Command::new("losetup").args(["--detach", device]).output();
        }
    }
}

#[test]
fn a_root_may_be_a_thin_volume() {
    let mut containerd = Containerd::new();
    let Some(pool) = ThinPool::new(containerd.dir()) else {
        eprintln!("this kernel has no thin pools of the device mapper: nothing is tested");
        return;
    };
    containerd.configure(&format!(
        r#"
[plugins."io.containerd.snapshotter.v1.devmapper"]
  root_path = "{}"
  pool_name = "{}"
  base_image_size = "64MB"
  fs_type = "ext4"
"#,
        containerd.dir().join("devmapper").display(),
        pool.name
    ));
    assert!(containerd.has_plugin("devmapper"), "{}", containerd.log());
    write_into_roots_of(&containerd, "devmapper");
    write_into_roots_that_the_guest_mounts(&containerd, "devmapper", "");
    keep_what_is_written(&containerd, "devmapper");
    // containerd removes those of containers when it has the time: also while this looks at them.
    for volume in pool.volumes() {
        let open = Command::new("dmsetup")
            .args(["info", "--columns", "--noheadings", "--options", "open"])
            .arg(&volume)
            .output()
            .expect("dmsetup");
        let unused = open.status.success() && open.stdout.trim_ascii() == b"0";
        assert!(
            unused || !pool.volumes().contains(&volume),
            "{volume} is in use: {open:?}"
        );
    }
    drop(containerd);
}
