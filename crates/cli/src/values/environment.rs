//! Environment variables from options and files.

use std::fs;
use std::path::Path;

/// One `-e` option: a value, or the name of a variable to take from this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    /// `NAME=VALUE`.
    Set(String, String),
    /// `NAME`: the value that this process has, or none at all.
    Inherit(String),
}

/// Reads `NAME=VALUE` or `NAME`.
pub(crate) fn parse(text: &str) -> Result<Variable, String> {
    let variable = match text.split_once('=') {
        Some((name, value)) => Variable::Set(name.to_owned(), value.to_owned()),
        None => Variable::Inherit(text.to_owned()),
    };
    let (Variable::Set(name, _) | Variable::Inherit(name)) = &variable;
    if name.is_empty() || text.contains('\0') {
        return Err(format!("{text:?} is not NAME=VALUE"));
    }
    Ok(variable)
}

/// Why an `--env-file` was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvFileError {
    /// The file cannot be read.
    #[error("cannot read the environment file {0}")]
    Read(String, #[source] std::io::Error),
    /// A line is not a variable.
    #[error("{path}:{line}: {reason}")]
    Line {
        path: String,
        line: usize,
        reason: String,
    },
}

/// Reads a file of variables, one a line; empty lines and lines that start with `#` do not count.
pub(crate) fn read_file(path: &Path) -> Result<Vec<Variable>, EnvFileError> {
    let text = fs::read_to_string(path)
        .map_err(|source| EnvFileError::Read(path.display().to_string(), source))?;
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let failed = |reason| EnvFileError::Line {
            path: path.display().to_string(),
            line: index + 1,
            reason,
        };
        let variable = parse(line).map_err(failed)?;
        let (Variable::Set(name, _) | Variable::Inherit(name)) = &variable;
        if name.contains(char::is_whitespace) {
            return Err(failed(format!("the name {name:?} has a space in it")));
        }
        variables.push(variable);
    }
    Ok(variables)
}

/// Applies variables to an environment: later ones win, and each name keeps its first place.
pub(crate) fn apply(environment: &mut Vec<String>, variables: impl IntoIterator<Item = Variable>) {
    for variable in variables {
        let (name, value) = match variable {
            Variable::Set(name, value) => (name, Some(value)),
            Variable::Inherit(name) => {
                let value = std::env::var(&name).ok();
                (name, value)
            }
        };
        let position = environment
            .iter()
            .position(|entry| entry.split_once('=').is_some_and(|(key, _)| key == name));
        match (position, value) {
            (Some(at), Some(value)) => environment[at] = format!("{name}={value}"),
            (Some(at), None) => {
                environment.remove(at);
            }
            (None, Some(value)) => environment.push(format!("{name}={value}")),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Variable {
        Variable::Set(name.to_owned(), value.to_owned())
    }

    #[test]
    fn later_variables_win_in_place() {
        let mut environment = vec!["A=1".to_owned(), "B=2".to_owned()];
        apply(&mut environment, [set("A", "3"), set("C", "x=y")]);
        assert_eq!(environment, ["A=3", "B=2", "C=x=y"]);
    }

    #[test]
    fn a_name_without_a_value_removes_what_this_process_has_not() {
        let mut environment = vec!["HULL_NO_SUCH_VARIABLE=1".to_owned()];
        apply(
            &mut environment,
            [Variable::Inherit("HULL_NO_SUCH_VARIABLE".to_owned())],
        );
        assert!(environment.is_empty());
    }

    #[test]
    fn files_have_comments_and_their_errors_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        fs::write(&path, "# no\n\nA=1\nB= two words \n").unwrap();
        assert_eq!(
            read_file(&path).unwrap(),
            [set("A", "1"), set("B", " two words ")]
        );
        fs::write(&path, "A=1\nB C=2\n").unwrap();
        let error = read_file(&path).unwrap_err();
        assert!(matches!(error, EnvFileError::Line { line: 2, .. }));
    }
}
