//! PAX extended headers: records of the form `<length> <key>=<value>\n`.

use super::Timestamp;
use super::sparse::Segment;

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// The records of one extended header that matter here.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The file's own name in sparse formats 0.1 and 1.0.
    pub(super) sparse_name: Option<Vec<u8>>,
    /// `GNU.sparse.major` is 1: the map stands before the content.
    pub(super) sparse_map_in_body: bool,
    pub(super) sparse_size: Option<u64>,
    pub(super) sparse_map: Option<Vec<Segment>>,
    /// An offset of format 0.0 whose length has not come yet.
    sparse_offset: Option<u64>,
}

impl Records {
    /// Adds the records in `body`. Values may hold any byte, so that only the lengths count.
    pub(super) fn parse(&mut self, mut body: &[u8]) -> Option<()> {
        while !body.is_empty() {
            let space = body.iter().take(20).position(|byte| *byte == b' ')?;
            let length = usize::try_from(decimal(&body[..space])?).ok()?;
            let record = body.get(space + 1..length)?;
            let record = record.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            self.record(&record[..equals], &record[equals + 1..])?;
            body = &body[length..];
        }
        Some(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            // An empty value takes the record back.
            b"path" => self.path = (!value.is_empty()).then(|| value.to_owned()),
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_owned()),
            b"size" => self.size = optional_decimal(value)?,
            b"uid" => self.uid = optional_decimal(value)?,
            b"gid" => self.gid = optional_decimal(value)?,
            b"mtime" => self.mtime = Some(timestamp(value)?),
            b"GNU.sparse.major" => self.sparse_map_in_body = value == b"1",
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_owned()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse_size = Some(decimal(value)?);
            }
            b"GNU.sparse.map" => self.sparse_map = Some(comma_map(value)?),
            b"GNU.sparse.offset" => self.sparse_offset = Some(decimal(value)?),
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse_offset.take()?;
                let length = decimal(value)?;
                self.sparse_map
                    .get_or_insert_default()
                    .push(Segment { offset, length });
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        Some(())
    }
}

/// Format 0.1: `offset,length,offset,length`.
fn comma_map(value: &[u8]) -> Option<Vec<Segment>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let numbers: Vec<u64> = value
        .split(|byte| *byte == b',')
        .map(decimal)
        .collect::<Option<_>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| {
        pairs
            .iter()
            .map(|&[offset, length]| Segment { offset, length })
            .collect()
    })
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

fn optional_decimal(value: &[u8]) -> Option<Option<u64>> {
    if value.is_empty() {
        Some(None)
    } else {
        decimal(value).map(Some)
    }
}

/// `[-]seconds[.fraction]`.
fn timestamp(value: &[u8]) -> Option<Timestamp> {
    const NANOSECONDS: u32 = 1_000_000_000;
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let mut nanoseconds = 0;
    for position in 0..9 {
        let digit = fraction.get(position).copied().unwrap_or(b'0');
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, nanoseconds) => Timestamp {
            seconds: (-seconds).checked_sub(1)?,
            nanoseconds: NANOSECONDS - nanoseconds,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_newlines_and_zero_bytes() {
        let mut records = Records::default();
        let mut body = b"11 path=a\nb\n".to_vec();
        body[1] = b'2';
        let xattr = b"SCHILY.xattr.security.capability=\x01\x00\n\x02\n";
        body.extend_from_slice(format!("{} ", xattr.len() + 3).as_bytes());
        body.extend_from_slice(xattr);
        records.parse(&body).unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(
            records.xattrs,
            [(b"security.capability".to_vec(), b"\x01\x00\n\x02".to_vec())]
        );
    }

    #[test]
    fn malformed_records_are_refused() {
        for body in [
            &b"x"[..],
            b"5 a=b\n",
            b"100 a=b\n",
            b"0 a=b\n",
            b"1 a=b\n",
            b"5 ab\n",
            b"18446744073709551616 a=b\n",
            b"11 size=-1\n",
        ] {
            let text = String::from_utf8_lossy(body);
            assert!(Records::default().parse(body).is_none(), "{text}");
        }
    }

    #[test]
    fn timestamps_have_fractions_and_signs() {
        let of = |text: &str| timestamp(text.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(of("1"), Some((1, 0)));
        assert_eq!(of("1.5"), Some((1, 500_000_000)));
        assert_eq!(of("1.1234567891"), Some((1, 123_456_789)));
        assert_eq!(of("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(of("-1"), Some((-1, 0)));
        assert_eq!(of("1.x"), None);
        assert_eq!(of(""), None);
    }
}
