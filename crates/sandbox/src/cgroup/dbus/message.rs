//! Messages, as bytes.

use super::BusError;

/// What a property can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Value {
    Bool(bool),
    U64(u64),
    Text(String),
    Numbers(Vec<u32>),
}

/// A body that is being written. Its length so far says what has to be filled up.
#[derive(Debug, Default)]
pub(in super::super) struct Body(Vec<u8>);

impl Body {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(in super::super) fn number(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    pub(in super::super) fn text(&mut self, text: &str) {
        self.number(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        // Ours are a few characters long.
        self.0
            .push(u8::try_from(signature.len()).unwrap_or_default());
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    /// An array whose elements begin at multiples of `to`.
    fn array(&mut self, to: usize, write: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.0.len() - 4;
        self.align(to);
        let begin = self.0.len();
        write(self);
        let bytes = length(self.0.len() - begin);
        self.0[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Bool(value) => {
                self.signature("b");
                self.number(u32::from(*value));
            }
            Value::U64(value) => {
                self.signature("t");
                self.align(8);
                self.0.extend(value.to_le_bytes());
            }
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Numbers(numbers) => {
                self.signature("au");
                self.array(4, |body| {
                    numbers.iter().for_each(|number| body.number(*number))
                });
            }
        }
    }

    /// `a(sv)`.
    pub(in super::super) fn properties(&mut self, properties: &[(&str, Value)]) {
        self.array(8, |body| {
            for (name, value) in properties {
                body.align(8);
                body.text(name);
                body.variant(value);
            }
        });
    }

    /// An array of whatever, without elements, which would begin at multiples of 8.
    pub(in super::super) fn nothing(&mut self) {
        self.array(8, |_| {});
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Where a call goes.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Target {
    pub(in super::super) destination: &'static str,
    pub(in super::super) path: &'static str,
    pub(in super::super) interface: &'static str,
}

pub(super) const ANSWER: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;
/// Header fields.
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;

/// What came.
#[derive(Debug)]
pub(in super::super) struct Message {
    pub(super) kind: u8,
    pub(super) member: String,
    /// Its name, of an error.
    pub(super) error: String,
    /// The number of the call that it answers.
    pub(super) answers: u32,
    body: Vec<u8>,
}

impl Message {
    /// Its body's values from the beginning, numbers and texts, as far as `kinds` says.
    pub(in super::super) fn texts(&self, kinds: &str) -> Result<Vec<String>, BusError> {
        let mut reader = Reader(&self.body, 0);
        let values = kinds.chars().map(|kind| match kind {
            'u' => reader.number().map(|number| number.to_string()),
            _ => reader.text(),
        });
        values.collect::<Option<_>>().ok_or(BusError::Malformed)
    }
}

/// Bytes, and how far they are read.
struct Reader<'a>(&'a [u8], usize);

impl Reader<'_> {
    fn take(&mut self, bytes: usize) -> Option<&[u8]> {
        let taken = self.0.get(self.1..self.1.checked_add(bytes)?)?;
        self.1 += bytes;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.1 = self.1.next_multiple_of(4);
        let bytes = self.take(4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Option<String> {
        let bytes = usize::try_from(self.number()?).ok()?;
        self.ended(bytes)
    }

    fn signature(&mut self) -> Option<String> {
        let bytes = usize::from(self.byte()?);
        self.ended(bytes)
    }

    fn ended(&mut self, bytes: usize) -> Option<String> {
        let text = String::from_utf8(self.take(bytes)?.to_vec()).ok()?;
        self.byte()?;
        Some(text)
    }
}

pub(super) fn encode(
    serial: u32,
    target: Target,
    member: &str,
    signature: &str,
    body: Body,
) -> Vec<u8> {
    const CALL: u8 = 1;
    let mut message = Body(vec![b'l', CALL, 0, 1]);
    message.number(length(body.0.len()));
    message.number(serial);
    message.array(8, |fields| {
        for (code, kind, text) in [
            (1, "o", target.path),
            (2, "s", target.interface),
            (MEMBER, "s", member),
            (6, "s", target.destination),
            (8, "g", signature),
        ] {
            if text.is_empty() {
                continue;
            }
            fields.align(8);
            fields.0.push(code);
            fields.signature(kind);
            match kind {
                "g" => fields.signature(text),
                _ => fields.text(text),
            }
        }
    });
    message.align(8);
    message.0.extend(body.0);
    message.0
}

/// `fields` begin at a multiple of 8.
pub(super) fn decode(kind: u8, fields: &[u8], body: Vec<u8>) -> Option<Message> {
    let mut message = Message {
        kind,
        member: String::new(),
        error: String::new(),
        answers: 0,
        body,
    };
    let mut reader = Reader(fields, 0);
    while reader.1 < fields.len() {
        let code = reader.byte()?;
        match reader.signature()?.as_str() {
            "u" => {
                let number = reader.number()?;
                if code == REPLY_SERIAL {
                    message.answers = number;
                }
            }
            "g" => drop(reader.signature()?),
            "s" | "o" => {
                let text = reader.text()?;
                match code {
                    MEMBER => message.member = text,
                    ERROR_NAME => message.error = text,
                    _ => {}
                }
            }
            _ => return None,
        }
        reader.1 = reader.1.next_multiple_of(8);
    }
    Some(message)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message to us: fields of a code, a kind and a text, or the number of what is answered.
    fn message(kind: u8, answers: Option<u32>, fields: &[(u8, &str)], body: Body) -> Vec<u8> {
        let mut message = Body(vec![b'l', kind, 0, 1]);
        message.number(length(body.0.len()));
        message.number(9);
        message.array(8, |all| {
            if let Some(serial) = answers {
                all.0.push(REPLY_SERIAL);
                all.signature("u");
                all.number(serial);
            }
            for (code, text) in fields {
                all.align(8);
                all.0.push(*code);
                all.signature("s");
                all.text(text);
            }
        });
        message.align(8);
        message.0.extend(body.0);
        message.0
    }

    pub(in super::super::super) fn answer(serial: u32, write: fn(&mut Body)) -> Vec<u8> {
        let mut body = Body::default();
        write(&mut body);
        message(ANSWER, Some(serial), &[], body)
    }

    pub(in super::super::super) fn error(serial: u32, name: &str) -> Vec<u8> {
        let mut body = Body::default();
        body.text("why");
        message(ERROR, Some(serial), &[(ERROR_NAME, name)], body)
    }

    pub(in super::super::super) fn job_removed(job: &str, result: &str) -> Vec<u8> {
        let mut body = Body::default();
        body.number(1);
        for text in [job, "x.scope", result] {
            body.text(text);
        }
        message(SIGNAL, None, &[(MEMBER, "JobRemoved")], body)
    }

    #[test]
    fn properties_are_laid_out_as_the_specification_says() {
        let mut body = Body::default();
        body.properties(&[("a", Value::Bool(true)), ("b", Value::U64(2))]);
        let expected: &[u8] = &[
            40, 0, 0, 0, 0, 0, 0, 0, // length, and up to the first structure
            1, 0, 0, 0, b'a', 0, 1, b'b', 0, 0, 0, 0, 1, 0, 0, 0, // "a", variant b
            1, 0, 0, 0, b'b', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0, // "b", variant t
            2, 0, 0, 0, 0, 0, 0, 0,
        ];
        // Between the structures: up to a multiple of 8.
        assert_eq!(body.0.len(), 8 + 16 + 24);
        assert_eq!(body.0, expected);
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        let whole = answer(3, |body| body.text("text"));
        let fields =
            usize::try_from(u32::from_le_bytes(whole[12..16].try_into().unwrap())).unwrap();
        let body = whole[16 + fields.next_multiple_of(8)..].to_vec();
        let read = decode(ANSWER, &whole[16..16 + fields], body.clone()).unwrap();
        assert_eq!(
            (read.answers, read.texts("s").unwrap()),
            (3, vec!["text".to_owned()])
        );
        for end in 1..fields {
            assert!(
                decode(ANSWER, &whole[16..16 + end], body.clone()).is_none(),
                "{end}"
            );
        }
        for end in 0..body.len() {
            let cut = decode(ANSWER, &[], body[..end].to_vec()).unwrap();
            assert!(cut.texts("s").is_err(), "{end}");
        }
    }
}
