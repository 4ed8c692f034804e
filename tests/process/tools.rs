//! Programs of the machine that some tests need.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

pub(crate) fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Says that a test is left out, where the output of tests that pass is not shown either.
pub(crate) fn skip(test: &str, program: &str) {
    let _ = writeln!(
        io::stderr(),
        "SKIPPED: {test} needs `{program}`, which is not installed"
    );
}
