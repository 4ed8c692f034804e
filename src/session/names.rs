//! What sessions, and what has to do with them, are called.

use std::fmt;

use arcstr::ArcStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::InvalidField;

/// Longest id, key or holder, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 256;

fn check_name(field: &'static str, text: &str) -> Result<(), InvalidField> {
    let problem = if text.is_empty() {
        "must not be empty"
    } else if text.len() > MAX_NAME_BYTES {
        "must be at most 256 bytes long"
    } else if text.chars().any(char::is_control) {
        "must not contain control characters"
    } else if text == "." || text == ".." {
        "must not be `.` or `..`"
    } else {
        return Ok(());
    };
    Err(InvalidField::new(field, problem))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        ///
        /// 1 to [`MAX_NAME_BYTES`] bytes of UTF-8 without control characters, and neither `.` nor
        /// `..`. Cloning shares the text.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(ArcStr);

        impl $name {
            /// Checks `text` and takes it as a name.
            ///
            /// # Errors
            ///
            /// [`InvalidField`] when `text` is empty, too long, holds a control character, or is
            /// `.` or `..`.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidField> {
                let text = text.as_ref();
                check_name($field, text)?;
                // A pointer of one word: a session has several names, and may be one of a million.
                Ok(Self(ArcStr::from(text)))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidField;

            fn from_str(text: &str) -> Result<Self, InvalidField> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(|error| serde::de::Error::custom(error.problem))
            }
        }
    };
}

name_type!(
    /// What a program calls a session. An id may be used again after its end: that is a new
    /// [`Incarnation`].
    SessionId,
    "id"
);
name_type!(
    /// What a session is *for*, such as a conversation or a device. At most one active session has
    /// a given key; starting another under it ends the first with [`Replaced`](super::EndReason::Replaced).
    SessionKey,
    "key"
);
name_type!(
    /// Another program that holds sessions.
    HolderId,
    "holder"
);
name_type!(
    /// One process of a [holder](HolderId): a value that each of its processes chooses at random.
    RunId,
    "run_id"
);

impl SessionId {
    /// An id that nothing else has, for programs that have no name of their own for a session, such as
    /// one per connection.
    pub fn generate() -> Self {
        Self(ArcStr::from(Uuid::now_v7().to_string()))
    }
}

/// One life of a session id, from a start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(Uuid);

impl Incarnation {
    /// A new one, different from all others and ascending with time.
    pub(crate) fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// One that was made before.
    pub(crate) fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The incarnation as a UUID.
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::str::FromStr for Incarnation {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_when_empty_too_long_or_malformed() {
        for bad in ["", ".", "..", "a\nb", "a\u{0}", &"x".repeat(257)] {
            assert!(SessionId::new(bad).is_err(), "{bad:?} was accepted");
            assert!(SessionKey::new(bad).is_err(), "{bad:?} was accepted");
            assert!(HolderId::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "...", "agent:main:main", "ä b", &"x".repeat(256)] {
            assert_eq!(SessionId::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn generated_ids_are_names_like_any_and_all_different() {
        let (one, other) = (SessionId::generate(), SessionId::generate());
        assert_ne!(one, other);
        assert_eq!(SessionId::new(one.as_str()), Ok(one.clone()));
    }
}
