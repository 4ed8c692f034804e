//! What clients were answered, held against what plugins were told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};

/// How the sessions are kept account of: a file with a line per event, and a database with a row.
pub(super) const PLUGINS: &str = r#"
[[plugin]]
name = "audit"
kind = "log"
path = "audit.jsonl"
backoff = "10ms"
backoff_max = "50ms"

[[plugin]]
name = "db"
kind = "sql"
url = "sqlite:app.db"
timeout = "200ms"
backoff = "10ms"
backoff_max = "50ms"
session_start = "INSERT INTO told VALUES (:event_id, 'session_start', :session_id, :incarnation, NULL)"
session_end = "INSERT INTO told VALUES (:event_id, 'session_end', :session_id, :incarnation, :reason)"
"#;

/// Rejects the end of `poison` always, and the start of `shy` until there is a row in `welcome`.
pub(super) const SCHEMA: &str = "
    CREATE TABLE told(event_id TEXT, type TEXT, session_id TEXT, incarnation TEXT, reason TEXT);
    CREATE TABLE welcome(session_id TEXT);
    CREATE TRIGGER poison BEFORE INSERT ON told
    WHEN NEW.session_id = 'poison' AND NEW.type = 'session_end'
    BEGIN SELECT RAISE(ABORT, 'poison'); END;
    CREATE TRIGGER shy BEFORE INSERT ON told
    WHEN NEW.session_id = 'shy' AND NOT EXISTS (SELECT 1 FROM welcome)
    BEGIN SELECT RAISE(ABORT, 'not welcome yet'); END;";

/// The sessions whose events `db` may reject until they are dead letters.
const MAY_DIE: [&str; 2] = ["poison", "shy"];

/// How a gateway refuses what comes once it stops.
const SHUTTING_DOWN: &str = "urn:session-supervisor:problem:shutting-down";

