//! Reading a configuration file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::Config;
use crate::error::{ConfigError, ValueError};
use crate::nearest::{nearest_key, nearest_table};
use crate::origin::{Origin, Place};
use crate::schema;
use crate::value::Value;

/// The directory of the drop-ins, beside the configuration file.
const DROP_INS: &str = "config.d";

/// The drop-ins of a configuration file, in the order in which they count. Hidden files are none:
/// that is what editors leave.
pub(crate) fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = file.with_file_name(DROP_INS);
    let failed = |source| ConfigError::List {
        path: dir.clone(),
        source,
    };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if !name.starts_with(b".") && name.ends_with(b".toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

impl Config {
    /// Takes what a file sets.
    pub(crate) fn apply_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let bytes = fs::read(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let syntax = |offset: usize, message: &str| ConfigError::Syntax {
            place: place(path, &bytes, offset),
            message: message.to_owned(),
        };
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| syntax(error.valid_up_to(), "this is not UTF-8"))?;
        let document = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            syntax(offset, error.message())
        })?;

        let mut found = Vec::new();
        collect(document.get_ref(), "", &mut found);
        // The first problem of the file is told, whatever the order of the table is.
        found.sort_by_key(|(offset, _, _)| *offset);
        for (offset, key, value) in found {
            self.apply_entry(place(path, &bytes, offset), key, value)?;
        }
        Ok(())
    }

    fn apply_entry(
        &mut self,
        place: Place,
        key: String,
        value: &DeValue<'_>,
    ) -> Result<(), ConfigError> {
        let is_table = value.is_table();
        let refused = |place, key, source| ConfigError::Value {
            origin: Origin::File(place),
            key,
            value: Value::from_toml(value).to_string(),
            source,
        };
        let Some(setting) = schema::setting(&key) else {
            if schema::tables().any(|table| table == key) {
                return Err(refused(place, key, ValueError::Table));
            }
            let (kind, nearest) = if is_table {
                ("table", nearest_table(&key))
            } else {
                ("setting", nearest_key(&key))
            };
            return Err(ConfigError::Unknown {
                place,
                kind,
                key,
                nearest,
            });
        };
        match (setting.apply)(self, &Value::from_toml(value)) {
            Ok(()) => {
                self.origins.insert(setting.key, Origin::File(place));
                Ok(())
            }
            Err(source) => Err(refused(place, key, source)),
        }
    }
}

/// All that a table sets, with where its key is in the text. Tables that hold no settings count as
/// what was set.
fn collect<'v, 'i>(
    table: &'v DeTable<'i>,
    prefix: &str,
    found: &mut Vec<(usize, String, &'v DeValue<'i>)>,
) {
    for (key, value) in table {
        let full = format!("{prefix}{}", bare_or_quoted(key));
        match value.get_ref() {
            DeValue::Table(inner) if schema::tables().any(|table| table == full) => {
                collect(inner, &format!("{full}."), found);
            }
            other => found.push((key.span().start, full, other)),
        }
    }
}

/// A part of a key as it has to be written: `"vm.memory"` in quotes is not `vm.memory`.
fn bare_or_quoted(key: &Spanned<std::borrow::Cow<'_, str>>) -> String {
    let text = key.get_ref();
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !text.is_empty() && text.bytes().all(bare) {
        text.clone().into_owned()
    } else {
        crate::value::quoted(text)
    }
}

fn place(file: &Path, text: &[u8], offset: usize) -> Place {
    let before = text.iter().take(offset);
    Place {
        file: file.to_owned(),
        line: before.filter(|byte| **byte == b'\n').count() + 1,
    }
}
