//! What a pod asks for by its annotations.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::error::ConfigError;
use crate::nearest::nearest_key;
use crate::origin::Origin;
use crate::schema::{Kata, SETTINGS, Setting, setting};
use crate::value::Value;

/// What Hull's annotations begin with; the key of a setting follows.
pub const ANNOTATION_PREFIX: &str = "dev.hull.";

/// What the annotations of Kata Containers that configure its runtime begin with.
const KATA_PREFIX: &str = "io.katacontainers.config.";

impl Config {
    /// The configuration with what a pod's annotations change, and the names of Kata Containers'
    /// annotations that changed nothing: Hull has no such setting, or an annotation of Hull's own
    /// sets it. Other annotations are nobody's business here.
    ///
    /// # Errors
    /// When an annotation of Hull's does not exist, one is not allowed, or a value cannot be.
    pub fn with_annotations<'a>(
        mut self,
        annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let mut ignored = Vec::new();
        // By name, so that the same annotations always have the same error. Hull's own come first.
        let sorted: BTreeMap<&str, &str> = annotations
            .into_iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        let mut own = Vec::new();
        for (name, text) in sorted {
            if let Some(key) = name.strip_prefix(ANNOTATION_PREFIX) {
                let setting = setting(key).ok_or_else(|| ConfigError::UnknownAnnotation {
                    name: name.into(),
                    nearest: nearest_key(key),
                })?;
                self.annotate(setting, name, text, Value::from_annotation)?;
                own.push(setting.key);
            } else if name.starts_with(KATA_PREFIX) {
                match kata(name) {
                    Some((setting, kata)) if !own.contains(&setting.key) => {
                        self.annotate(setting, name, text, kata.read)?;
                    }
                    _ => ignored.push(name.to_owned()),
                }
            }
        }
        Ok((self, ignored))
    }

    fn annotate(
        &mut self,
        setting: &'static Setting,
        name: &str,
        text: &str,
        read: fn(&str) -> Value,
    ) -> Result<(), ConfigError> {
        if !setting.annotation {
            return Err(ConfigError::NeverAnnotation {
                name: name.into(),
                key: setting.key,
            });
        }
        if !self.annotations.allow.contains(&setting.key) {
            return Err(ConfigError::NotAllowed {
                name: name.into(),
                key: setting.key,
                file: match self.origin("annotations.allow") {
                    Origin::File(place) => place.to_string(),
                    Origin::Default | Origin::Annotation { .. } => self.file.display().to_string(),
                },
            });
        }
        let origin = Origin::Annotation { name: name.into() };
        match (setting.apply)(self, &read(text)) {
            Ok(()) => {
                self.origins.insert(setting.key, origin);
                Ok(())
            }
            Err(source) => Err(ConfigError::Value {
                origin,
                key: setting.key.into(),
                value: Value::Text(text.into()).to_string(),
                source,
            }),
        }
    }
}

/// The setting that an annotation of Kata Containers means.
fn kata(name: &str) -> Option<(&'static Setting, &'static Kata)> {
    SETTINGS.iter().find_map(|setting| {
        let kata = setting.kata.as_ref().filter(|kata| kata.name == name)?;
        Some((setting, kata))
    })
}
