//! Compiles `api/` without protoc: protox parses, tonic-prost-build writes the Rust.

use std::{env, error::Error, ffi::OsStr, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=api");
    let mut files = Vec::new();
    collect(Path::new("api"), &mut files)?;
    // Sorted, so that two builds write the same bytes.
    files.sort();

    let descriptors = protox::compile(&files, ["api"])?;
    let out = env::var("OUT_DIR")?;
    fs::write(
        Path::new(&out).join("descriptors.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure()
        // A resource's version is a hash of its bytes, so maps have to be written in one order.
        .btree_map(".")
        .bytes(".google.protobuf.Any")
        .include_file("api.rs")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension() == Some(OsStr::new("proto")) {
            files.push(path.to_str().ok_or("path is not UTF-8")?.to_owned());
        }
    }
    Ok(())
}
