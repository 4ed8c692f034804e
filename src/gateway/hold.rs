//! A stream that is a lease.
//!
//! The body of the answer has the [`Hold`], so that whatever ends the connection ends the lease: the
//! client, the network, or the gateway itself.

use std::time::Duration;

use actix_web::web::Bytes;
use tokio::time::timeout;

use super::connection::Peer;
use super::ends::EndsOfHolder;
use super::stream::{Source, encode_event, encode_gap};
use crate::monitor::Watched;
use crate::supervisor::Hold;

/// After how long a silent stream says that it is still there. A machine that has vanished is noticed
/// when it has answered no comment for a while ([`Peer::watch`]), which is looked at with each: after
/// three of them.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// How long nothing must come before a stream that is to close has told all.
const LAST_SILENCE: Duration = Duration::from_millis(50);

/// What a holder's stream is made of.
#[derive(Debug)]
pub(super) struct Lease {
    hold: Hold,
    ends: EndsOfHolder,
    peer: Peer,
}

impl Lease {
    /// The lease of `peer`, which is watched as long as it is one.
    pub(super) fn new(hold: Hold, ends: EndsOfHolder, peer: Peer) -> Self {
        peer.watch(hold.until());
        Self { hold, ends, peer }
    }
}

impl Source for Lease {
    async fn next(&mut self) -> Option<Bytes> {
        let watched = tokio::select! {
            biased;
            () = self.peer.gone() => None,
            // What has ended by then is told before it closes.
            () = self.hold.replaced() => timeout(LAST_SILENCE, self.ends.next()).await.ok().flatten(),
            watched = self.ends.next() => watched,
        };
        match watched? {
            Watched::Event(event) => Some(encode_event("ended", None, &event)),
            Watched::Gap { after, next } => Some(encode_gap(after, next)),
            // Ends and gaps are all that a holder is told.
            Watched::Delivery(_) | Watched::Drain(_) | Watched::Missed(_) => None,
        }
    }
}
