//! Generates the ttrpc client and server of `proto/agent.proto`.

use std::path::PathBuf;
use std::{env, fs, io};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=proto/agent.proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    Codegen::new()
        .out_dir(&out)
        .input("proto/agent.proto")
        .include("proto")
        .rust_protobuf()
        .customize(Customize {
            async_all: true,
            ..Default::default()
        })
        .rust_protobuf_customize(ProtobufCustomize::default())
        .run()?;
    for name in ["agent.rs", "agent_ttrpc.rs"] {
        strip_inner_attributes(&out.join(name))?;
    }
    Ok(())
}

/// `include!` takes no inner attributes or inner docs; `src/lib.rs` sets the lints instead.
fn strip_inner_attributes(path: &PathBuf) -> io::Result<()> {
    let source = fs::read_to_string(path)?;
    let kept: String = source
        .lines()
        .filter(|line| !line.starts_with("#![") && !line.starts_with("//!"))
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(path, kept)
}
