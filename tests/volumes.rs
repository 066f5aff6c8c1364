//! What the CRI mounts into containers, and the disks that it gives them.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use harness::containerd::Containerd;
use harness::cri::Cri;
use hull_loop::{Access, LoopDevice};
use k8s_cri::v1::{ContainerConfig, Device, Mount};
use nix::mount::{MsFlags, mount};

#[tokio::test]
async fn volumes_are_those_of_the_host() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("volumes").await;
    let volumes = containerd.dir().join("volumes");
    // As a kubelet writes a ConfigMap: a link that is replaced at once with all that it leads to.
    let config_map = volumes.join("config-map");
    let write = |version: &str| {
        let data = config_map.join(format!("..{version}"));
        fs::create_dir_all(&data).expect("a directory");
        fs::write(data.join("key"), version).expect("written");
        symlink(format!("..{version}"), config_map.join("..new")).expect("linked");
        fs::rename(config_map.join("..new"), config_map.join("..data")).expect("renamed");
    };
    write("one");
    symlink("..data/key", config_map.join("key")).expect("linked");
    let disk = volumes.join("disk");
    fs::create_dir_all(disk.join("sub")).expect("a directory");
    let memory = volumes.join("memory");
    fs::create_dir(&memory).expect("a directory");
    let small = Some("size=1m");
    mount(
        Some("tmpfs"),
        &memory,
        Some("tmpfs"),
        MsFlags::empty(),
        small,
    )
    .expect("tmpfs");
    let file = volumes.join("termination");
    fs::write(&file, "").expect("written");

    let volume = |host: &Path, container: &str, readonly| Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        readonly,
        ..Default::default()
    };
    let mut config = Cri::container_config("c", &["sleep", "1000"]);
    config.mounts = vec![
        volume(&config_map, "/config", true),
        volume(&disk, "/disk", false),
        volume(&disk.join("sub"), "/sub", true),
        volume(&memory, "/memory", false),
        volume(&file, "/dev/termination-log", false),
    ];
    let id = cri.start(&pod, config).await;
    let mut shell = async |script: &str| cri.exec(&id, &["sh", "-c", script]).await;

    assert_eq!(shell("cat /config/key").await.ok(), "one");
    write("two");
    // The guest looks again when what it knows of a file is a second old.
    let seen = "until [ \"$(cat /config/key)\" = two ]; do sleep 0.1; done";
    let _ = shell(seen).await.ok();
    assert_ne!(shell("echo x > /config/new").await.code, 0);

    let _ = shell("echo from the pod > /disk/sub/a").await.ok();
    assert_eq!(
        fs::read_to_string(disk.join("sub/a")).expect("read"),
        "from the pod\n"
    );
    assert_eq!(shell("cat /sub/a").await.ok(), "from the pod\n");
    assert_ne!(shell("echo x > /sub/b").await.code, 0);

    let full = shell("dd if=/dev/zero of=/memory/big bs=1k count=2000 conv=fsync").await;
    assert!(full.stderr.contains("No space left"), "{full:?}");

    let _ = shell("echo bye > /dev/termination-log").await.ok();
    assert_eq!(fs::read_to_string(&file).expect("read"), "bye\n");
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

fn disk_over(image: &Path) -> LoopDevice {
    let disk = LoopDevice::over(image, Access::default());
    disk.expect("root, and a kernel with loop devices")
}

/// A container that waits, with a disk of the host at `/dev/data`. `permissions` are of `r`, `w` and `m`.
fn with_disk(name: &str, disk: &Path, permissions: &str) -> ContainerConfig {
    let mut config = Cri::container_config(name, &["sleep", "1000"]);
    config.devices = vec![Device {
        container_path: "/dev/data".to_owned(),
        host_path: disk.display().to_string(),
        permissions: permissions.to_owned(),
    }];
    config
}

#[tokio::test]
async fn a_raw_block_volume_is_the_hosts_disk() {
    const SIZE: usize = 4 << 20;
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let image = containerd.dir().join("disk");
    fs::write(&image, vec![b'h'; SIZE]).expect("written");
    let disk = disk_over(&image);
    let pod = cri.run_pod("disks").await;
    let one = cri.start(&pod, with_disk("one", disk.path(), "rwm")).await;
    let two = cri.start(&pod, with_disk("two", disk.path(), "mrw")).await;
    let reader = cri.start(&pod, with_disk("reader", disk.path(), "r")).await;
    let mut shell = async |id: &str, script: &str| cri.exec(id, &["sh", "-c", script]).await;

    for id in [&one, &reader] {
        let size = shell(id, "blockdev --getsize64 /dev/data").await.ok();
        assert_eq!(size.trim().parse(), Ok(SIZE));
        let read = shell(id, "dd if=/dev/data bs=1k skip=4095 2> /dev/null").await;
        assert_eq!(read.ok(), "h".repeat(1024));
    }
    // What one container writes the other sees at once, and the host when it is flushed.
    let write = "printf guest | dd of=/dev/data bs=512 seek=3 conv=notrunc";
    let _ = shell(&one, write).await.ok();
    let read = "dd if=/dev/data bs=512 skip=3 count=1 2> /dev/null | head -c 5";
    assert_eq!(shell(&two, read).await.ok(), "guest");
    let _ = shell(&one, &format!("{write},fsync")).await.ok();
    let mut on_host = [0; 6];
    let file = fs::File::open(&image).expect("opened");
    file.read_exact_at(&mut on_host, 3 * 512).expect("read");
    assert_eq!(&on_host, b"guesth");
    // And what the host no longer has to keep, it does not.
    let before = image.metadata().expect("a file").blocks();
    let _ = shell(&one, "blkdiscard -o 1048576 -l 2097152 /dev/data")
        .await
        .ok();
    let after = image.metadata().expect("a file").blocks();
    assert!(after <= before - (2 << 20) / 512, "{before}, {after}");

    let refused = shell(&reader, "printf x | dd of=/dev/data conv=notrunc").await;
    assert_ne!(refused.code, 0, "{refused:?}");
    // The number that the disk has on the host is none of the guest's.
    let number = disk.path().metadata().expect("a device").rdev();
    let (major, minor) = (libc::major(number), libc::minor(number));
    let node = format!("mknod /node b {major} {}; dd if=/node count=1", minor + 7);
    assert_ne!(shell(&one, &node).await.code, 0);

    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn a_file_system_on_a_block_volume_outlives_its_pod() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let image = containerd.dir().join("disk");
    let file = fs::File::create(&image).expect("a file");
    file.set_len(16 << 20).expect("a size");
    let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
    assert!(made.expect("e2fsprogs is installed").success());
    let disk = disk_over(&image);
    for script in [
        "mkdir /mnt && mount -t ext4 /dev/data /mnt && echo kept > /mnt/file",
        "mkdir /mnt && mount -t ext4 /dev/data /mnt && cat /mnt/file",
    ] {
        let pod = cri.run_pod("disk").await;
        let mut config = with_disk("c", disk.path(), "rwm");
        let linux = config.linux.as_mut().expect("for Linux");
        let context = linux.security_context.as_mut().expect("a context");
        let capabilities = context.capabilities.get_or_insert_default();
        capabilities.add_capabilities = vec!["SYS_ADMIN".to_owned()];
        let id = cri.start(&pod, config).await;
        let said = cri.exec(&id, &["sh", "-c", script]).await.ok();
        assert!(said.is_empty() || said == "kept\n", "{said}");
        cri.remove_pod(&pod).await;
    }
    containerd.assert_no_pods();
}
