//! How many requests are being answered.

use std::sync::Arc;

use tokio::sync::watch;

/// The requests that are being answered, on all threads.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers(Arc<watch::Sender<usize>>);

/// One of them. It is over when this is dropped.
#[derive(Debug)]
#[must_use = "it is over when this is dropped"]
pub(super) struct Answering(Answers);

impl Answers {
    /// One more is being answered.
    pub(super) fn begin(&self) -> Answering {
        self.0.send_modify(|count| *count += 1);
        Answering(self.clone())
    }

    /// Completes when none is.
    pub(super) async fn over(&self) {
        // Its sender is here, so this does not fail.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
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
