//! What the tests share beside the test kit: virtual time, and words for what they do all the time.

use session_supervisor::testing::Harness;
use session_supervisor::{
    Builder, EndReason, Ended, EndedSession, NewSession, SessionId, SessionKey, SessionSupervisor,
    Threads, Touch,
};

/// Runs a test with a clock that stands still unless everyone waits.
pub(crate) fn in_virtual_time(test: impl AsyncFnOnce(&Harness)) {
    Harness::run(async |harness| {
        tokio::time::pause();
        test(harness).await;
    });
}

/// A supervisor on the test's own arbiter.
pub(crate) fn builder() -> Builder {
    SessionSupervisor::builder().threads(Threads::Current)
}

pub(crate) fn id(text: &str) -> SessionId {
    SessionId::new(text).expect("a valid id")
}

pub(crate) fn session(text: &str) -> NewSession {
    NewSession::new(id(text))
}

pub(crate) fn session_with_key(text: &str, key: &str) -> NewSession {
    session(text).with_key(SessionKey::new(key).expect("a valid key"))
}

/// What tests do all the time.
pub(crate) trait Shorthand {
    async fn begin(&self, id: &str);
    async fn finish(&self, id: &str, reason: EndReason) -> EndedSession;
    async fn active_ids(&self) -> Vec<String>;
    async fn touch_id(&self, id: &str) -> bool;
}

impl Shorthand for SessionSupervisor {
    async fn begin(&self, text: &str) {
        self.started(session(text)).await.expect("it starts");
    }

    async fn finish(&self, text: &str, reason: EndReason) -> EndedSession {
        let ended = self.ended(Ended::new(id(text), reason)).await;
        ended.expect("ending does not fail")
    }

    async fn active_ids(&self) -> Vec<String> {
        let sessions = self.snapshot().await.expect("the registry runs");
        let mut ids: Vec<_> = sessions
            .iter()
            .map(|session| session.id.to_string())
            .collect();
        ids.sort();
        ids
    }

    async fn touch_id(&self, text: &str) -> bool {
        self.touch(Touch::new(id(text))).await.is_ok()
    }
}
