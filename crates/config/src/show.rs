//! The configuration as a person sees it.

use std::fmt::Write;

use crate::config::Config;
use crate::origin::Origin;
use crate::schema::SETTINGS;

/// A setting as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The setting.
    pub key: &'static str,
    /// Its value as TOML; nothing when it is not set.
    pub value: Option<String>,
    /// Where the value comes from.
    pub origin: Origin,
    /// What the setting is, in one line.
    pub documentation: &'static str,
}

impl Config {
    /// All settings, always in the same order.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        SETTINGS.iter().map(|setting| Entry {
            key: setting.key,
            value: (setting.show)(self),
            origin: self.origin(setting.key),
            documentation: setting.documentation,
        })
    }

    /// Where the value of a setting comes from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// All settings as lines of a configuration file, each with its origin as a comment. Settings
    /// that are not set are comments.
    #[must_use]
    pub fn to_text(&self) -> String {
        let lines = self.entries().map(|entry| {
            let line = match entry.value {
                Some(value) => format!("{} = {value}", entry.key),
                None => format!("# {} is not set", entry.key),
            };
            (line, entry.origin)
        });
        let lines: Vec<(String, Origin)> = lines.collect();
        let width = lines.iter().map(|(line, _)| line.chars().count()).max();
        let width = width.unwrap_or_default();
        lines
            .iter()
            .fold(String::new(), |mut text, (line, origin)| {
                // A path may hold what would end the comment.
                let origin = origin.to_string().replace(char::is_control, "?");
                writeln!(text, "{line:width$}  # {origin}").expect("a string takes all");
                text
            })
    }
}
