//! The options that an operator gives a runtime in containerd's configuration, which arrive on the
//! standard input: a `google.protobuf.Any` of a `runtimeoptions.v1.Options`.

use std::io::{self, Read};
use std::path::PathBuf;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{CodedInputStream, Message};

/// Names the message, which containerd does not spell the same in all versions.
const MESSAGE: &str = "runtimeoptions.v1.Options";
/// `string config_path`
const CONFIG_PATH: u32 = 2;
/// Far more than anybody writes.
const MOST_BYTES: u64 = 1 << 20;

/// The configuration file that the options name, if they do. Options of other runtimes say nothing.
///
/// # Errors
/// When they cannot be read, or are malformed.
pub(super) fn config_path(input: impl Read) -> io::Result<Option<PathBuf>> {
    let mut bytes = Vec::new();
    input.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let options = Any::parse_from_bytes(&bytes)?;
    let type_name = options.type_url.rsplit('/').next().unwrap_or_default();
    if !type_name.ends_with(MESSAGE) {
        return Ok(None);
    }
    let mut path = None;
    let mut fields = CodedInputStream::from_bytes(&options.value);
    while let Some(tag) = fields.read_raw_tag_or_eof()? {
        /// Wire type of strings and bytes.
        const LENGTH_DELIMITED: u32 = 2;
        if tag == CONFIG_PATH << 3 | LENGTH_DELIMITED {
            path = Some(fields.read_string()?).filter(|path| !path.is_empty());
        } else {
            fields.skip_field(wire_type(tag)?)?;
        }
    }
    Ok(path.map(PathBuf::from))
}

fn wire_type(tag: u32) -> io::Result<containerd_shim_protos::protobuf::rt::WireType> {
    let kind = containerd_shim_protos::protobuf::rt::WireType::new(tag & 7);
    kind.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(type_url: &str, value: &[u8]) -> Vec<u8> {
        let any = Any {
            type_url: type_url.to_owned(),
            value: value.to_vec(),
            ..Default::default()
        };
        any.write_to_bytes().unwrap()
    }

    #[test]
    fn the_file_is_found_among_the_fields() {
        // type_url: "x", config_path: "/c", config_body: "b"
        let value = b"\x0a\x01x\x12\x02/c\x1a\x01b";
        for prefix in ["", "types.containerd.io/"] {
            let bytes = options(&format!("{prefix}runtimeoptions.v1.Options"), value);
            assert_eq!(config_path(&*bytes).unwrap(), Some("/c".into()));
        }
    }

    #[test]
    fn no_options_and_those_of_others_name_none() {
        assert_eq!(config_path(&b""[..]).unwrap(), None);
        let runc = options("containerd.runc.v1.Options", b"\x12\x02/c");
        assert_eq!(config_path(&*runc).unwrap(), None);
        assert!(config_path(&b"\xff\xff"[..]).is_err());
    }
}
