//! Whether the other end of a connection still answers.
//!
//! A client that does not read is not one that has vanished: its system answers for it. What tells them
//! apart is whether anything that was sent waits for an answer, and since when. (`TCP_USER_TIMEOUT`
//! does not: it also ends connections of clients that answer and have no room.)

use std::io;
use std::time::Duration;

use actix_rt::net::TcpStream;
use tokio::time::Instant;

/// How long what was sent may wait for an answer. Long enough for data that has to be sent again once
/// or twice; where the client has no room, one question that gets lost is enough.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What the system knows of the other end's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answers {
    /// Whether something that was sent waits for one: data, or the question whether there is room.
    are_awaited: bool,
    /// How long ago the last one came.
    last: Duration,
}

/// For how long the other end has not answered.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Silence {
    /// Since when an answer is waited for.
    since: Option<Instant>,
}

impl Silence {
    /// Something was sent.
    pub(super) fn sent(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Whether, by what is known of its answers now, the other end is gone.
    pub(super) fn is_gone(&mut self, answers: Answers, now: Instant) -> bool {
        if !answers.are_awaited {
            self.since = None;
            return false;
        }
        let since = self.since.get_or_insert(now);
        if let Some(last) = now.checked_sub(answers.last) {
            *since = last.max(*since);
        }
        now.duration_since(*since) >= ANSWER_TIMEOUT
    }
}

/// What the system knows of a connection's other end; none where it does not say.
#[cfg(target_os = "linux")]
pub(super) fn answers(stream: &TcpStream) -> io::Result<Option<Answers>> {
    use std::mem::{MaybeUninit, size_of};
    use std::os::fd::AsRawFd as _;

    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    let (name, value) = (libc::TCP_INFO, info.as_mut_ptr().cast());
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open, `info` has room for `length` bytes, and any bytes are a
    // `tcp_info`, zeroes too.
    let info = unsafe {
        let fd = stream.as_raw_fd();
        if libc::getsockopt(fd, libc::IPPROTO_TCP, name, value, &raw mut length) != 0 {
            return Err(io::Error::last_os_error());
        }
        info.assume_init()
    };
    Ok(Some(Answers {
        are_awaited: info.tcpi_unacked > 0 || info.tcpi_probes > 0,
        last: Duration::from_millis(info.tcpi_last_ack_recv.into()),
    }))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn answers(_: &TcpStream) -> io::Result<Option<Answers>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Whether it counts as gone at each of these seconds, from whether an answer is awaited then, and
    /// how long ago the last one came. After each look something `is_sent`, or there is no room for it.
    #[track_caller]
    fn assert_gone(is_sent: bool, looks: &[(u64, bool, u64, bool)]) {
        let (mut silence, began) = (Silence::default(), Instant::now());
        for &(at, are_awaited, last, is_gone) in looks {
            let answers = Answers {
                are_awaited,
                last: seconds(last),
            };
            let now = began + seconds(at);
            assert_eq!(silence.is_gone(answers, now), is_gone, "after {at} s");
            if is_sent {
                silence.sent(now);
            }
        }
    }

    #[test]
    fn one_that_answers_whatever_is_sent_is_there() {
        let looks = [0, 2, 4, 6, 8].map(|at| (at, false, 2, false));
        assert_gone(true, &looks);
        // More is sent all the time, so something is always on its way.
        let looks = [0, 2, 4, 6, 8].map(|at| (at, true, 0, false));
        assert_gone(true, &looks);
    }

    #[test]
    fn one_that_answers_nothing_is_gone_three_seconds_after_it_was_sent_something() {
        let looks = [
            (0, false, 2, false),
            (2, true, 4, false),
            (3, true, 5, true),
        ];
        assert_gone(true, &looks);
        // What counts is the last answer, if that is later.
        let looks = [
            (0, false, 2, false),
            (4, true, 2, false),
            (5, true, 3, true),
        ];
        assert_gone(true, &looks);
    }

    #[test]
    fn one_that_has_no_room_and_says_so_when_asked_is_there() {
        // Asked less and less often, and seen once while the answer was on its way.
        let looks = [
            (0, true, 0, false),
            (1, false, 0, false),
            (10, true, 9, false),
            (11, false, 1, false),
            (60, false, 50, false),
        ];
        assert_gone(false, &looks);
        // Asked, and the answer does not come.
        let looks = [
            (10, false, 9, false),
            (11, true, 10, false),
            (14, true, 13, true),
        ];
        assert_gone(false, &looks);
    }
}
