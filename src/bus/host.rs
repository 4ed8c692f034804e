//! Where a plugin lives: a thread and an actor, which are given up and replaced when it hangs or has
//! died.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use actix::Recipient;
use actix_rt::Arbiter;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::lane::Failure;
use crate::event::{Deadline, Deliver};
use crate::place::Place;
use crate::plugin::PluginSpec;

/// How long a plugin that has let a deadline pass may take to notice it, before it counts as
/// hanging.
const NOTICE_GRACE: Duration = Duration::from_millis(50);

/// The same at the end of a stop, which has no time to spare.
const CUT_GRACE: Duration = Duration::from_millis(40);

/// How many threads of one plugin may hang. It is not replaced while there are as many.
const MAX_HUNG_THREADS: usize = 4;

/// How many blocking tasks (`spawn_blocking`) a plugin may have under way: those that hang can't be
/// ended, so there must not be ever more of them.
const MAX_BLOCKING_TASKS: usize = 16;

/// A plugin, and where it lives for now.
pub(super) struct PluginHost {
    spec: PluginSpec,
    own_thread: bool,
    /// None once it is closed.
    life: RefCell<Option<Rc<Life>>>,
    /// Threads of lives before that have not ended yet: of hosts before, too, since a reload does not
    /// end them.
    left_behind: LeftBehind,
}

/// Threads that were left behind and have not ended yet.
type LeftBehind = Rc<RefCell<Vec<OldThread>>>;

/// An actor and its thread.
pub(super) struct Life {
    place: Place,
    /// The thread is the plugin's own, so it ends with this life.
    thread: Option<Thread>,
    actor: OnceCell<Recipient<Deliver>>,
    /// Deliveries whose deadline has passed, and that the actor has not answered.
    overdue: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    /// The last delivery was given up.
    was_late: Cell<bool>,
}

struct Thread {
    arbiter: Arbiter,
    /// Fails when the thread has ended. Taken by whoever lets go of it.
    ended: RefCell<Option<oneshot::Receiver<()>>>,
}

struct OldThread {
    /// When it counts as hanging: at once, unless it was not known to.
    hangs_from: Instant,
    ended: oneshot::Receiver<()>,
}

thread_local! {
    /// Dropped when the thread has ended, with all that lived there.
    static ENDED: RefCell<Option<oneshot::Sender<()>>> = const { RefCell::new(None) };
}

impl fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginHost")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl PluginHost {
    /// A host for `spec`, on a thread of its own or on the caller's.
    ///
    /// # Errors
    ///
    /// When the thread can't be started: threads or files may have run out.
    pub(super) fn new(spec: PluginSpec, own_thread: bool) -> io::Result<Self> {
        let own_thread = own_thread && spec.is_replaceable();
        let life = Life::begin(own_thread)?;
        Ok(Self {
            spec,
            own_thread,
            life: RefCell::new(Some(Rc::new(life))),
            left_behind: LeftBehind::default(),
        })
    }

    /// A host for `spec` in place of this one, which is to be [closed](Self::close).
    ///
    /// # Errors
    ///
    /// When its thread can't be started.
    pub(super) fn successor(&self, spec: PluginSpec, own_thread: bool) -> io::Result<Self> {
        Ok(Self {
            left_behind: Rc::clone(&self.left_behind),
            ..Self::new(spec, own_thread)?
        })
    }

    pub(super) fn spec(&self) -> &PluginSpec {
        &self.spec
    }

    /// The plugin's actor, for a delivery: a new one on a new thread if the last has died, or hangs.
    pub(super) async fn actor(
        &self,
        deadline: &Deadline,
    ) -> Result<(Rc<Life>, Recipient<Deliver>), Failure> {
        let life = self.life.borrow().clone();
        let mut life = life.ok_or_else(|| down("the plugin is closed"))?;
        if life.is_dead() {
            life = self.renew(&life, false)?;
        } else if life
            .hangs(Instant::now() + NOTICE_GRACE.min(deadline.remaining()))
            .await
        {
            life = self.renew(&life, true)?;
        }
        let actor = life.actor(&self.spec)?;
        Ok((life, actor))
    }

    /// Gives `old` up for a new life, since it hangs, or has died.
    fn renew(&self, old: &Rc<Life>, hangs: bool) -> Result<Rc<Life>, Failure> {
        let why = if hangs { "hangs" } else { "has died" };
        let mut life = self.life.borrow_mut();
        match &*life {
            // A delivery beside this one was first.
            Some(renewed) if !Rc::ptr_eq(renewed, old) => return Ok(Rc::clone(renewed)),
            Some(_) => {}
            None => return Err(down("the plugin is closed")),
        }
        if !self.spec.is_replaceable() {
            return Err(down(&format!("its actor {why}, and can't be replaced")));
        }
        let left_behind = self.hung_before();
        if left_behind >= MAX_HUNG_THREADS {
            let problem = format!("{left_behind} of its threads hang: it is not replaced again");
            return Err(down(&problem));
        }
        let fresh = Life::begin(self.own_thread)
            .map_err(|error| down(&format!("no thread for it: {error}")))?;
        let plugin = self.spec.name();
        warn!(plugin, left_behind, "the plugin {why}: it is replaced");
        let patience = if hangs { Duration::ZERO } else { NOTICE_GRACE };
        if let Some(ended) = old.ended() {
            self.leave_behind(ended, patience);
        }
        let fresh = Rc::new(fresh);
        *life = Some(Rc::clone(&fresh));
        Ok(fresh)
    }

    /// Keeps an eye on a thread that may hang: it does if it has not ended after `patience`.
    fn leave_behind(&self, ended: oneshot::Receiver<()>, patience: Duration) {
        let hangs_from = Instant::now() + patience;
        let thread = OldThread { hangs_from, ended };
        self.left_behind.borrow_mut().push(thread);
    }

    /// How many threads of lives before hang.
    fn hung_before(&self) -> usize {
        let mut left_behind = self.left_behind.borrow_mut();
        left_behind.retain_mut(|left| left.ended.try_recv() == Err(TryRecvError::Empty));
        let now = Instant::now();
        left_behind.iter().filter(|it| it.hangs_from <= now).count()
    }

    /// How many of the plugin's threads hang: those of lives before, and that of the present one if
    /// it has not answered at `until` what it should have answered already.
    pub(super) async fn hung_threads(&self, until: Instant) -> usize {
        let life = self.life.borrow().clone();
        let hangs = match life {
            Some(life) => life.hangs(until).await,
            None => false,
        };
        self.hung_before() + usize::from(hangs)
    }

    /// The same, as far as it can be told at once.
    pub(super) fn hung_threads_now(&self) -> usize {
        let life = self.life.borrow();
        let hangs = life.as_ref().is_some_and(|life| {
            let hangs = life.hangs(Instant::now()).now_or_never();
            hangs.unwrap_or_else(|| life.is_overdue())
        });
        self.hung_before() + usize::from(hangs)
    }

    /// Lets go of the plugin, and waits until `until` for it to be gone with its thread; not for one
    /// that hangs. Whether it is gone.
    pub(super) async fn close(&self, until: Instant) -> bool {
        let Some(life) = self.life.take() else {
            return true;
        };
        let plugin = self.spec.name();
        if life.hangs(until.min(Instant::now() + CUT_GRACE)).await {
            warn!(plugin, "the plugin hangs: it is left behind");
            if let Some(ended) = life.ended() {
                self.leave_behind(ended, Duration::ZERO);
            }
            return false;
        }
        let ended = life.ended();
        // What was cut off may have left a job on a thread of its runtime that never ends.
        let until = match life.was_late.get() {
            true => until.min(Instant::now() + CUT_GRACE),
            false => until,
        };
        if let Some(thread) = &life.thread {
            thread.arbiter.stop();
        }
        drop(life);
        let Some(mut ended) = ended else {
            return true;
        };
        let is_gone = timeout_at(until, &mut ended).await.is_ok();
        if !is_gone {
            warn!(plugin, "the plugin takes too long to let go");
            self.leave_behind(ended, Duration::ZERO);
        }
        is_gone
    }
}

