//! Configuration files: what counts, and what is said about those that are wrong.

use std::fs;
use std::path::Path;

use crate::support::Files;
use hull_config::{Acceleration, Config, LogLevel, Origin, Size, Vmm};

/// What a person is told about a file.
fn refusal(text: impl AsRef<[u8]>) -> String {
    let files = Files::new("");
    files.write("config.toml", text);
    files.told(&files.load().unwrap_err())
}

#[test]
fn an_empty_file_leaves_the_defaults() {
    let config = Files::new("").load().unwrap();
    assert_eq!(config.vm.vmm, Vmm::Qemu);
    assert_eq!(config.vm.acceleration, Acceleration::Auto);
    assert_eq!(config.vm.vcpus, 2);
    assert_eq!(config.vm.memory, Size::from_mib(2048));
    assert_eq!(config.vm.memory_overhead, Size::from_mib(64));
    assert_eq!(
        (
            config.guest.kernel.as_ref(),
            config.guest.initramfs.as_ref()
        ),
        (None, None)
    );
    assert_eq!(
        config.annotations.allow,
        ["vm.vcpus", "vm.memory", "vm.max_vcpus", "vm.max_memory"]
    );
    assert_eq!(config.log.level, LogLevel::Warn);
    for entry in config.entries() {
        assert_eq!(entry.origin, Origin::Default, "{}", entry.key);
    }
}

#[test]
fn every_setting_can_be_set_and_knows_its_line() {
    let files = Files::new(
        "# Hull\n\
         log.level = 'debug'\n\
         [vm]\n\
         vmm = \"qemu\"\n\
         acceleration = \"tcg\"\n\
         vcpus = 0x10\n\
         memory = 1073741824\n\
         memory_overhead = \"128M\"\n\
         [guest]\n\
         kernel = \"/k\"\n\
         initramfs = \"/i\"\n\
         [annotations]\n\
         allow = [\n\
           \"log.level\",\n\
         ]\n",
    );
    let config = files.load().unwrap();
    assert_eq!(config.vm.vmm, Vmm::Qemu);
    assert_eq!(config.vm.acceleration, Acceleration::Tcg);
    assert_eq!(config.vm.vcpus, 16);
    assert_eq!(config.vm.memory, Size::from_mib(1024));
    assert_eq!(config.vm.memory_overhead, Size::from_mib(128));
    assert_eq!(config.guest.kernel.as_deref(), Some(Path::new("/k")));
    assert_eq!(config.guest.initramfs.as_deref(), Some(Path::new("/i")));
    assert_eq!(config.annotations.allow, ["log.level"]);
    assert_eq!(config.log.level, LogLevel::Debug);
    for (key, line) in [
        ("vm.vmm", 4),
        ("vm.acceleration", 5),
        ("vm.vcpus", 6),
        ("vm.memory", 7),
        ("vm.memory_overhead", 8),
        ("guest.kernel", 10),
        ("guest.initramfs", 11),
        ("annotations.allow", 13),
        ("log.level", 2),
    ] {
        assert_eq!(
            files.origin(&config, key),
            format!("config.toml:{line}"),
            "{key}"
        );
    }
}

#[test]
fn drop_ins_count_in_the_order_of_their_names() {
    let files = Files::new("vm = { vcpus = 1, memory = '1G' }\nlog.level = 'info'");
    files.write("config.d/20-second.toml", "vm.vcpus = 20");
    files.write("config.d/10-first.toml", "vm.vcpus = 10\nvm.memory = '3G'");
    files.write("config.d/.30-hidden.toml", "vm.vcpus = 30");
    files.write("config.d/40-other.toml~", "vm.vcpus = 40");
    let config = files.load().unwrap();
    assert_eq!(
        (config.vm.vcpus, config.vm.memory),
        (20, Size::from_mib(3072))
    );
    assert_eq!(
        files.origin(&config, "vm.vcpus"),
        "config.d/20-second.toml:1"
    );
    assert_eq!(
        files.origin(&config, "vm.memory"),
        "config.d/10-first.toml:2"
    );
    assert_eq!(files.origin(&config, "log.level"), "config.toml:2");
}

#[test]
fn a_file_that_was_named_has_to_exist() {
    let files = Files::new("");
    fs::remove_file(files.path("config.toml")).unwrap();
    assert_eq!(
        files.told(&files.load().unwrap_err()),
        "cannot read the configuration file config.toml: No such file or directory (os error 2)"
    );
}

#[test]
fn drop_ins_that_cannot_be_read_are_not_passed_over() {
    let files = Files::new("");
    fs::create_dir(files.path("config.d")).unwrap();
    std::os::unix::fs::symlink("nowhere", files.path("config.d/a.toml")).unwrap();
    assert_eq!(
        files.told(&files.load().unwrap_err()),
        "cannot read the configuration file config.d/a.toml: No such file or directory (os error 2)"
    );
    let files = Files::new("");
    files.write("config.d", "");
    assert_eq!(
        files.told(&files.load().unwrap_err()),
        "cannot list the configuration files in config.d: Not a directory (os error 20)"
    );
}

