//! How many requests are being answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The requests that are being answered, on all threads.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    under_way: AtomicUsize,
    /// The last one that was under way is over.
    is_over: Notify,
}

/// One of them. It is over when this is dropped.
#[derive(Debug)]
#[must_use = "it is over when this is dropped"]
pub(super) struct Answering(Answers);

impl Answers {
    /// One more is being answered.
    pub(super) fn begin(&self) -> Answering {
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        Answering(self.clone())
    }

    /// Completes when none is.
    pub(super) async fn over(&self) {
        loop {
            // Told of what is over from here on, so before the look.
            let is_over = self.0.is_over.notified();
            if self.0.under_way.load(Ordering::Acquire) == 0 {
                return;
            }
            is_over.await;
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let Answers(count) = &self.0;
        if count.under_way.fetch_sub(1, Ordering::Release) == 1 {
            count.is_over.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn they_are_over_when_the_last_one_is() {
        let answers = Answers::default();
        let is_over = async || {
            let limit = std::time::Duration::from_secs(1);
            tokio::time::timeout(limit, answers.over()).await.is_ok()
        };
        assert!(is_over().await);
        let (first, second) = (answers.begin(), answers.begin());
        drop(first);
        assert!(!is_over().await);
        drop(second);
        assert!(is_over().await);
    }
}