/// What may be sent to a gateway.
pub(super) enum Request<'a> {
    Start(&'a str, Value),
    End(&'a str),
    Touch(&'a str),
    /// All whose keys begin so.
    EndMany(&'a str),
}

impl Request<'_> {
    pub(super) fn path(&self) -> String {
        match self {
            Self::Start(..) => "/v1/sessions".into(),
            Self::End(id) => format!("/v1/sessions/{id}/end"),
            Self::Touch(id) => format!("/v1/sessions/{id}/touch"),
            Self::EndMany(_) => "/v1/bulk-end".into(),
        }
    }

    pub(super) fn body(&self) -> Value {
        match self {
            Self::Start(id, details) => {
                let mut body = json!({ "id": id });
                if let Value::Object(details) = details {
                    body.as_object_mut().unwrap().extend(details.clone());
                }
                body
            }
            Self::End(_) => json!({"reason": "completed"}),
            Self::Touch(_) => json!({}),
            Self::EndMany(prefix) => json!({ "key_prefix": prefix }),
        }
    }
}

/// One incarnation that was promised to a client.
#[derive(Debug, Clone)]
struct Promised {
    id: String,
    /// The reasons for which it may end; none as long as it is active.
    reasons: Vec<String>,
}

/// What clients know of their sessions.
#[derive(Debug, Clone, Default)]
pub(super) struct Books {
    promised: BTreeMap<String, Promised>,
    /// The incarnation that each id has, as far as is known.
    active: BTreeMap<String, String>,
    /// Ids whose start was not answered: it may be recorded or not.
    unsure: BTreeSet<String>,
    /// Ids whose end was asked for and not answered.
    unsure_ends: BTreeSet<String>,
    /// Why sessions may end, beside what their client asks for.
    others: &'static [&'static str],
}

impl Books {
    /// Books of sessions that may also end for one of these reasons without their client hearing of
    /// it: because they expire, or are ended together with others.
    pub(super) fn with_other_ends(reasons: &'static [&'static str]) -> Self {
        Self {
            others: reasons,
            ..Self::default()
        }
    }

    /// Notes what came of `request`; no answer is none. Answers whether the gateway takes more: not
    /// if it did not answer, or stops.
    pub(super) fn note(&mut self, request: &Request<'_>, answer: Option<&(u16, Value)>) -> bool {
        match (request, answer) {
            (Request::Start(id, _), Some((200 | 201, answer))) => {
                if let Some(replaced) = answer["replaced"].as_str() {
                    self.end(replaced, "replaced");
                }
                let incarnation = answer["incarnation"].as_str().unwrap().to_owned();
                let before = self.active.insert((*id).to_owned(), incarnation.clone());
                if let Some(before) = before.filter(|before| *before != incarnation) {
                    self.end_by_others(&before);
                }
                let promised = Promised {
                    id: (*id).to_owned(),
                    reasons: Vec::new(),
                };
                self.promised.entry(incarnation).or_insert(promised);
            }
            (Request::End(id), Some((200, answer))) => {
                self.end(id, answer["reason"].as_str().unwrap());
            }
            (Request::Start(id, _), None) => {
                self.unsure.insert((*id).to_owned());
            }
            (Request::End(id), None) => {
                self.unsure_ends.insert((*id).to_owned());
            }
            (Request::Start(..), Some((429, _))) => {}
            // What is not active can't end.
            (Request::End(_) | Request::Touch(_), Some((404, _))) => {}
            (Request::Touch(_), Some((204, _))) | (Request::EndMany(_), Some((200, _))) => {}
            (Request::Touch(_) | Request::EndMany(_), None) => {}
            (request, Some((503, problem))) if problem["type"] == SHUTTING_DOWN => {
                if let Request::End(id) = request {
                    self.unsure_ends.insert((*id).to_owned());
                }
                return false;
            }
            (_, Some(refused)) => panic!("{refused:?}"),
        }
        answer.is_some()
    }

    /// The incarnation has ended, and for all that is known by itself.
    fn end_by_others(&mut self, incarnation: &str) {
        if let Some(promised) = self.promised.get_mut(incarnation) {
            promised.reasons = self.others.iter().copied().map(Into::into).collect();
        }
    }

    fn end(&mut self, id: &str, reason: &str) {
        let promised = self.active.remove(id);
        let promised = promised.and_then(|incarnation| self.promised.get_mut(&incarnation));
        if let Some(promised) = promised {
            promised.reasons = vec![reason.to_owned()];
        }
    }

    /// The process is gone: what is active ends for `reason`, unless an end, or a start that takes
    /// a key, was under way.
    pub(super) fn gone(&mut self, reason: &str) {
        for promised in self.promised.values_mut() {
            if !promised.reasons.is_empty() {
                continue;
            }
            promised.reasons.push(reason.to_owned());
            promised
                .reasons
                .extend(self.others.iter().copied().map(Into::into));
            if self.unsure_ends.contains(&promised.id) {
                promised.reasons.push("completed".into());
            }
            if !self.unsure.is_empty() {
                promised.reasons.push("replaced".into());
            }
        }
        self.active.clear();
        self.unsure_ends.clear();
    }

    /// Those of several clients who shared no id.
    pub(super) fn all(books: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::default();
        for books in books {
            all.promised.extend(books.promised);
            all.unsure.extend(books.unsure);
        }
        all
    }

    /// How many incarnations were promised.
    pub(super) fn len(&self) -> usize {
        self.promised.len()
    }

    /// Asserts that `told` is what was promised, in order and under one id per event, but for the
    /// events that are `dead`. Answers how many events came more than once.
    pub(super) fn check(&self, plugin: &str, told: &[Told], dead: &[Dead]) -> usize {
        let mut lives: BTreeMap<&str, Life<'_>> = BTreeMap::new();
        for event in told {
            let life = lives.entry(&event.incarnation).or_default();
            life.id = &event.id;
            if event.is_end {
                let in_order = !life.starts.is_empty();
                assert!(in_order, "{plugin}: end before its start: {event:?}");
                life.ends.insert(&event.event_id);
                life.reasons.insert(event.reason.as_str());
            } else {
                life.starts.insert(&event.event_id);
            }
        }
        for dead in dead {
            assert!(MAY_DIE.contains(&dead.id.as_str()), "{plugin}: {dead:?}");
        }
        let is_dead = |incarnation: &str, is_end: bool| {
            dead.iter()
                .any(|dead| dead.incarnation == incarnation && dead.is_end == is_end)
        };
        for (incarnation, promised) in &self.promised {
            let life = lives.remove(incarnation.as_str()).unwrap_or_default();
            let starts = usize::from(!is_dead(incarnation, false));
            let ends = usize::from(!is_dead(incarnation, true));
            let counts = (life.starts.len(), life.ends.len());
            assert_eq!(counts, (starts, ends), "{plugin}: {promised:?}: {life:?}");
            let right = |reason: &&str| promised.reasons.iter().any(|right| right == reason);
            let reasons = &life.reasons;
            assert!(
                reasons.iter().all(right),
                "{plugin}: {promised:?}: {life:?}"
            );
        }
        // What is left was not answered. Then it may be told, but with its end.
        for (incarnation, life) in lives {
            assert!(self.unsure.contains(life.id), "{plugin}: unasked {life:?}");
            let starts = usize::from(!is_dead(incarnation, false));
            let ends = usize::from(!is_dead(incarnation, true));
            let counts = (life.starts.len(), life.ends.len());
            assert_eq!(counts, (starts, ends), "{plugin}: unsure {life:?}");
        }
        let distinct: BTreeSet<_> = told.iter().map(|event| &event.event_id).collect();
        told.len() - distinct.len()
    }
}

