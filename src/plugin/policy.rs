//! How patiently a plugin is served.

use std::time::Duration;

/// How patiently a plugin is served.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryPolicy {
    /// How long one delivery may take; while draining never past the cap. Default 5 s.
    pub timeout: Duration,
    /// How long a plugin that is down is tried before its owed events become dead letters.
    /// Default 72 h.
    pub retry_for: Duration,
    /// The first wait after a failed round; doubles up to [`backoff_max`](Self::backoff_max) and
    /// starts over after any acknowledgement. Default 1 s.
    pub backoff: Duration,
    /// The longest wait after a failed round. Default 5 min.
    pub backoff_max: Duration,
    /// How often an event may be rejected by itself before it becomes a dead letter. Default 5, which takes
    /// about 15 s.
    pub max_attempts: u32,
    /// The most events in one delivery. Default 4096.
    pub max_batch: usize,
    /// The most deliveries side by side, never two of one session. Default 1: a plugin that
    /// works through its events in order on its own thread gains nothing from more.
    pub max_in_flight: usize,
}

impl Default for DeliveryPolicy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            retry_for: Duration::from_secs(72 * 3600),
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            max_attempts: 5,
            max_batch: Self::MAX_BATCH,
            max_in_flight: 1,
        }
    }
}

/// Ten years: longer than anything is waited for.
const LONGEST: Duration = Duration::from_secs(10 * 31_557_600);

impl DeliveryPolicy {
    /// The most events in one delivery, unless said otherwise.
    pub(crate) const MAX_BATCH: usize = 4096;

    /// The policy for plugins that make a call per event, such as
    /// [`PluginSpec::per_session`](crate::PluginSpec::per_session): 8 deliveries side by side, of at most 512 events each. A session
    /// whose call is slow or hangs holds up one of the eight, and not whatever comes later. An event may be
    /// rejected 20 times, which takes about an hour: the error of a call is more often that of
    /// whatever it needs than that of its event.
    pub fn per_session() -> Self {
        Self {
            max_attempts: 20,
            max_batch: 512,
            max_in_flight: 8,
            ..Self::default()
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let too_small = if self.timeout.is_zero() {
            "timeout"
        } else if self.backoff.is_zero() {
            "backoff"
        } else if self.max_attempts == 0 {
            "max_attempts"
        } else if self.max_batch == 0 {
            "max_batch"
        } else if self.max_in_flight == 0 {
            "max_in_flight"
        } else if self.backoff_max < self.backoff {
            return Err("backoff_max must be at least backoff".into());
        } else if self.timeout.max(self.backoff_max) > LONGEST {
            // Longer ones are not to be reckoned with.
            return Err("timeout and backoff_max must be at most ten years".into());
        } else {
            return Ok(());
        };
        Err(format!("{too_small} must be more than zero"))
    }
}
