//! What was written for a setting, and what it can be read as.

use std::fmt;
use std::path::PathBuf;

use toml::de::DeValue;

use crate::choice::Choice;
use crate::error::ValueError;
use crate::size::Size;

/// What was written for a setting.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A string.
    Text(String),
    /// An integer.
    Integer(i64),
    /// An array.
    List(Vec<Value>),
    /// What no setting can be, as it is told to a person.
    Other(String),
}

impl Value {
    /// A value in a file.
    pub(crate) fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.clone().into_owned()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| Self::Other(number.to_string()), Self::Integer),
            DeValue::Array(values) => {
                let values = values.iter().map(|value| Self::from_toml(value.get_ref()));
                Self::List(values.collect())
            }
            DeValue::Float(number) => Self::Other(number.to_string()),
            DeValue::Boolean(value) => Self::Other(value.to_string()),
            DeValue::Datetime(time) => Self::Other(time.to_string()),
            DeValue::Table(_) => Self::Other("a table".into()),
        }
    }

    /// A value in an annotation, where all is text: digits alone are an integer.
    pub(crate) fn from_annotation(text: &str) -> Self {
        if text.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(number) = text.parse()
        {
            return Self::Integer(number);
        }
        Self::Text(text.into())
    }

    /// As an integer between two others, both included.
    pub(crate) fn integer(&self, least: u32, most: u32) -> Result<u32, ValueError> {
        let number = match self {
            Self::Integer(number) => u32::try_from(*number).ok(),
            _ => None,
        };
        number
            .filter(|number| (least..=most).contains(number))
            .ok_or(ValueError::Integer { least, most })
    }

    /// As one of a few words.
    pub(crate) fn choice<T: Choice>(&self) -> Result<T, ValueError> {
        let chosen = |choice: &T| matches!(self, Self::Text(text) if text == choice.name());
        let found = T::ALL.iter().copied().find(chosen);
        found.ok_or_else(|| ValueError::Choice(T::ALL.iter().map(|each| each.name()).collect()))
    }

    /// As a size.
    pub(crate) fn size(&self) -> Result<Size, ValueError> {
        match self {
            Self::Text(text) => text.parse(),
            Self::Integer(bytes) => {
                let bytes = u64::try_from(*bytes).map_err(|_| ValueError::NotASize)?;
                Size::from_bytes(bytes).ok_or(ValueError::SizeTooLarge)
            }
            _ => Err(ValueError::NotASize),
        }
    }

    /// As a size that is not below the least.
    pub(crate) fn size_from(&self, least: Size) -> Result<Size, ValueError> {
        let size = self.size()?;
        if size < least {
            return Err(ValueError::SizeTooSmall(least));
        }
        Ok(size)
    }

    /// As an absolute path.
    pub(crate) fn path(&self) -> Result<PathBuf, ValueError> {
        match self {
            Self::Text(text) if text.starts_with('/') => Ok(text.into()),
            _ => Err(ValueError::Path),
        }
    }

    /// As an array of strings.
    pub(crate) fn texts(&self) -> Option<Vec<&str>> {
        let Self::List(values) = self else {
            return None;
        };
        let texts = values.iter().map(|value| match value {
            Self::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(&quoted(text)),
            Self::Integer(number) => number.fmt(formatter),
            Self::List(values) => {
                let values: Vec<String> = values.iter().map(Self::to_string).collect();
                write!(formatter, "[{}]", values.join(", "))
            }
            Self::Other(text) => formatter.write_str(text),
        }
    }
}

/// A string as TOML has it.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_string_reads_as_what_it_was() {
        for text in [
            "plain",
            "",
            "a\"b\\c",
            "line\nline\ttab",
            "\u{1b}[31m\u{7f}\u{85}",
            "ü",
        ] {
            let quoted = quoted(text);
            assert!(!quoted.contains(char::is_control), "{quoted}");
            let read = DeValue::parse(&quoted).unwrap();
            assert_eq!(read.get_ref().as_str(), Some(text));
        }
    }

    #[test]
    fn digits_in_an_annotation_are_an_integer() {
        assert_eq!(Value::from_annotation("4"), Value::Integer(4));
        for text in ["", "-4", "4.0", "4G", "99999999999999999999"] {
            assert_eq!(Value::from_annotation(text), Value::Text(text.into()));
        }
    }
}
