//! Many holders, half of which fall silent in the same moment.
//!
//! `HOLDERS` says how many (100), and `SESSIONS` how many sessions each has (20). The whole of it:
//!
//! ```sh
//! HOLDERS=1000 SESSIONS=100 cargo test --release --test process crowd -- --nocapture
//! ```

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{assert_within, ends};
use crate::gateway::{AUDITED, Gateway, agent, post};

/// The lease of each heartbeat, once it counts: the more there are, the longer a round of them takes
/// while thousands of sessions end.
fn ttl(holders: usize) -> Duration {
    Duration::from_secs(4) + Duration::from_millis(10) * u32::try_from(holders).unwrap()
}

/// How often those that live beat.
const BEAT_EVERY: Duration = Duration::from_millis(1300);

/// How many clients there are.
const CLIENTS: usize = 32;

/// How many times to try, with leases twice as long each time: a machine that is too slow for them can't
/// tell whose fault a lost session is.
const TRIES: u32 = 3;

/// How much longer than a lease it may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn number(name: &str, default: usize) -> usize {
    let number = std::env::var(name).ok();
    number.map_or(default, |number| number.parse().unwrap())
}

fn name(holder: usize) -> String {
    format!("holder-{holder}")
}

fn is_to_live(holder: usize) -> bool {
    holder.is_multiple_of(2)
}

/// Does `what` for each of the holders, by some clients side by side.
fn for_each(holders: usize, what: impl Fn(&ureq::Agent, usize) + Sync) {
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let what = &what;
            scope.spawn(move || {
                let agent = agent();
                let own = (client..holders).step_by(CLIENTS);
                own.for_each(|holder| what(&agent, holder));
            });
        }
    });
}

fn beat(url: &str, agent: &ureq::Agent, holder: usize, ttl: Duration) {
    let url = format!("{url}/v1/holders/{}/heartbeat", name(holder));
    let body = json!({"run_id": "1", "ttl_ms": ttl.as_millis() as u64});
    let answer = post(agent, &url, &body);
    assert_eq!(answer, Some((204, Value::Null)));
}

/// How many sessions are held, and by how many holders.
fn held(gateway: &Gateway) -> (usize, u64) {
    let (_, list) = gateway.get("/v1/holders");
    let holders = list["holders"].as_array().unwrap();
    let sessions = holders.iter().map(|it| it["sessions"].as_u64().unwrap());
    (holders.len(), sessions.sum())
}

#[test]
fn g11_of_many_holders_those_that_fall_silent_together_lose_their_sessions_and_no_others() {
    let (holders, sessions) = (number("HOLDERS", 100), number("SESSIONS", 20));
    let mut silences = Vec::new();
    for ttl in (0..TRIES).map(|doubled| ttl(holders) * 2_u32.pow(doubled)) {
        match half_falls_silent(holders, sessions, ttl) {
            Ok(()) => return,
            Err(silence) => silences.push(silence),
        }
    }
    panic!("too slow for its own heartbeats, each time: {silences:?}");
}

fn in_time(last: Instant, ttl: Duration) -> Result<(), Duration> {
    let silence = last.elapsed();
    if silence < ttl { Ok(()) } else { Err(silence) }
}

/// Lets every other holder fall silent, with leases of `ttl`. Fails with how long the others were silent,
/// if that was as long as a lease.
fn half_falls_silent(holders: usize, sessions: usize, ttl: Duration) -> Result<(), Duration> {
    let quick = format!("{AUDITED}[ledger]\ndurability = \"process\"\n");
    let gateway = Gateway::start_in(tempfile::tempdir().unwrap(), &quick);
    // The clients share nothing more of it.
    let url = gateway.url();
    for_each(holders, |agent, holder| {
        beat(url, agent, holder, Duration::from_secs(3600));
        for session in 0..sessions {
            let name = name(holder);
            let body = json!({"id": format!("{name}/{session}"), "holder": name});
            let answer = post(agent, &format!("{url}/v1/sessions"), &body);
            assert_eq!(answer.map(|(status, _)| status), Some(201));
        }
    });
    let all = (holders * sessions) as u64;
    assert_eq!(held(&gateway), (holders, all));

    let living: Vec<_> = (0..holders).filter(|holder| is_to_live(*holder)).collect();
    let expected = (living.len(), (living.len() * sessions) as u64);
    let began = Instant::now();
    for_each(holders, |agent, holder| beat(url, agent, holder, ttl));
    println!("every last heartbeat came within {:?}", began.elapsed());
    // When the oldest of their last heartbeats was, at the earliest.
    let mut last = began;
    while held(&gateway) != expected {
        let next = Instant::now() + BEAT_EVERY;
        for_each(living.len(), |agent, at| {
            beat(url, agent, living[at], ttl);
        });
        in_time(last, ttl)?;
        assert!(began.elapsed() < ttl + PATIENCE, "{:?}", held(&gateway));
        last = next - BEAT_EVERY;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!("the others were gone within {:?}", began.elapsed());
    gateway.settle();

    let ends = ends(&gateway.path("audit.jsonl"));
    in_time(last, ttl)?;
    assert_eq!(ends.len() as u64, all - expected.1);
    for (id, told) in &ends {
        let holder = told.holder.strip_prefix("holder-").unwrap();
        assert!(!is_to_live(holder.parse().unwrap()), "{id} {told:?}");
        assert_eq!(told.reason, "lost", "{id}");
        assert_within(ttl, told);
    }
    Ok(())
}
