//! Which sessions: the conditions under which lists and bulk requests pick them.

use std::time::Duration;

use jiff::Timestamp;

use crate::session::{HolderId, Session, SessionKey};

/// Conditions on sessions. All that are set must hold; none set means every session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionFilter {
    /// Started under this key.
    pub key: Option<SessionKey>,
    /// Started under a key that begins like this.
    pub key_prefix: Option<String>,
    /// Served by this agent.
    pub agent_id: Option<String>,
    /// Held by this program.
    pub holder: Option<HolderId>,
    /// Not touched for this long. No session that has ended is idle.
    pub idle_for: Option<Duration>,
    /// Started this long ago, by the wall clock.
    pub older_than: Option<Duration>,
}

impl SessionFilter {
    /// Only sessions that started under this [`key`](Self::key).
    #[must_use]
    pub fn with_key(mut self, key: SessionKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Only sessions with a key that [begins so](Self::key_prefix).
    #[must_use]
    pub fn with_key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = Some(prefix.into());
        self
    }

    /// Only sessions of this [agent](Self::agent_id).
    #[must_use]
    pub fn with_agent_id(mut self, agent_id: impl Into<String>) -> Self {
        self.agent_id = Some(agent_id.into());
        self
    }

    /// Only sessions of this [holder](Self::holder).
    #[must_use]
    pub fn with_holder(mut self, holder: HolderId) -> Self {
        self.holder = Some(holder);
        self
    }

    /// Only sessions that were [not touched](Self::idle_for) for so long.
    #[must_use]
    pub fn with_idle_for(mut self, idle_for: Duration) -> Self {
        self.idle_for = Some(idle_for);
        self
    }

    /// Only sessions that [started](Self::older_than) so long ago.
    #[must_use]
    pub fn with_older_than(mut self, older_than: Duration) -> Self {
        self.older_than = Some(older_than);
        self
    }

    /// Whether no condition is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `session` meets the conditions at `now`, having been idle for `idle` if it is
    /// active.
    pub(crate) fn matches(
        &self,
        session: &Session,
        idle: Option<Duration>,
        now: Timestamp,
    ) -> bool {
        fn meets<T: ?Sized>(condition: Option<&T>, holds: impl FnOnce(&T) -> bool) -> bool {
            condition.is_none_or(holds)
        }
        let key = session.key.as_ref().map(SessionKey::as_str);
        meets(self.key.as_ref(), |wanted| key == Some(wanted.as_str()))
            && meets(self.key_prefix.as_deref(), |prefix| {
                key.is_some_and(|key| key.starts_with(prefix))
            })
            && meets(self.agent_id.as_deref(), |wanted| {
                session.agent_id.as_deref() == Some(wanted)
            })
            && meets(self.holder.as_ref(), |wanted| {
                session.holder.as_ref() == Some(wanted)
            })
            && meets(self.idle_for.as_ref(), |limit| {
                idle.is_some_and(|idle| idle >= *limit)
            })
            && meets(self.older_than.as_ref(), |limit| {
                let age = Duration::try_from(now.duration_since(session.started_at));
                age.is_ok_and(|age| age >= *limit)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Incarnation, NewSession, SessionId};

    #[test]
    fn all_conditions_that_are_set_must_hold() {
        let started_at: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let now: Timestamp = "2026-11-22T11:00:00Z".parse().unwrap();
        let mut new = NewSession::new(SessionId::new("A").unwrap());
        new.key = Some("agent:main:main".parse().unwrap());
        new.agent_id = Some("main".into());
        let session = Session::begin(new, Incarnation::generate(), None, started_at);
        let hour = Duration::from_secs(3600);
        let idle = Some(hour / 2);

        let holds = SessionFilter {
            key: Some("agent:main:main".parse().unwrap()),
            key_prefix: Some("agent:".into()),
            agent_id: Some("main".into()),
            holder: None,
            idle_for: Some(hour / 2),
            older_than: Some(hour),
        };
        assert!(holds.matches(&session, idle, now));
        assert!(
            !holds.matches(&session, None, now),
            "one that ended is not idle"
        );
        assert!(SessionFilter::default().matches(&session, None, now));

        let fails = |change: fn(&mut SessionFilter)| {
            let mut filter = holds.clone();
            change(&mut filter);
            assert!(!filter.matches(&session, idle, now), "{filter:?}");
        };
        fails(|filter| filter.key = Some("agent:main".parse().unwrap()));
        fails(|filter| filter.key_prefix = Some("main".into()));
        fails(|filter| filter.agent_id = Some("other".into()));
        fails(|filter| filter.holder = Some("run".parse().unwrap()));
        fails(|filter| filter.idle_for = Some(Duration::from_secs(1801)));
        fails(|filter| filter.older_than = Some(Duration::from_secs(3601)));
    }
}
