//! A stream that is a lease.
//!
//! The body of the answer has the [`Hold`], so that whatever ends the connection ends the lease: the
//! client, the network, or the gateway itself.

use std::time::Duration;

use actix_web::web::Bytes;
use tokio::time::timeout;

use super::connection::Peer;
use super::ends::{EndsOfHolder, Told};
use super::stream::{Source, encode_event, encode_gap};
use crate::supervisor::Hold;

/// After how long a silent stream says that it is still there. A machine that has vanished is noticed
/// when it has answered no comment for a while ([`Peer::watch`]), which is looked at with each: after
/// three of them.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// How long a stream that is a lease no longer waits for the next of what has ended by then, on a
/// machine that is busy. What is there is told, however late the client reads it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a holder's stream is made of.
#[derive(Debug)]
pub(super) struct Lease {
    hold: Hold,
    ends: EndsOfHolder,
    peer: Peer,
    /// It is a lease no longer.
    is_over: bool,
}

impl Lease {
    /// The lease of `peer`, which is watched as long as it is one.
    pub(super) fn new(hold: Hold, ends: EndsOfHolder, peer: Peer) -> Self {
        peer.watch(hold.until());
        Self {
            hold,
            ends,
            peer,
            is_over: false,
        }
    }

    /// What comes next; none at the end.
    async fn told(&mut self) -> Option<Told> {
        if !self.is_over {
            tokio::select! {
                biased;
                () = self.hold.replaced() => {}
                told = self.ends.next() => return told,
            }
            self.ends.end_here();
            self.is_over = true;
        }
        timeout(LAST_WORDS, self.ends.next()).await.ok().flatten()
    }
}

impl Source for Lease {
    async fn next(&mut self) -> Option<Bytes> {
        let peer = self.peer.clone();
        let told = tokio::select! {
            biased;
            () = peer.gone() => None,
            told = self.told() => told,
        };
        Some(match told? {
            Told::End(event) => encode_event("ended", None, &event),
            Told::Gap { after, next } => encode_gap(after, next),
        })
    }
}
