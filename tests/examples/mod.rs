//! The examples in `docs/examples`, built for the tests that run them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

/// What cargo says of the test itself, which would have some dependencies built anew.
const OF_TEST: [&str; 4] = [
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_",
    "CARGO_CRATE_",
];

/// The path of an example. It is built first where cargo runs the tests, since it builds no examples when
/// it is asked for one test alone.
pub(crate) fn example(name: &'static str) -> PathBuf {
    static BUILT: LazyLock<Mutex<BTreeMap<&str, PathBuf>>> = LazyLock::new(Mutex::default);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let path = built.entry(name).or_insert_with(|| {
        if let Some(cargo) = std::env::var_os("CARGO") {
            build(&mut Command::new(cargo), name);
        }
        let tests = std::env::current_exe().unwrap();
        let target = tests.parent().and_then(Path::parent).unwrap();
        target.join("examples").join(name)
    });
    path.clone()
}

fn build(cargo: &mut Command, name: &str) {
    let profile = match cfg!(debug_assertions) {
        true => "dev",
        false => "release",
    };
    cargo
        .args(["build", "--locked", "--quiet", "--example", name])
        .args(["--profile", profile])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        if OF_TEST.iter().any(|prefix| text.starts_with(prefix)) {
            cargo.env_remove(&variable);
        }
    }
    assert!(cargo.status().unwrap().success(), "{cargo:?}");
}
