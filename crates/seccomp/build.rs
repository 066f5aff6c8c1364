//! Finds the static libseccomp.

use std::path::Path;
use std::process::Command;
use std::{env, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-env-changed=LIBSECCOMP_LIB_PATH");
    if let Some(directory) = env::var_os("LIBSECCOMP_LIB_PATH") {
        println!(
            "cargo:rustc-link-search=native={}",
            Path::new(&directory).display()
        );
        return Ok(());
    }
    // The C compiler knows where the system's libraries are; it echoes the name when it does not.
    let output = Command::new("cc")
        .arg("-print-file-name=libseccomp.a")
        .output()?;
    let path = String::from_utf8_lossy(&output.stdout);
    let path = Path::new(path.trim());
    match path.parent().filter(|_| path.is_absolute()) {
        Some(directory) => {
            println!("cargo:rustc-link-search=native={}", directory.display());
            Ok(())
        }
        None => Err(io::Error::other(
            "libseccomp.a is missing: install libseccomp-dev or set LIBSECCOMP_LIB_PATH",
        )),
    }
}
