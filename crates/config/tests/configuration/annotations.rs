//! What a pod's annotations may change.

use std::collections::HashMap;
use std::path::Path;

use crate::support::Files;
use hull_config::{Config, Size};

const KATA: &str = "io.katacontainers.config.hypervisor.";

fn annotations(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    pairs.iter().map(owned).collect()
}

fn apply(config: Config, pairs: &[(&str, &str)]) -> (Config, Vec<String>) {
    config.with_annotations(&annotations(pairs)).unwrap()
}

/// What a person is told about annotations with a configuration file.
fn refusal(file: &str, pairs: &[(&str, &str)]) -> String {
    let files = Files::new(file);
    let result = files.load().unwrap().with_annotations(&annotations(pairs));
    files.told(&result.unwrap_err())
}

/// A configuration that allows every annotation that there is.
fn permissive() -> Config {
    let defaults = Config::default();
    let keys = defaults.entries().map(|entry| entry.key);
    let keys: Vec<&str> = keys.filter(|key| *key != "annotations.allow").collect();
    Files::new(&format!("annotations.allow = {keys:?}"))
        .load()
        .unwrap()
}

#[test]
fn a_pod_sets_its_size() {
    let (config, ignored) = apply(
        Config::default(),
        &[
            ("dev.hull.vm.memory", "1GiB"),
            ("dev.hull.vm.vcpus", "4"),
            ("io.kubernetes.cri.container-type", "sandbox"),
        ],
    );
    assert_eq!(
        (config.vm.memory, config.vm.vcpus),
        (Size::from_mib(1024), 4)
    );
    assert_eq!(
        config.origin("vm.memory").to_string(),
        "annotation dev.hull.vm.memory"
    );
    assert_eq!(config.origin("vm.memory_overhead").to_string(), "default");
    assert!(ignored.is_empty());
}

#[test]
fn a_size_in_digits_alone_is_bytes() {
    let (config, _) = apply(Config::default(), &[("dev.hull.vm.memory", "134217728")]);
    assert_eq!(config.vm.memory, Size::from_mib(128));
}

#[test]
fn no_annotations_change_nothing() {
    let (config, ignored) = apply(Config::default(), &[]);
    assert_eq!((config, ignored), (Config::default(), vec![]));
}

#[test]
fn every_setting_but_the_permission_can_be_allowed() {
    let (config, _) = apply(
        permissive(),
        &[
            ("dev.hull.vm.vmm", "qemu"),
            ("dev.hull.vm.acceleration", "tcg"),
            ("dev.hull.vm.file_sharing", "vsock"),
            ("dev.hull.vm.start", "template"),
            ("dev.hull.vm.template_dir", "/t"),
            ("dev.hull.vm.vcpus", "1"),
            ("dev.hull.vm.memory", "64M"),
            ("dev.hull.vm.max_vcpus", "2"),
            ("dev.hull.vm.max_memory", "1G"),
            ("dev.hull.vm.memory_overhead", "1M"),
            ("dev.hull.vm.host_memory_overhead", "1M"),
            ("dev.hull.root.kind", "image"),
            ("dev.hull.root.cache_dir", "/c"),
            ("dev.hull.root.cache_size", "1G"),
            ("dev.hull.root.disk_size", "1G"),
            ("dev.hull.guest.kernel", "/k"),
            ("dev.hull.guest.initramfs", "/i"),
            ("dev.hull.network.spare_interfaces", "3"),
            ("dev.hull.log.level", "trace"),
        ],
    );
    for entry in config
        .entries()
        .filter(|entry| entry.key != "annotations.allow")
    {
        let origin = format!("annotation dev.hull.{}", entry.key);
        assert_eq!(entry.origin.to_string(), origin);
    }
}

#[test]
fn an_annotation_that_is_not_allowed_is_refused_with_the_file_that_says_so() {
    let kernel = [("dev.hull.guest.kernel", "/k")];
    assert_eq!(
        refusal("", &kernel),
        "annotation `dev.hull.guest.kernel` is not allowed: `annotations.allow` in config.toml does \
         not list `guest.kernel`"
    );
    assert_eq!(
        refusal("\nannotations.allow = []", &[("dev.hull.vm.vcpus", "1")]),
        "annotation `dev.hull.vm.vcpus` is not allowed: `annotations.allow` in config.toml:2 does \
         not list `vm.vcpus`"
    );
    assert_eq!(
        refusal("", &[(&format!("{KATA}kernel"), "/k")]),
        "annotation `io.katacontainers.config.hypervisor.kernel` is not allowed: \
         `annotations.allow` in config.toml does not list `guest.kernel`"
    );
}

