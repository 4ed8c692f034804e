//! Supervisors on the test's own thread, whose actors must not outlive them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::prelude::*;
use tokio::time::{Instant, sleep};

use crate::event::Deliver;
use crate::shutdown::Shutdown;
use crate::supervisor::{Builder, SessionSupervisor, Threads};

/// How long anything may take by the runtime's clock, which may be virtual.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// How long anything may take in real time. A busy machine may be a hundred times as slow as usual.
const REAL_PATIENCE: Duration = Duration::from_secs(300);

/// How often those limits are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long actors may take to notice that nobody has their address any more.
const GRACE: Duration = Duration::from_secs(10);

/// Waits for `work`, so that a test that would wait for ever fails.
///
/// # Panics
///
/// When it takes more than a day by the runtime's clock, which may stand still, or more than 5 minutes
/// of real time.
pub async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let (began, really_began) = (Instant::now(), std::time::Instant::now());
    let limit = async {
        while began.elapsed() < PATIENCE && really_began.elapsed() < REAL_PATIENCE {
            sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        () = limit => panic!("this takes for ever"),
    }
}

/// An actor, held in a way that does not keep it alive.
struct Watched {
    label: String,
    /// The plugin whose actor it is; none for those of the supervisor.
    plugin: Option<String>,
    is_alive: Box<dyn Fn() -> bool + Send>,
}

impl Watched {
    fn actor<A: Actor<Context = Context<A>>>(label: String, actor: &Addr<A>) -> Self {
        let actor = actor.downgrade();
        Self {
            label,
            plugin: None,
            is_alive: Box::new(move || actor.upgrade().is_some()),
        }
    }

    fn plugin(supervisor: usize, plugin: &str, actor: &Recipient<Deliver>) -> Self {
        let actor = actor.downgrade();
        // Unlike an address, a recipient that can be upgraded may be that of a dead actor.
        let is_alive = move || actor.upgrade().is_some_and(|actor| actor.connected());
        Self {
            label: format!("the plugin `{plugin}` of supervisor {supervisor}"),
            plugin: Some(plugin.to_owned()),
            is_alive: Box::new(is_alive),
        }
    }

    fn is_alive(&self) -> bool {
        (self.is_alive)()
    }
}

/// Starts supervisors on the test's own thread, and sees to it that none leaves anything behind: at
/// the end of the test each is shut down, and then every actor of it has to be gone, its plugins'
/// actors too.
///
/// Because of [`Threads::Current`] a test can run in virtual time, and a plugin that blocks its thread
/// blocks the test.
///
/// ```
/// use session_supervisor::testing::{Harness, recorder};
/// use session_supervisor::{NewSession, SessionId, SessionSupervisor, Shutdown};
///
/// Harness::run(async |harness| {
///     tokio::time::pause();
///     let (plugin, told) = recorder("audit");
///     let supervisor = harness.start(SessionSupervisor::builder().plugin(plugin)).await;
///     let session = NewSession::new(SessionId::new("sess-1").unwrap());
///     supervisor.started(session).await.unwrap();
///     told.wait_for(1).await;
///     assert_eq!(told.lines(), ["session_start sess-1"]);
/// });
/// ```
///
/// Where the test has a system already, such as under `#[actix::test]`, [`new`](Self::new) and
/// [`finish`](Self::finish) do the same.
#[must_use = "leaks are found by `finish`"]
pub struct Harness {
    supervisors: RefCell<Vec<SessionSupervisor>>,
    /// How many supervisors were started.
    started: Cell<usize>,
    actors: Arc<Mutex<Vec<Watched>>>,
    may_leak: RefCell<BTreeSet<String>>,
}

impl Harness {
    /// Runs a test in an actix system of its own, with a harness that is [finished](Self::finish)
    /// after it.
    ///
    /// # Panics
    ///
    /// When the test does, does not end [in time](in_time), or leaves actors behind. Inside another
    /// runtime.
    pub fn run<T>(test: impl AsyncFnOnce(&Self) -> T) -> T {
        System::new().block_on(async {
            let harness = Self::new();
            let result = in_time(test(&harness)).await;
            harness.finish().await;
            result
        })
    }

