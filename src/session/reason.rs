//! The reasons why sessions end.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::InvalidField;

macro_rules! end_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, resumable: $resumable:literal;)*) => {
        /// Why a session ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum EndReason {
            $($(#[$doc])* $variant,)*
        }

        impl EndReason {
            /// Every reason, in the order of the documentation's table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The reason's name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether the conversation may go on in a later session: the hint that tells a
            /// consumer not to throw away what it keeps for the session.
            pub const fn resumable(self) -> bool {
                match self { $(Self::$variant => $resumable,)* }
            }
        }
    };
}

end_reasons! {
    /// Ended normally by its owner.
    Completed = "completed", resumable: false;
    /// Its connection went away.
    Disconnected = "disconnected", resumable: true;
    /// Its handler failed or panicked.
    Failed = "failed", resumable: true;
    /// An explicit new session took its place.
    New = "new", resumable: false;
    /// Explicit reset.
    Reset = "reset", resumable: false;
    /// Another session started under the same key.
    Replaced = "replaced", resumable: false;
    /// No activity for the configured time.
    Idle = "idle", resumable: true;
    /// Older than the configured age.
    Expired = "expired", resumable: false;
    /// The owner's daily rollover.
    Daily = "daily", resumable: false;
    /// The conversation moved to a successor id.
    Compaction = "compaction", resumable: false;
    /// Deleted.
    Deleted = "deleted", resumable: false;
    /// Closed by an operator.
    Closed = "closed", resumable: false;
    /// Graceful close of the process that held it.
    Shutdown = "shutdown", resumable: true;
    /// Planned restart of the process that held it.
    Restart = "restart", resumable: true;
    /// The process that held it died without ending it.
    Crash = "crash", resumable: true;
    /// Its holder, or instance, lost its lease.
    Lost = "lost", resumable: true;
    /// None given.
    Unknown = "unknown", resumable: false;
}

impl EndReason {
    /// Whether only the supervisor may find this reason: a caller that gives it is refused.
    pub const fn is_reserved(self) -> bool {
        matches!(self, Self::Crash | Self::Lost)
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for EndReason {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        let found = Self::ALL.iter().find(|reason| reason.as_str() == text);
        found.copied().ok_or_else(|| {
            // Not those that nobody may give, which only a record can have.
            let given = Self::ALL.iter().filter(|reason| !reason.is_reserved());
            let names: Vec<_> = given.map(|reason| reason.as_str()).collect();
            InvalidField::new("reason", format!("must be one of {}", names.join(", ")))
        })
    }
}

impl Serialize for EndReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EndReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error: InvalidField| serde::de::Error::custom(error.problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_parses_back_from_its_name() {
        for &reason in EndReason::ALL {
            assert_eq!(reason.as_str().parse::<EndReason>().unwrap(), reason);
        }
        assert_eq!(EndReason::ALL.len(), 17);
        assert!("crashed".parse::<EndReason>().is_err());
    }

    #[test]
    fn sessions_that_may_go_on_are_marked_resumable() {
        let resumable: Vec<_> = EndReason::ALL
            .iter()
            .filter(|reason| reason.resumable())
            .map(|reason| reason.as_str())
            .collect();
        let expected = [
            "disconnected",
            "failed",
            "idle",
            "shutdown",
            "restart",
            "crash",
            "lost",
        ];
        assert_eq!(resumable, expected);
    }
}
