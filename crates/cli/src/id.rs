//! Identifiers.

/// 32 random hexadecimal digits: long enough to be unique without asking anybody, short enough for
/// socket paths.
pub(crate) fn random() -> String {
    use std::fmt::Write;

    let mut bytes = [0_u8; 16];
    // SAFETY: the pointer and the length are those of `bytes`.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // The kernel fills a request of up to 256 bytes in one go or, before its generator is ready at
    // boot, blocks.
    assert_eq!(count, 16, "getrandom gave {count} bytes");
    let mut text = String::with_capacity(32);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

/// The part that is shown to people.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        let (a, b) = (random(), random());
        assert_ne!(a, b);
        assert_eq!((a.len(), short(&a).len()), (32, 12));
    }
}