    /// A harness for a test that runs in an actix system.
    pub fn new() -> Self {
        Self {
            supervisors: RefCell::default(),
            started: Cell::default(),
            actors: Arc::default(),
            may_leak: RefCell::default(),
        }
    }

    /// Starts a supervisor on the current thread, whatever [`Builder::threads`] says. A test may
    /// start several, one after the other or side by side.
    ///
    /// # Panics
    ///
    /// When it can't be started, or outside an actix system.
    pub async fn start(&self, builder: Builder) -> SessionSupervisor {
        let number = self.started.get() + 1;
        self.started.set(number);
        let actors = Arc::clone(&self.actors);
        let builder = builder.map_plugins(move |plugin| {
            let (actors, name) = (Arc::clone(&actors), plugin.name().to_owned());
            plugin.observed(move |actor| {
                let mut actors = lock(&actors);
                // One that is replaced again and again leaves one entry, not many.
                actors.retain(Watched::is_alive);
                actors.push(Watched::plugin(number, &name, actor));
            })
        });
        let supervisor = match builder.threads(Threads::Current).start().await {
            Ok(supervisor) => supervisor,
            Err(error) => panic!("the supervisor does not start: {error}"),
        };
        let label = |actor| format!("{actor} of supervisor {number}");
        lock(&self.actors).extend([
            Watched::actor(label("the registry"), supervisor.registry()),
            Watched::actor(label("the bus"), supervisor.bus()),
            Watched::actor(label("the coordinator"), supervisor.coordinator()),
        ]);
        self.supervisors.borrow_mut().push(supervisor.clone());
        supervisor
    }

    /// Lets the actors of a plugin outlive their supervisors: for tests of actors that never come to
    /// an end, such as that of [`Misbehaviour::MailboxFull`](super::Misbehaviour::MailboxFull).
    pub fn allow_leak(&self, plugin: &str) {
        self.may_leak.borrow_mut().insert(plugin.to_owned());
    }

    /// Shuts down every supervisor that still runs, and waits until all actors are gone. Drop handles
    /// and addresses before: whoever has one keeps its actor alive.
    ///
    /// # Panics
    ///
    /// When an actor is still there after 10 s by the runtime's clock, or a shutdown does not end [in
    /// time](in_time).
    pub async fn finish(self) {
        for supervisor in self.supervisors.take() {
            // One that was stopped with its system has no report, and is gone all the same.
            let _ = in_time(supervisor.shutdown(Shutdown::now())).await;
        }
        let give_up_at = Instant::now() + GRACE;
        let mut alive = self.alive();
        while !alive.is_empty() && Instant::now() < give_up_at {
            sleep(Duration::from_millis(1)).await;
            alive = self.alive();
        }
        assert!(
            alive.is_empty(),
            "still there after the end: {}; who has a handle or an address?",
            alive.join(", ")
        );
    }

    /// The actors that live and should not.
    fn alive(&self) -> Vec<String> {
        let may_leak = self.may_leak.borrow();
        let may_live = |actor: &&Watched| {
            let plugin = actor.plugin.as_ref();
            plugin.is_some_and(|plugin| may_leak.contains(plugin))
        };
        let actors = lock(&self.actors);
        let alive = actors
            .iter()
            .filter(|actor| actor.is_alive() && !may_live(actor));
        alive.map(|actor| actor.label.clone()).collect()
    }
}

impl Default for Harness {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness")
            .field("started", &self.started.get())
            .finish_non_exhaustive()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        // A test that fails says so itself.
        if !std::thread::panicking() {
            let forgotten = self.supervisors.borrow().len();
            assert!(forgotten == 0, "the harness is not finished");
        }
    }
}

fn lock(actors: &Mutex<Vec<Watched>>) -> MutexGuard<'_, Vec<Watched>> {
    // Nothing that can panic runs under the lock, so its content is whole.
    actors.lock().unwrap_or_else(PoisonError::into_inner)
}