#[test]
fn a_pod_cannot_allow_itself_anything() {
    let told =
        "annotation `dev.hull.annotations.allow`: no annotation may change `annotations.allow`";
    for text in ["[\"guest.kernel\"]", "guest.kernel"] {
        assert_eq!(refusal("", &[("dev.hull.annotations.allow", text)]), told);
    }
}

#[test]
fn an_unknown_annotation_is_refused_with_the_nearest() {
    assert_eq!(
        refusal("", &[("dev.hull.vm.memroy", "1G")]),
        "there is no annotation `dev.hull.vm.memroy`; did you mean `dev.hull.vm.memory`?"
    );
    assert_eq!(
        refusal("", &[("dev.hull.\u{1b}", "1G")]),
        "there is no annotation `dev.hull.\\u{1b}`"
    );
}

#[test]
fn a_value_that_cannot_be_is_refused_with_the_annotation() {
    assert_eq!(
        refusal("", &[("dev.hull.vm.vcpus", "many")]),
        "annotation dev.hull.vm.vcpus: `vm.vcpus` cannot be \"many\": it has to be an integer from 1 \
         to 64"
    );
    assert_eq!(
        refusal("", &[(&format!("{KATA}default_memory"), "32")]),
        "annotation io.katacontainers.config.hypervisor.default_memory: `vm.memory` cannot be \"32\": \
         it has to be at least 64MiB"
    );
}

#[test]
fn kata_containers_names_are_understood() {
    let name = |last: &str| format!("{KATA}{last}");
    let (config, ignored) = apply(
        permissive(),
        &[
            (&name("default_vcpus"), "3"),
            (&name("default_memory"), "512"),
            (&name("default_max_vcpus"), "0"),
            (&name("kernel"), "/k"),
            (&name("initrd"), "/i"),
        ],
    );
    assert_eq!(
        (config.vm.vcpus, config.vm.max_vcpus, config.vm.memory),
        (3, 64, Size::from_mib(512))
    );
    assert_eq!(config.guest.kernel.as_deref(), Some(Path::new("/k")));
    assert_eq!(config.guest.initramfs.as_deref(), Some(Path::new("/i")));
    assert_eq!(
        config.origin("vm.memory").to_string(),
        "annotation io.katacontainers.config.hypervisor.default_memory"
    );
    assert!(ignored.is_empty());
}

#[test]
fn kata_containers_forms_of_a_size_are_understood() {
    for (vcpus, expected) in [("1", 1), ("1.0", 1), ("1.5", 2), ("0.25", 1)] {
        let (config, _) = apply(
            Config::default(),
            &[(&format!("{KATA}default_vcpus"), vcpus)],
        );
        assert_eq!(config.vm.vcpus, expected, "{vcpus}");
    }
    for vcpus in ["1.x", ".", "-1.5", "64.5", "0.0"] {
        refusal("", &[(&format!("{KATA}default_vcpus"), vcpus)]);
    }
    for (memory, mib) in [("512", 512), ("512MiB", 512), ("1GiB", 1024)] {
        let (config, _) = apply(
            Config::default(),
            &[(&format!("{KATA}default_memory"), memory)],
        );
        assert_eq!(config.vm.memory, Size::from_mib(mib), "{memory}");
    }
}

#[test]
fn hulls_own_name_wins_over_katas() {
    let (config, ignored) = apply(
        Config::default(),
        &[
            ("dev.hull.vm.memory", "1GiB"),
            (&format!("{KATA}default_memory"), "512"),
            (&format!("{KATA}default_vcpus"), "7"),
        ],
    );
    assert_eq!(
        (config.vm.memory, config.vm.vcpus),
        (Size::from_mib(1024), 7)
    );
    assert_eq!(ignored, [format!("{KATA}default_memory")]);
}

#[test]
fn other_names_of_kata_containers_are_reported() {
    let (config, ignored) = apply(
        Config::default(),
        &[
            ("io.katacontainers.config.runtime.disable_new_netns", "true"),
            (&format!("{KATA}machine_type"), "q35"),
            ("io.katacontainers.pkg.oci.bundle_path", "/b"),
        ],
    );
    assert_eq!(config, Config::default());
    assert_eq!(
        ignored,
        [
            "io.katacontainers.config.hypervisor.machine_type",
            "io.katacontainers.config.runtime.disable_new_netns",
        ]
    );
}
