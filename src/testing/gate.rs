//! A plugin that waits until the test lets it go on.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Recording, recorder_with};
use crate::event::Hook;
use crate::plugin::PluginSpec;

/// A gate at which futures wait until it is opened. Its clones are the same gate.
///
/// ```
/// use session_supervisor::testing::Gate;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let gate = Gate::new();
/// let held = gate.clone();
/// let waits = async move { held.pass().await };
/// gate.open();
/// waits.await;
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Gate {
    is_open: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// A gate that is closed.
    pub fn new() -> Self {
        Self {
            is_open: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Lets everyone pass from now on.
    pub fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Lets nobody pass any more.
    pub fn close(&self) {
        self.is_open.send_replace(false);
    }

    /// Waits until the gate is open.
    pub async fn pass(&self) {
        let mut is_open = self.is_open.subscribe();
        // It can't go away, since this has a sender.
        let _ = is_open.wait_for(|is_open| *is_open).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// A plugin that records every event, and lets those of `hook` wait at a gate before it acknowledges
/// them. Beside it what it was told, and the gate, which is closed at first.
///
/// It waits no longer than its delivery may take: what is not acknowledged by then is told again.
pub fn gated(name: impl Into<Arc<str>>, hook: Hook) -> (PluginSpec, Recording, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let (plugin, told) = recorder_with(name, move |event| {
        let gate = held.clone();
        async move {
            if event.hook() == hook {
                gate.pass().await;
            }
            Ok(())
        }
    });
    (plugin, told, gate)
}
