//! With the feature `portable`: puts llama.cpp's shared libraries beside the binaries, where they are looked for first.
//! llama-cpp-sys-2 leaves those that compute in its own directory.

use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DEP_LLAMA_BACKENDS_DIR");
    let Some(backends) = std::env::var_os("DEP_LLAMA_BACKENDS_DIR").map(PathBuf::from) else {
        return Ok(());
    };
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "avx2") {
        println!(
            "cargo::warning=the feature portable is built for CPUs with AVX2 only: set RUSTFLAGS=\"-C target-cpu=x86-64-v2\", as `make release` does"
        );
    }
    // target/PROFILE/build/PACKAGE/out
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let Some(profile) = out.ancestors().nth(3) else {
        return Err(io::Error::other("OUT_DIR is not within a target directory"));
    };
    for directory in [profile.to_owned(), profile.join("deps")] {
        remove_libraries(&directory)?;
        copy_libraries(&backends, &directory)?;
        copy_libraries(&backends.with_file_name("lib"), &directory)?;
    }
    Ok(())
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| {
        (name.starts_with("libggml") || name.starts_with("libllama")) && name.contains(".so")
    })
}

/// Removes the libraries of an earlier build, which may have had other features.
fn remove_libraries(directory: &Path) -> io::Result<()> {
    for file in std::fs::read_dir(directory)? {
        let path = file?.path();
        if is_library(&path) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Copies the libraries of a directory under the names that programs look for: `libllama.so.0`, but neither the file
/// behind it, `libllama.so.0.1.2`, nor the link for linkers, `libllama.so`.
fn copy_libraries(from: &Path, to: &Path) -> io::Result<()> {
    for file in std::fs::read_dir(from)? {
        let path = file?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let is_named_so = match name.split_once(".so.") {
            Some((_, version)) => !version.contains('.'),
            None => !has_version(from, name)?,
        };
        if is_library(&path) && is_named_so {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// Whether a directory has a library of this name with a version behind it.
fn has_version(directory: &Path, name: &str) -> io::Result<bool> {
    let versioned = format!("{name}.");
    for file in std::fs::read_dir(directory)? {
        let file = file?.file_name();
        if file
            .to_str()
            .is_some_and(|file| file.starts_with(&versioned))
        {
            return Ok(true);
        }
    }
    Ok(false)
}
