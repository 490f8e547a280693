//! The modules under `tests/guests`, built once for all tests of this process.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The bytes of a guest built for `wasm32-wasip2`, by its crate's name.
pub(crate) fn guest(name: &str) -> Arc<[u8]> {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| cargo_build(&["--target", "wasm32-wasip2"]));
    read("wasm32-wasip2", name)
}

/// The bytes of the guest `vault`, whose SDK has HTTP: it is built by itself, so that
/// the others do without.
pub(crate) fn vault() -> Arc<[u8]> {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| cargo_build(&["--target", "wasm32-wasip2", "--package", "vault"]));
    read("wasm32-wasip2", "vault")
}

/// The bytes of a guest built for `wasm32-unknown-unknown`: a core module.
pub(crate) fn bare_guest(name: &str) -> Arc<[u8]> {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| cargo_build(&["--target", "wasm32-unknown-unknown", "--package", "bare"]));
    read("wasm32-unknown-unknown", name)
}

/// The bytes of a guest without names and line tables, for what is kept for ever.
pub(crate) fn small_guest(name: &str) -> Arc<[u8]> {
    static BUILT: OnceLock<()> = OnceLock::new();
    let strip = [
        "--target",
        "wasm32-wasip2",
        "--config",
        "profile.release.strip=true",
        "--config",
        "profile.release.debug=false",
    ];
    BUILT.get_or_init(|| cargo_build(&[&strip[..], &["--target-dir", "target/small"]].concat()));
    read("small/wasm32-wasip2", name)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guests")
}

fn read(target: &str, name: &str) -> Arc<[u8]> {
    static READ: Mutex<Option<HashMap<PathBuf, Arc<[u8]>>>> = Mutex::new(None);
    let file = format!("{}.wasm", name.replace('-', "_"));
    let path = folder().join("target").join(target).join("release").join(file);
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let read = read.get_or_insert_default();
    read.entry(path.clone())
        .or_insert_with(|| std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).into())
        .clone()
}

/// As a user would, in an environment without what cargo sets for tests.
fn cargo_build(arguments: &[&str]) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_tests = text.starts_with("CARGO") && !["CARGO_HOME", "CARGO_NET_OFFLINE"].contains(&&*text);
        if of_tests || text.starts_with("RUSTFLAGS") || text == "RUSTC_WORKSPACE_WRAPPER" {
            cargo.env_remove(&name);
        }
    }
    let output = cargo.arg("build").arg("--release").args(arguments).current_dir(folder()).output();
    let output = output.expect("cargo can be run");
    assert!(output.status.success(), "the guests do not build:\n{}", String::from_utf8_lossy(&output.stderr));
}
