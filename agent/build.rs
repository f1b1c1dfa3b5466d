// SPDX-License-Identifier: Apache-2.0
//! Compiles the protobuf schema with a compiler in Rust: no protoc on the build machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/cima.proto");
    let schema = protox::compile(["proto/cima.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(schema)?;
    Ok(())
}
