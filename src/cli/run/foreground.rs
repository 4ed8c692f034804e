//! The terminal's foreground group: whom it sends its signals, and who may read from it.

use std::io::{self, IsTerminal as _};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{getpgrp, tcgetpgrp, tcsetpgrp};

/// Whether standard input is a terminal, and the group of this process in its foreground.
pub(super) fn is_ours() -> bool {
    let stdin = io::stdin();
    stdin.is_terminal() && tcgetpgrp(&stdin) == Ok(getpgrp())
}

/// Puts the group of this process into the foreground. Where that can't be, such as when the terminal
/// is gone, everything stays as it is.
pub(super) fn take() {
    // One from the background is stopped for it, unless it does not let itself be.
    let mask = SigSet::from(Signal::SIGTTOU).thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let _ = tcsetpgrp(io::stdin(), getpgrp());
    if let Ok(mask) = mask {
        let _ = mask.thread_set_mask();
    }
}
