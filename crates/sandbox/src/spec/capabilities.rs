//! Capabilities that nobody knows: of a later kernel, or misspelt. They are left out, as runc does it.

use std::collections::BTreeSet;

use oci_spec::runtime::Capability;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Decodes what has sets of capabilities at `pointer` (RFC 6901). The names that were left out come too.
///
/// # Errors
/// When it is malformed in any other way.
pub fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    pointer: &str,
) -> serde_json::Result<(T, Vec<String>)> {
    let error = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok((value, Vec::new())),
        Err(error) => error,
    };
    let mut value = serde_json::from_slice::<Value>(bytes)?;
    let unknown = value
        .pointer_mut(pointer)
        .map_or_else(BTreeSet::new, take_unknown);
    match unknown.is_empty() {
        true => Err(error),
        false => Ok((serde_json::from_value(value)?, Vec::from_iter(unknown))),
    }
}

/// Whether this is the name of one.
fn is_known(name: &str) -> bool {
    serde_json::from_value::<Capability>(name.into()).is_ok()
}

fn take_unknown(sets: &mut Value) -> BTreeSet<String> {
    let mut unknown = BTreeSet::new();
    let sets = sets.as_object_mut().into_iter();
    for names in sets.flat_map(|sets| sets.values_mut().filter_map(Value::as_array_mut)) {
        names.retain(|name| match name.as_str() {
            Some(name) if !is_known(name) => {
                unknown.insert(name.to_owned());
                false
            }
            _ => true,
        });
    }
    unknown
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Process;
    use serde_json::json;

    use super::*;

    fn decode_sets(sets: &Value) -> serde_json::Result<(Process, Vec<String>)> {
        let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "capabilities": sets});
        decode(&serde_json::to_vec(&process).unwrap(), "/capabilities")
    }

    #[test]
    fn unknown_names_are_left_out_and_told_once() {
        let sets =
            json!({"bounding": ["CAP_TO_FLY", "CAP_KILL", "ANY"], "ambient": ["CAP_TO_FLY"]});
        let (process, unknown) = decode_sets(&sets).unwrap();
        assert_eq!(unknown, ["ANY", "CAP_TO_FLY"]);
        let sets = serde_json::to_value(process.capabilities()).unwrap();
        assert_eq!(sets["bounding"], json!(["CAP_KILL"]));
        assert_eq!(sets["ambient"], json!([]));
    }

    #[test]
    fn known_names_are_nothing_to_tell_of() {
        let (_, unknown) = decode_sets(&json!({"bounding": ["CAP_KILL"]})).unwrap();
        assert!(unknown.is_empty());
    }

    #[test]
    fn what_is_malformed_otherwise_stays_so() {
        assert!(decode_sets(&json!({"bounding": [7]})).is_err());
        assert!(decode_sets(&json!({"bounding": ["CAP_TO_FLY"], "ambient": 7})).is_err());
    }
}
