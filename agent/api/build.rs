// SPDX-License-Identifier: Apache-2.0
//! Compiles the schema of the socket with a compiler in Rust: no protoc on the build machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto/hook.proto");
    let schema = protox::compile(["../proto/hook.proto"], ["../proto"])?;
    tonic_prost_build::configure().compile_fds(schema)?;
    Ok(())
}
