//! Where a VMM's program is.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::VmError;
use crate::process::{describe_status, require_program};

/// A program that a VMM is.
#[derive(Debug)]
pub struct Program {
    /// What people call it.
    pub title: &'static str,
    /// Its file name.
    pub name: &'static str,
    /// The environment variable that names another one by path.
    pub variable: &'static str,
    /// What a person does who has none.
    pub advice: &'static str,
}

impl Program {
    /// Where it is: where the variable says, or as [`find_program`](crate::process::find_program) looks.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self) -> Result<PathBuf, VmError> {
        match std::env::var_os(self.variable).map(PathBuf::from) {
            Some(path) if path.is_file() => Ok(path),
            Some(path) => Err(VmError::ProgramVariable {
                variable: self.variable,
                path,
            }),
            None => require_program(self.name, self.advice),
        }
    }

    /// The first line of what it says about its version.
    ///
    /// # Errors
    /// When it does not run.
    pub fn version(&self, path: &Path) -> Result<String, VmError> {
        let output = Command::new(path).arg("--version").output();
        let output = output.map_err(VmError::host(format!("run {}", path.display())))?;
        if !output.status.success() {
            return Err(VmError::Died {
                program: self.name.to_owned(),
                status: describe_status(Some(output.status)),
                command: None,
                log: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}
