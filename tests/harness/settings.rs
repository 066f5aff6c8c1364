//! Settings of Hull's that a whole run of the tests has: `HULL_TEST_FILE_SHARING` is `vm.file_sharing`.

use std::fs;
use std::path::Path;

/// What they are, as text of a configuration file; nothing when all is as usual.
pub(crate) fn chosen() -> Option<String> {
    let sharing = std::env::var("HULL_TEST_FILE_SHARING").ok()?;
    Some(format!("vm.file_sharing = {sharing:?}\n"))
}

/// Lets whoever reads a configuration file in `dir` have them.
pub(crate) fn add_beside(dir: &Path) {
    if let Some(settings) = chosen() {
        let more = dir.join("config.d");
        fs::create_dir_all(&more).expect("a directory");
        fs::write(more.join("test.toml"), settings).expect("written");
    }
}
