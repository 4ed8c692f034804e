//! How long to wait for a ledger: as long as it gets on.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Ledger, LedgerError, LedgerFuture};

/// What `ledger` answers, unless it completes nothing for as long as `patience`: one that is busy with
/// what others asked for before gets to it. Gives up at most a quarter of `patience` later than that.
///
/// # Errors
///
/// What the ledger answers, or that it is late. What was asked for may still be done then.
pub(crate) async fn answer_within<T>(
    ledger: &dyn Ledger,
    patience: Duration,
    answer: LedgerFuture<T>,
) -> Result<T, LedgerError> {
    wait(|| ledger.commits(), patience, answer).await
}

async fn wait<T>(
    commits: impl Fn() -> u64,
    patience: Duration,
    mut answer: LedgerFuture<T>,
) -> Result<T, LedgerError> {
    let (mut seen, mut since) = (commits(), Instant::now());
    loop {
        if let Ok(answer) = timeout(patience / 4, &mut answer).await {
            return answer;
        }
        let now = commits();
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() >= patience {
            return Err(LedgerError::late());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    /// Waits for an answer that comes after `takes`, of a ledger that has a commit every 150 ms until
    /// `works` is over. Whether it came, and how long that took.
    async fn wait_for(takes: Duration, works: Duration) -> (bool, Duration) {
        let began = Instant::now();
        let commits = || (began.elapsed().min(works).as_millis() / 150) as u64;
        let answer = tokio::time::sleep(takes).map(Ok).boxed();
        let answered = wait(commits, PATIENCE, answer).await.is_ok();
        (answered, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_ledger_that_goes_on_committing_is_waited_for() {
        let (answered, _) = wait_for(Duration::from_secs(5), Duration::from_secs(5)).await;
        assert!(answered);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ledger_that_commits_nothing_is_late_when_the_patience_is_over() {
        let (answered, took) = wait_for(Duration::from_secs(5), Duration::ZERO).await;
        assert!(!answered);
        assert!(took >= PATIENCE && took < PATIENCE * 5 / 4, "{took:?}");

        let works = Duration::from_millis(1500);
        let (answered, took) = wait_for(Duration::from_secs(5), works).await;
        assert!(!answered);
        assert!(took >= works + PATIENCE, "{took:?}");
        assert!(took <= works + PATIENCE * 3 / 2, "{took:?}");
    }
}
