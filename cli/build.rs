//! With the feature `portable`: makes the binary look for llama.cpp's shared libraries where the engine does, beside
//! itself and in `lib/flotilla` of its prefix.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_portable = std::env::var_os("CARGO_FEATURE_PORTABLE").is_some();
    let is_linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux");
    if is_portable && is_linux {
        println!("cargo::rustc-link-arg-bins=-Wl,-rpath,$ORIGIN:$ORIGIN/../lib/flotilla");
    }
}