#[test]
fn what_does_not_exist_is_refused_with_the_nearest_key() {
    for (text, told) in [
        (
            "\n[vm]\nmemroy = '1G'",
            "config.toml:3: there is no setting `vm.memroy`; did you mean `vm.memory`?",
        ),
        (
            "memory = '1G'",
            "config.toml:1: there is no setting `memory`; did you mean `vm.memory`?",
        ),
        (
            "vm.colour = 'red'",
            "config.toml:1: there is no setting `vm.colour`",
        ),
        (
            "[log]\n[vmm]\nmemory = '1G'",
            "config.toml:2: there is no table `vmm`; did you mean `vm`?",
        ),
        ("[storage]", "config.toml:1: there is no table `storage`"),
        (
            "'vm.memory' = '1G'",
            "config.toml:1: there is no setting `\"vm.memory\"`; did you mean `vm.memory`?",
        ),
        (
            "vm.\"\\u001b\" = 1",
            "config.toml:1: there is no setting `vm.\"\\u001B\"`",
        ),
    ] {
        assert_eq!(refusal(text), told, "{text}");
    }
}

#[test]
fn the_first_problem_of_a_file_is_told() {
    let told = refusal("vm.vcpus = 1\nlog.level = 'loud'\nvm.memory = 1\nannotations = 1");
    assert!(told.starts_with("config.toml:2: `log.level`"), "{told}");
}

#[test]
fn values_that_cannot_be_are_refused_with_what_they_have_to_be() {
    const CPUS: &str = "it has to be an integer from 1 to 64";
    const SIZE: &str = "it has to be a size: an integer of bytes, or an integer with K, M, G, KiB, \
                        MiB or GiB, such as \"512MiB\"";
    const KEYS: &str = "it has to be an array of settings' keys, such as [\"vm.memory\"]";
    for (key, value, why) in [
        ("vm.vcpus", "0", CPUS),
        ("vm.vcpus", "65", CPUS),
        ("vm.vcpus", "-1", CPUS),
        ("vm.vcpus", "99999999999999999999", CPUS),
        ("vm.vcpus", "2.5", CPUS),
        ("vm.vcpus", "\"2\"", CPUS),
        (
            "vm.vmm",
            "\"bochs\"",
            "it has to be one of \"qemu\", \"cloud-hypervisor\", \"firecracker\"",
        ),
        (
            "vm.acceleration",
            "\"KVM\"",
            "it has to be one of \"auto\", \"kvm\", \"tcg\"",
        ),
        (
            "vm.acceleration",
            "true",
            "it has to be one of \"auto\", \"kvm\", \"tcg\"",
        ),
        (
            "log.level",
            "\"loud\"",
            "it has to be one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        ),
        ("vm.memory", "\"lots\"", SIZE),
        ("vm.memory", "\"512MB\"", SIZE),
        ("vm.memory", "-1", SIZE),
        ("vm.memory", "2024-01-01", SIZE),
        (
            "vm.memory",
            "\"5000000G\"",
            "that is more memory than any machine has",
        ),
        ("vm.memory", "512", "it has to be at least 64MiB"),
        ("vm.memory", "\"63M\"", "it has to be at least 64MiB"),
        (
            "guest.kernel",
            "\"vmlinux\"",
            "it has to be an absolute path",
        ),
        ("guest.initramfs", "\"\"", "it has to be an absolute path"),
        ("annotations.allow", "\"vm.memory\"", KEYS),
        ("annotations.allow", "[\"vm.memory\", 1]", KEYS),
        (
            "annotations.allow",
            "[\"vm.memroy\"]",
            "there is no setting `vm.memroy`; did you mean `vm.memory`?",
        ),
        (
            "annotations.allow",
            "[\"annotations.allow\"]",
            "no annotation may change `annotations.allow`",
        ),
        ("vm", "3", "it is a table of settings"),
    ] {
        assert_eq!(
            refusal(format!("\n{key} = {value}")),
            format!("config.toml:2: `{key}` cannot be {value}: {why}"),
        );
    }
    assert_eq!(
        refusal("[vm.memory]"),
        format!("config.toml:1: `vm.memory` cannot be a table: {SIZE}")
    );
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    let told = refusal("\n[vm]\nmemory = 2GiB\n");
    assert!(
        told.starts_with("config.toml:3: string values must be quoted"),
        "{told}"
    );
    assert_eq!(
        refusal("vm.vcpus = 1\nvm.vcpus = 2"),
        "config.toml:2: duplicate key"
    );
    assert_eq!(
        refusal(b"vm.vcpus = 1\n# \xff\n"),
        "config.toml:2: this is not UTF-8"
    );
}

#[test]
fn a_wrong_drop_in_is_named() {
    let files = Files::new("vm.vcpus = 1");
    files.write("config.d/a.toml", "\nvm.vcpu = 1");
    assert_eq!(
        files.told(&files.load().unwrap_err()),
        "config.d/a.toml:2: there is no setting `vm.vcpu`; did you mean `vm.vcpus`?"
    );
}

#[test]
fn the_defaults_are_those_of_an_empty_file() {
    let loaded = Files::new("").load().unwrap();
    assert_eq!(loaded.to_text(), Config::default().to_text());
}
