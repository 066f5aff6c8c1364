//! Settings of Hull's that a whole run of the tests has: `HULL_TEST_VMM` is `vm.vmm`, `HULL_TEST_FILE_SHARING` is
//! `vm.file_sharing`, `HULL_TEST_START` is `vm.start`, `HULL_TEST_ROOT` is `root.kind`.

use std::fs;
use std::path::{Path, PathBuf};

use hull_vm::Vmm;

/// What they are, as text of a configuration file; nothing when all is as usual.
pub(crate) fn chosen() -> Option<String> {
    let variables = [
        ("vm.vmm", VMM_VARIABLE),
        ("vm.file_sharing", "HULL_TEST_FILE_SHARING"),
        ("vm.start", "HULL_TEST_START"),
        ("root.kind", "HULL_TEST_ROOT"),
    ];
    let settings = variables.map(|(setting, variable)| {
        let value = std::env::var(variable).ok()?;
        Some(format!("{setting} = {value:?}\n"))
    });
    let settings: String = settings.into_iter().flatten().collect();
    (!settings.is_empty()).then_some(settings)
}

const VMM_VARIABLE: &str = "HULL_TEST_VMM";

/// The VMM of this run.
pub(crate) fn vmm() -> Vmm {
    let Ok(name) = std::env::var(VMM_VARIABLE) else {
        return Vmm::default();
    };
    name.parse().expect("HULL_TEST_VMM is a VMM")
}

/// Lets whoever reads a configuration file in `dir` have them.
pub(crate) fn add_beside(dir: &Path) {
    if let Some(mut settings) = chosen() {
        // Engines have no directory of a test's for Hull's data.
        settings += &format!("root.cache_dir = {:?}\n", dir.join("root-images"));
        settings += &format!("vm.template_dir = {:?}\n", templates_beside(dir));
        let more = dir.join("config.d");
        fs::create_dir_all(&more).expect("a directory");
        fs::write(more.join("test.toml"), settings).expect("written");
    }
}

/// Where it has templates then.
pub(crate) fn templates_beside(dir: &Path) -> PathBuf {
    dir.join("templates")
}
