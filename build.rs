//! Lets the built programs find the libtorch they were linked against, without LD_LIBRARY_PATH.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_LIB");
    if !feature("torch") {
        return;
    }
    for folder in library_folders() {
        // Old-style RPATH is also searched for what libtorch itself needs (cudart, cupti).
        println!("cargo:rustc-link-arg-bin=tlm-torch=-Wl,-rpath,{}", folder.display());
    }
    println!("cargo:rustc-link-arg-bin=tlm-torch=-Wl,--disable-new-dtags");
}

/// Returns libtorch's own folder and, in a Python environment, that of the CUDA runtime beside it.
fn library_folders() -> Vec<PathBuf> {
    let Some(lib) = variable("LIBTORCH_LIB").or_else(|| variable("LIBTORCH")) else {
        return Vec::new();
    };
    let lib = lib.join("lib");
    let beside = lib.join("../../nvidia/cu13/lib");
    let mut folders = vec![lib.canonicalize().unwrap_or(lib)];
    folders.extend(beside.canonicalize());
    folders
}

fn feature(name: &str) -> bool {
    variable(&format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some()
}

#[expect(clippy::disallowed_methods, reason = "cargo talks to build scripts by variables")]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}
