//! Generates the messages of `proto/cri.proto`.

use std::path::PathBuf;
use std::{env, io};

use ttrpc_codegen::{Codegen, ProtobufCustomize};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=proto/cri.proto");
    Codegen::new()
        .out_dir(PathBuf::from(
            env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"),
        ))
        .input("proto/cri.proto")
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(true))
        .run()
}