/// What a plugin was told of one incarnation.
#[derive(Debug, Default)]
struct Life<'a> {
    id: &'a str,
    starts: BTreeSet<&'a str>,
    ends: BTreeSet<&'a str>,
    reasons: BTreeSet<&'a str>,
}

/// An event as a plugin was told of it.
#[derive(Debug)]
pub(super) struct Told {
    event_id: String,
    is_end: bool,
    id: String,
    incarnation: String,
    reason: String,
}

impl Told {
    /// How many sessions ended for which reason.
    pub(super) fn ends_by_reason(told: &[Self]) -> BTreeMap<String, usize> {
        let ends: BTreeMap<_, _> = told
            .iter()
            .filter(|event| event.is_end)
            .map(|event| (&event.event_id, &event.reason))
            .collect();
        let mut reasons = BTreeMap::new();
        for reason in ends.into_values() {
            *reasons.entry(reason.clone()).or_default() += 1;
        }
        reasons
    }
}

/// What the log at `path` has. Lines that were torn in the middle are none.
pub(super) fn told_in_log(path: &Path) -> Vec<Told> {
    let text = std::fs::read(path).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n');
    let events = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told = |event: Value| Told {
        event_id: text(&event["event_id"]),
        is_end: event["type"] == "session_end",
        id: text(&event["session"]["id"]),
        incarnation: text(&event["session"]["incarnation"]),
        reason: text(&event["reason"]),
    };
    events.map(told).collect()
}

/// What the database has.
pub(super) fn told_in_database(folder: &Path) -> Vec<Told> {
    let database = Connection::open(folder.join("app.db")).unwrap();
    let mut rows = database
        .prepare(
            "SELECT event_id, type = 'session_end', session_id, incarnation, coalesce(reason, '')
             FROM told ORDER BY rowid",
        )
        .unwrap();
    let told = rows.query_map([], |row| {
        Ok(Told {
            event_id: row.get(0)?,
            is_end: row.get(1)?,
            id: row.get(2)?,
            incarnation: row.get(3)?,
            reason: row.get(4)?,
        })
    });
    told.unwrap().map(Result::unwrap).collect()
}

/// A dead letter.
#[derive(Debug)]
pub(super) struct Dead {
    id: String,
    incarnation: String,
    is_end: bool,
}

/// What a ledger whose process has stopped says of itself.
#[derive(Debug)]
pub(super) struct Left {
    /// Sessions that have not ended.
    pub(super) open: u64,
    /// Why the last run was about to stop.
    pub(super) intent: Option<String>,
    /// Dead letters of `db`.
    pub(super) dead: Vec<Dead>,
}

/// Looks at a copy of the ledger in `folder`, so that the ledger stays what it is.
pub(super) fn look_at_ledger(folder: &Path) -> Option<Left> {
    let copy = tempfile::tempdir().unwrap();
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-journal"] {
        let from = folder.join("state").join(name);
        if from.exists() {
            std::fs::copy(from, copy.path().join(name)).unwrap();
        }
    }
    let ledger = Connection::open(copy.path().join("ledger.db")).unwrap();
    // It may have been killed before there were tables.
    let open = ledger.query_row("SELECT count(*) FROM open", [], |row| row.get(0));
    let intent = "SELECT reason FROM instances ORDER BY number DESC LIMIT 1";
    let intent = ledger.query_row(intent, [], |row| row.get(0));
    let (open, intent) = (open.ok()?, intent.unwrap_or(None));
    let mut rows = ledger
        .prepare(
            "SELECT starts.id, lower(hex(starts.incarnation)), parked.seq <> starts.seq
             FROM parked JOIN plugins ON number = plugin AND name = 'db'
                 LEFT JOIN ends ON ends.seq = parked.seq
                 JOIN starts ON starts.seq IN (parked.seq, ends.start_seq)
             WHERE dead",
        )
        .unwrap();
    let dead = rows.query_map([], |row| {
        let incarnation: String = row.get(1)?;
        Ok(Dead {
            id: row.get(0)?,
            incarnation: hyphenated(&incarnation),
            is_end: row.get(2)?,
        })
    });
    let dead = dead.unwrap().map(Result::unwrap).collect();
    Some(Left { open, intent, dead })
}

/// A UUID as it is written.
fn hyphenated(hex: &str) -> String {
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}
