//! Hooks: what a plugin can be told of, and which of them it listens to.

use std::fmt;

use serde::{Serialize, Serializer};

/// What a plugin can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Hook {
    /// A session started.
    SessionStart,
    /// A session ended.
    SessionEnd,
    /// The supervisor started. Best effort: most plugins are told once, a plugin with an
    /// [opening](crate::PluginSpec::with_opening) until it takes it.
    GatewayStart,
    /// The supervisor is stopping. Best effort, once.
    GatewayShutdown,
    /// The supervisor is stopping and expects to be back. Best effort, once.
    GatewayPreRestart,
}

impl Hook {
    /// Every hook.
    pub const ALL: &[Self] = &[
        Self::SessionStart,
        Self::SessionEnd,
        Self::GatewayStart,
        Self::GatewayShutdown,
        Self::GatewayPreRestart,
    ];

    /// The hook's name on the wire and in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionStart => "session_start",
            Self::SessionEnd => "session_end",
            Self::GatewayStart => "gateway_start",
            Self::GatewayShutdown => "gateway_shutdown",
            Self::GatewayPreRestart => "gateway_pre_restart",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Hook {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|hook| hook.as_str() == text);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|hook| hook.as_str()).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}

impl Serialize for Hook {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The hooks that a plugin listens to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hooks(u8);

impl Hooks {
    /// No hook at all.
    pub const NONE: Self = Self(0);
    /// `session_start` and `session_end`: the default.
    pub const SESSION: Self = Self::NONE.with(Hook::SessionStart).with(Hook::SessionEnd);
    /// Every hook.
    pub const ALL: Self = Self::SESSION
        .with(Hook::GatewayStart)
        .with(Hook::GatewayShutdown)
        .with(Hook::GatewayPreRestart);

    /// These and `hook`.
    #[must_use]
    pub const fn with(self, hook: Hook) -> Self {
        Self(self.0 | 1 << hook as u8)
    }

    /// Whether `hook` is one of these.
    pub const fn contains(self, hook: Hook) -> bool {
        self.0 & (1 << hook as u8) != 0
    }
}

impl FromIterator<Hook> for Hooks {
    fn from_iter<I: IntoIterator<Item = Hook>>(hooks: I) -> Self {
        hooks.into_iter().fold(Self::NONE, Self::with)
    }
}

impl Serialize for Hooks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(Hook::ALL.iter().filter(|hook| self.contains(**hook)))
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hooks = Hook::ALL.iter().filter(|hook| self.contains(**hook));
        f.debug_set().entries(hooks).finish()
    }
}
