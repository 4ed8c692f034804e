//! The drain in numbers: of all plugins together, and of each.

use serde::{Deserialize, Serialize};

use super::millis;
use crate::bus::{LaneTally, MAX_UNFINISHED, PluginState, RecordedEnds, ToldUnrecorded};
use crate::event::OpenSession;
use crate::monitor::DrainStanding;
use crate::session::SessionId;

/// The session-end drain. Counts are pairs of a session that this stop ended and a plugin that
/// hears of ends: sessions × plugins = delivered + owed + dead + lost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct DrainReport {
    /// How long it took.
    pub duration_ms: u64,
    /// Whether a delivery was still running at the cut.
    pub timed_out: bool,
    /// How many sessions this stop ended.
    pub sessions: u64,
    /// Acknowledged.
    pub delivered: u64,
    /// Not acknowledged, and delivered at the next start.
    pub owed: u64,
    /// The part of what was not acknowledged that was tried in this stop.
    pub failed: u64,
    /// Rejected for good.
    pub dead: u64,
    /// Not acknowledged, and not recorded where a next start would find it.
    pub lost: u64,
    /// Events from before this stop that were not acknowledged either.
    pub owed_before: u64,
}

/// A plugin's part of the drain. The counts are those of [`DrainReport`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct PluginReport {
    /// The plugin's name.
    pub name: String,
    /// How it was at the end.
    pub state: PluginState,
    /// Acknowledged.
    pub delivered: u64,
    /// Not acknowledged, and delivered at the next start.
    pub owed: u64,
    /// The part of what was not acknowledged that was tried in this stop.
    pub failed: u64,
    /// Rejected for good.
    pub dead: u64,
    /// Not acknowledged, and not recorded where a next start would find it.
    pub lost: u64,
    /// Events from before this stop that were not acknowledged either.
    pub owed_before: u64,
    /// Whether a delivery was still running at the cut.
    pub timed_out: bool,
    /// How long the plugin took for its part.
    pub duration_ms: u64,
    /// Why its last failed delivery failed.
    pub last_error: Option<String>,
    /// How many of its threads were left behind, since they hang in code of the plugin.
    #[serde(default)]
    pub hung_threads: u64,
    /// The ids of sessions whose end it was not told, at most 1,000.
    pub unfinished: Vec<SessionId>,
}

impl PluginReport {
    /// The part of a plugin whose lane has not answered: nothing is known to be delivered.
    pub(in crate::shutdown) fn unanswered(name: &str, sessions: &[OpenSession]) -> Self {
        let unfinished = sessions.iter().take(MAX_UNFINISHED);
        Self {
            name: name.into(),
            state: PluginState::Retrying,
            owed: sessions.len() as u64,
            timed_out: true,
            last_error: Some("its lane did not answer".into()),
            unfinished: unfinished.map(|open| open.session.id.clone()).collect(),
            ..Self::default()
        }
    }

    /// Makes of an unanswered part what the plugin's lane has told while the drain goes on: its
    /// counts, and which of the sessions that are named here are still unfinished.
    pub(super) fn stand(&mut self, standing: &DrainStanding) {
        let ends = standing.delivered + standing.owed + standing.dead + standing.lost;
        let known = usize::try_from(ends).unwrap_or(usize::MAX);
        let named = std::mem::take(&mut self.unfinished);
        let unrecorded = named.get(known..).unwrap_or_default();
        let owed = standing.unfinished.iter().filter_map(|&at| named.get(at));
        self.unfinished = owed.chain(unrecorded).cloned().collect();
        // Owed or, where nothing outlives the process, lost so far.
        let rest = (self.owed + self.lost).saturating_sub(ends);
        (self.delivered, self.dead) = (standing.delivered, standing.dead);
        (self.owed, self.lost) = (standing.owed + rest, standing.lost);
        if self.owed == 0 {
            self.timed_out = false;
            self.state = PluginState::Healthy;
            self.last_error = None;
        }
    }

    /// Counts the ends that the ledger did not record. Those that the plugin was not `told` all the
    /// same count as lost, though a ledger that works again at the next start ends these sessions
    /// then.
    pub(in crate::shutdown) fn add_unrecorded(
        &mut self,
        sessions: &[OpenSession],
        told: Option<&ToldUnrecorded>,
    ) {
        if sessions.is_empty() {
            return;
        }
        let taken = told.map_or(0, |told| told.told);
        self.delivered += taken;
        self.lost += (sessions.len() as u64).saturating_sub(taken);
        let untold: Vec<&OpenSession> = match told {
            Some(told) => told
                .untold
                .iter()
                .filter_map(|&at| sessions.get(at))
                .collect(),
            None => sessions.iter().take(MAX_UNFINISHED).collect(),
        };
        let room = MAX_UNFINISHED.saturating_sub(self.unfinished.len());
        let named = untold.into_iter().take(room);
        self.unfinished
            .extend(named.map(|open| open.session.id.clone()));
        if let Some(error) = told.and_then(|told| told.last_error.as_deref()) {
            self.last_error = Some(error.into());
        }
        let error = || "the ledger did not record the ends".into();
        self.last_error.get_or_insert_with(error);
    }

    pub(in crate::shutdown) fn from_tally(
        name: &str,
        tally: &LaneTally,
        sessions: &[OpenSession],
        ends: Option<RecordedEnds>,
    ) -> Self {
        let first = ends.map_or(0, |ends| ends.first);
        let unfinished = tally.unfinished.iter().filter_map(|seq| {
            let index = usize::try_from(seq - first).ok()?;
            Some(sessions.get(index)?.session.id.clone())
        });
        Self {
            name: name.into(),
            state: tally.state,
            delivered: tally.delivered,
            owed: tally.owed,
            failed: tally.failed,
            dead: tally.dead,
            lost: tally.lost,
            owed_before: tally.owed_before,
            timed_out: tally.timed_out,
            duration_ms: millis(tally.duration),
            last_error: tally.last_error.as_deref().map(Into::into),
            hung_threads: tally.hung_threads,
            unfinished: unfinished.collect(),
        }
    }
}
