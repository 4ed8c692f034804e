//! The budgets of a shutdown, and whether they fit into each other.

use std::time::Duration;

use super::as_written;
use super::document::{FROM_ZERO, Given, Origin, POSITIVE, Section};
use crate::shutdown::{Budget, MAX_CAP, MIN_CAP};
use crate::supervisor::LiveSettings;

/// What the process needs beyond its budgets to be gone before it is killed.
pub(crate) const SLACK: Duration = Duration::from_secs(1);
/// How long a program that a gateway is around has to exit, unless said otherwise.
pub(crate) const DEFAULT_GRACE: Duration = Duration::from_secs(4);
pub(super) const KEYS: &[&str] = &[
    "cap",
    "lifecycle_timeout",
    "teardown",
    "kill_after",
    "restart_expected",
];

/// `[shutdown]`: how long stopping may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShutdownConfig {
    /// From the request: lifecycle hooks and session-end drain.
    pub(crate) cap: Duration,
    /// Each lifecycle hook, inside the cap: at most a quarter of it.
    pub(crate) lifecycle_timeout: Duration,
    /// All teardown steps together, after the cap.
    pub(crate) teardown: Duration,
    /// When the service manager kills; everything else has to fit inside.
    pub(crate) kill_after: Duration,
    /// The downtime that a planned restart announces where it names none.
    pub(crate) restart_expected: Duration,
    /// How long the program that the gateway is around has to exit before all that begins; zero where
    /// there is none.
    pub(crate) grace: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        let live = LiveSettings::default();
        Self {
            cap: live.cap,
            lifecycle_timeout: Budget::default_lifecycle_timeout(live.cap),
            teardown: Duration::from_secs(1),
            kill_after: Duration::from_secs(10),
            restart_expected: live.restart_expected,
            grace: Duration::ZERO,
        }
    }
}

impl ShutdownConfig {
    pub(super) fn read(mut section: Section<'_, '_>, grace: Option<Duration>) -> Self {
        let default = Self::default();
        let grace = grace.map(|grace| Given::new(grace, Origin::Name("--grace")));
        let cap = section.duration("cap", MIN_CAP..=MAX_CAP);
        let lifecycle_timeout = section.duration("lifecycle_timeout", POSITIVE);
        let teardown = section.duration("teardown", POSITIVE);
        let kill_after = section.duration("kill_after", POSITIVE);
        let restart_expected = section.duration("restart_expected", FROM_ZERO);

        let or = |given: &Option<Given<Duration>>, default| {
            given.as_ref().map_or(default, |given| given.value)
        };
        let mut config = Self {
            cap: or(&cap, default.cap),
            lifecycle_timeout: Duration::ZERO,
            teardown: or(&teardown, default.teardown),
            kill_after: or(&kill_after, default.kill_after),
            restart_expected: or(&restart_expected, default.restart_expected),
            grace: or(&grace, default.grace),
        };
        let quarter = config.cap / 4;
        let usual = Budget::default_lifecycle_timeout(config.cap);
        config.lifecycle_timeout = or(&lifecycle_timeout, usual);

        if let Some(given) = lifecycle_timeout
            && given.value > quarter
        {
            let problem = format!(
                "{} is {}, expected at most {}, a quarter of `cap`",
                section.full("lifecycle_timeout"),
                as_written(given.value),
                as_written(quarter),
            );
            section.refuse(given.origin, problem);
        }

        if !config.fits() {
            // The value to blame is the one without which all would fit.
            let with_default = [
                (
                    &cap,
                    Self {
                        cap: default.cap,
                        ..config.clone()
                    },
                ),
                (
                    &teardown,
                    Self {
                        teardown: default.teardown,
                        ..config.clone()
                    },
                ),
                (
                    &kill_after,
                    Self {
                        kill_after: default.kill_after,
                        ..config.clone()
                    },
                ),
                (
                    &grace,
                    Self {
                        grace: DEFAULT_GRACE,
                        ..config.clone()
                    },
                ),
            ];
            let culprit = with_default
                .iter()
                .find(|(given, config)| given.is_some() && config.fits())
                .and_then(|(given, _)| given.as_ref());
            let any = [&cap, &teardown, &kill_after, &grace];
            let any = any.into_iter().flatten().next();
            if let Some(given) = culprit.or(any) {
                section.refuse(given.origin, config.misfit());
            }
        }
        section.finish(KEYS);
        config
    }

    fn needed(&self) -> Duration {
        self.grace + self.cap + self.teardown + SLACK
    }

    fn fits(&self) -> bool {
        self.needed() <= self.kill_after
    }

    fn misfit(&self) -> String {
        let grace = match self.grace {
            Duration::ZERO => String::new(),
            grace => format!("`--grace` {} + ", as_written(grace)),
        };
        format!(
            "{grace}`cap` {} + `teardown` {} + {} of slack make {}, expected at most `kill_after`, which is {}",
            as_written(self.cap),
            as_written(self.teardown),
            as_written(SLACK),
            as_written(self.needed()),
            as_written(self.kill_after),
        )
    }
}
