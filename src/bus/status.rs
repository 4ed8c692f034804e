//! How plugins are, and what they are owed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::{Hook, Hooks};

/// What has become of the last event of a session, for one plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeliveryState {
    /// The plugin acknowledged it.
    Delivered,
    /// The plugin has not acknowledged it yet.
    Owed,
    /// The plugin rejected it for good: a dead letter.
    Dead,
}

/// How a plugin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PluginState {
    /// It has what there is, or nearly.
    #[default]
    Healthy,
    /// It works, but is several deliveries behind.
    Lagging,
    /// It failed, or rejected an event: something waits for another attempt.
    Retrying,
    /// It failed ten times in a row: it is tried again every
    /// [`backoff_max`](crate::DeliveryPolicy::backoff_max), or when it is resumed, and a shutdown
    /// does not wait for it.
    Quarantined,
    /// It said that it wants nothing more: it is told nothing until it is resumed, or the process
    /// starts again.
    Disabled,
}

impl PluginState {
    /// Every state.
    pub const ALL: &[Self] = &[
        Self::Healthy,
        Self::Lagging,
        Self::Retrying,
        Self::Quarantined,
        Self::Disabled,
    ];

    /// Whether what it is owed waits for something else than the plugin's own pace, so that waiting
    /// for it may be in vain.
    pub fn waits(self) -> bool {
        match self {
            Self::Healthy | Self::Lagging => false,
            Self::Retrying | Self::Quarantined | Self::Disabled => true,
        }
    }

    /// Whether its events wait until an operator or a long time helps: a shutdown does not wait for
    /// it.
    pub(crate) fn is_given_up(self) -> bool {
        matches!(self, Self::Quarantined | Self::Disabled)
    }

    /// The state's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Lagging => "lagging",
            Self::Retrying => "retrying",
            Self::Quarantined => "quarantined",
            Self::Disabled => "disabled",
        }
    }
}

/// How a plugin is and what it is owed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct PluginStatus {
    /// The plugin's name.
    pub name: Arc<str>,
    /// How it is.
    pub state: PluginState,
    /// What it listens to.
    pub hooks: Hooks,
    /// How many events it has not acknowledged, dead letters not counted.
    pub owed: u64,
    /// How long ago the oldest of them was recorded, in milliseconds; none if there is none.
    pub oldest_owed_age_ms: Option<u64>,
    /// About how many bytes the ledger keeps because the plugin has not got past them; none where
    /// the ledger is not on a disk.
    pub held_bytes: Option<u64>,
    /// How many dead letters it has.
    pub dead: u64,
    /// Why its last failed delivery failed; none after a delivery that did not.
    pub last_error: Option<Arc<str>>,
    /// How many of its threads hang, in code of the plugin that has not come back. It goes on on
    /// another one, until four are left behind.
    pub hung_threads: u64,
    /// How long its last deliveries took, in milliseconds, the latest counting most; none before
    /// the first.
    pub latency_ms: Option<f64>,
}

impl PluginStatus {
    /// Whether it is told of ends.
    pub fn hears_ends(&self) -> bool {
        self.hooks.contains(Hook::SessionEnd)
    }
}
