//! What a person is shown of the configuration, and that the documentation says the same.

use std::collections::HashMap;

use crate::support::Files;
use hull_config::{Config, DEFAULT_FILE, FILE_VARIABLE};

#[test]
fn every_value_is_shown_with_its_origin() {
    let files =
        Files::new("vm.memory = '1024M'\nguest.kernel = '/a \"b\"'\nvm.memory_overhead = 1000");
    let annotations = HashMap::from([("dev.hull.vm.vcpus".to_owned(), "4".to_owned())]);
    let (config, _) = files
        .load()
        .unwrap()
        .with_annotations(&annotations)
        .unwrap();
    let dir = files.path("");
    assert_eq!(
        config.to_text().replace(dir.to_str().unwrap(), ""),
        "vm.vmm = \"qemu\"                                                                 # default\n\
         vm.acceleration = \"auto\"                                                        # default\n\
         vm.file_sharing = \"auto\"                                                        # default\n\
         vm.start = \"boot\"                                                               # default\n\
         # vm.template_dir is not set                                                    # default\n\
         vm.vcpus = 4                                                                    # annotation dev.hull.vm.vcpus\n\
         vm.memory = \"1GiB\"                                                              # config.toml:1\n\
         vm.max_vcpus = 4                                                                # default\n\
         vm.max_memory = \"4GiB\"                                                          # default\n\
         vm.memory_overhead = 1000                                                       # config.toml:3\n\
         vm.host_memory_overhead = \"256MiB\"                                              # default\n\
         root.kind = \"shared\"                                                            # default\n\
         # root.cache_dir is not set                                                     # default\n\
         root.cache_size = \"10GiB\"                                                       # default\n\
         root.disk_size = 0                                                              # default\n\
         guest.kernel = \"/a \\\"b\\\"\"                                                       # config.toml:2\n\
         # guest.initramfs is not set                                                    # default\n\
         network.spare_interfaces = 0                                                    # default\n\
         annotations.allow = [\"vm.vcpus\", \"vm.memory\", \"vm.max_vcpus\", \"vm.max_memory\"]  # default\n\
         log.level = \"warn\"                                                              # default\n"
    );
}

#[test]
fn what_is_shown_is_a_configuration_file() {
    let files = Files::new(
        "vm = { acceleration = 'kvm', vcpus = 7, memory = '100M', memory_overhead = 5 }\n\
         guest = { kernel = '/k', initramfs = '/\u{fc}\"\\i' }\n\
         annotations.allow = []\nlog.level = 'trace'",
    );
    let config = files.load().unwrap();
    let again = Files::new(&config.to_text()).load().unwrap();
    assert_eq!((again.vm, again.guest), (config.vm, config.guest));
    assert_eq!(
        (again.annotations, again.log),
        (config.annotations, config.log)
    );
}

#[test]
fn the_documentation_lists_every_setting_with_its_default() {
    let page = include_str!("../../../../docs/configuration.md");
    for entry in Config::default().entries() {
        let default = entry
            .value
            .map_or("none".to_owned(), |value| format!("`{value}`"));
        let row = format!("| `{}` | {default} | {} |", entry.key, entry.documentation);
        assert!(page.lines().any(|line| line == row), "missing: {row}");
    }
    assert!(page.contains(DEFAULT_FILE) && page.contains(FILE_VARIABLE));
}
