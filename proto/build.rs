//! Generates the message types with protox, a protobuf compiler in Rust, so that building needs no
//! `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "flotilla/v1/fleet.proto",
        "flotilla/v1/inference.proto",
        "flotilla/v1/runner.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    tonic_prost_build::configure()
        .bytes(".flotilla.v1.BlobChunk")
        .compile_fds(protox::compile(files, ["."])?)
        .map_err(Into::into)
}
