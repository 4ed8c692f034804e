//! The settings that may change while a supervisor runs.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::plugin::PluginSpec;
use crate::registry::{Expiry, Limits};
use crate::shutdown::Budget;

/// The settings of a supervisor that may change while it runs: those of a
/// [`Builder`](crate::Builder), and what a reload reads again.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LiveSettings {
    /// Who is told, in the order in which reports name them. A plugin whose
    /// [configuration](PluginSpec::with_configuration) is that of the running one is left alone.
    pub plugins: Vec<PluginSpec>,
    /// See [`Builder::cap`](crate::Builder::cap).
    pub cap: Duration,
    /// See [`Builder::lifecycle_timeout`](crate::Builder::lifecycle_timeout).
    pub lifecycle_timeout: Option<Duration>,
    /// See [`Builder::teardown`](crate::Builder::teardown).
    pub teardown: Duration,
    /// See [`Builder::restart_expected`](crate::Builder::restart_expected).
    pub restart_expected: Duration,
    /// See [`Builder::max_active`](crate::Builder::max_active). Sessions beyond a smaller limit stay.
    pub max_active: usize,
    /// See [`Builder::idle_after`](crate::Builder::idle_after).
    pub idle_after: Option<Duration>,
    /// See [`Builder::max_age`](crate::Builder::max_age).
    pub max_age: Option<Duration>,
    /// What the reader of a configuration has to say beside: that something can't change while the
    /// supervisor runs, for example. For people, a line each; logged, and part of the answer.
    pub warnings: Vec<String>,
}

impl Default for LiveSettings {
    /// No plugin, and the defaults of a [`Builder`](crate::Builder).
    fn default() -> Self {
        Self {
            plugins: Vec::new(),
            cap: Duration::from_secs(2),
            lifecycle_timeout: None,
            teardown: Duration::from_secs(3),
            restart_expected: Duration::ZERO,
            max_active: 1_000_000,
            idle_after: None,
            max_age: None,
            warnings: Vec::new(),
        }
    }
}

impl LiveSettings {
    pub(super) fn budget(&self) -> Budget {
        let default = Budget::default_lifecycle_timeout(self.cap);
        let lifecycle_timeout = self.lifecycle_timeout.unwrap_or(default);
        Budget::new(self.cap, lifecycle_timeout, self.teardown)
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            max_active: self.max_active,
            expiry: Expiry {
                idle_after: self.idle_after,
                max_age: self.max_age,
            },
        }
    }

    /// Says what can't work together.
    pub(super) fn check(&self) -> Result<(), String> {
        self.budget().check()?;
        let mut names = BTreeSet::new();
        for plugin in &self.plugins {
            plugin.check()?;
            if !names.insert(plugin.name()) {
                return Err(format!("two plugins are named `{}`", plugin.name()));
            }
        }
        for (limit, name) in [(self.idle_after, "idle_after"), (self.max_age, "max_age")] {
            if limit.is_some_and(|limit| limit.is_zero()) {
                return Err(format!("{name} must be more than zero"));
            }
        }
        Ok(())
    }
}