impl Life {
    fn begin(own_thread: bool) -> io::Result<Self> {
        let thread = own_thread.then(Thread::start).transpose()?;
        Ok(Self {
            place: thread
                .as_ref()
                .map_or(Place::Current, |thread| Place::On(thread.arbiter.handle())),
            thread,
            actor: OnceCell::new(),
            overdue: RefCell::default(),
            was_late: Cell::new(false),
        })
    }

    /// The actor, made if there is none yet. Where that panics on this thread, only the plugin may
    /// suffer.
    fn actor(&self, spec: &PluginSpec) -> Result<Recipient<Deliver>, Failure> {
        if let Some(actor) = self.actor.get() {
            return Ok(actor.clone());
        }
        let started = catch_unwind(AssertUnwindSafe(|| spec.start(&self.place)));
        let started = started.map_err(|_| down("its actor could not be made"))?;
        Ok(self.actor.get_or_init(|| started).clone())
    }

    /// What fails when its thread has ended, once.
    fn ended(&self) -> Option<oneshot::Receiver<()>> {
        self.thread.as_ref()?.ended.take()
    }

    fn is_dead(&self) -> bool {
        self.actor.get().is_some_and(|actor| !actor.connected())
    }

    /// A delivery was given up, and the plugin knows.
    pub(super) fn was_cut_off(&self) {
        self.was_late.set(true);
    }

    /// A delivery was answered in time.
    pub(super) fn was_in_time(&self) {
        self.was_late.set(false);
    }

    /// Keeps an eye on a delivery that was given up: whether `answer` comes after all.
    pub(super) fn watch(&self, answer: impl Future + 'static) {
        self.was_late.set(true);
        let answer = answer.map(|_| ()).boxed_local();
        self.overdue.borrow_mut().push(answer);
    }

    fn is_overdue(&self) -> bool {
        !self.overdue.borrow().is_empty()
    }

    /// Whether deliveries that were given up are still not answered at `until`.
    async fn hangs(&self, until: Instant) -> bool {
        if !self.is_overdue() {
            return false;
        }
        let answered = poll_fn(|context| {
            let mut overdue = self.overdue.borrow_mut();
            overdue.retain_mut(|answer| answer.poll_unpin(context).is_pending());
            match overdue.is_empty() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        timeout_at(until, answered).await.is_err() && self.is_overdue()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // Not joined: the plugin may be blocking it.
        if let Some(thread) = &self.thread {
            thread.arbiter.stop();
        }
    }
}

impl Thread {
    fn start() -> io::Result<Self> {
        let arbiter = Arbiter::try_with_tokio_rt(plugin_runtime)?;
        let (sender, ended) = oneshot::channel();
        arbiter.spawn_fn(move || ENDED.set(Some(sender)));
        Ok(Self {
            arbiter,
            ended: RefCell::new(Some(ended)),
        })
    }
}

fn plugin_runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_TASKS)
        .build()
}

fn down(problem: &str) -> Failure {
    Failure::Down(problem.into(), None)
}
