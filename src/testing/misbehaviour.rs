//! Plugins that do everything that a plugin should not.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::ArbiterHandle;

use crate::event::{Deliver, Hook};
use crate::plugin::PluginSpec;

/// How long [`Misbehaviour::Slow`] takes for a delivery.
const SLOWNESS: Duration = Duration::from_millis(200);

/// Ways for a plugin to misbehave.
///
/// A plugin made of one acknowledges deliveries of starts alone, so that sessions can start, and
/// misbehaves at every delivery that holds an end; `dead` and `mailbox-full` misbehave from their
/// beginning. It is a raw actor: nothing catches its panics, and nothing drops what it is at when the
/// deadline has come. The ends that it was told of stay owed, except those of `slow`, as long as 200 ms
/// are less than a delivery may take.
///
/// | name | at a delivery with an end | here |
/// |---|---|---|
/// | `slow` | takes 200 ms, then acknowledges everything | yes |
/// | `rejects` | rejects each end by itself | yes |
/// | `hangs` | never answers, deadline or not | yes |
/// | `panics-in-handler` | panics where it handles the message: its actor is gone, and made anew for the next attempt | yes |
/// | `panics-in-future` | panics in the future that is to answer: its actor lives on | yes |
/// | `dead` | its actor stops as soon as it is made, so that whatever is sent to it finds it dead | yes |
/// | `mailbox-full` | its mailbox is full from the beginning, and nobody ever empties it | yes, and its actor never ends: see [`Harness::allow_leak`] |
/// | `blocks-thread` | blocks its thread for ever | no |
/// | `hangs-in-spawn-blocking` | waits for ever for a job that it has given to `spawn_blocking` | no |
/// | `blocks-main` | blocks the main thread for ever, and never answers; see [`BlocksMain`](Self::BlocksMain) | no |
/// | `holds-stdout` | takes the lock of the standard output, and blocks its thread for ever | no, only in a process that no other test runs in |
/// | `panics-while-unwinding` | panics, and again in a destructor: the process aborts when it has printed a backtrace, which may take a second in a debug build | no, only in a process that no other test runs in |
///
/// "Here" is whether it can be used on the test's own thread ([`Threads::Current`], a [`Harness`]);
/// the others need the threads that a supervisor has of its own ([`Threads::Own`]), which are left
/// behind blocked.
///
/// The names are what [`Display`](fmt::Display) writes and [`FromStr`] reads, so that a program can take
/// one from its command line.
///
/// ```
/// use session_supervisor::testing::Misbehaviour;
///
/// let named: Misbehaviour = "hangs-in-spawn-blocking".parse().unwrap();
/// assert_eq!(named, Misbehaviour::HangsInSpawnBlocking);
/// assert_eq!(Misbehaviour::Slow.to_string(), "slow");
/// assert!("does-well".parse::<Misbehaviour>().is_err());
/// ```
///
/// [`Harness`]: super::Harness
/// [`Harness::allow_leak`]: super::Harness::allow_leak
/// [`Threads::Current`]: crate::Threads::Current
/// [`Threads::Own`]: crate::Threads::Own
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// Takes 200 ms for a delivery.
    Slow,
    /// Rejects each end by itself.
    Rejects,
    /// Never answers.
    Hangs,
    /// Panics where it handles the message.
    PanicsInHandler,
    /// Panics in the future that is to answer.
    PanicsInFuture,
    /// Its actor stops as soon as it is made.
    Dead,
    /// Its mailbox is full.
    MailboxFull,
    /// Blocks its thread for ever.
    BlocksThread,
    /// Waits for ever for a job that it has given to `spawn_blocking`.
    HangsInSpawnBlocking,
    /// Blocks the main thread for ever: that of the actix system in which [`plugin`](Self::plugin)
    /// was called, such as the main thread of a program whose `main` is `#[actix::main]`. Where there
    /// was none, that of the system which the plugin runs in: the supervisor's own.
    BlocksMain,
    /// Takes the lock of the standard output and never gives it back.
    HoldsStdout,
    /// Panics again while it unwinds, which aborts the process.
    PanicsWhileUnwinding,
}

impl Misbehaviour {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Slow,
        Self::Rejects,
        Self::Hangs,
        Self::PanicsInHandler,
        Self::PanicsInFuture,
        Self::Dead,
        Self::MailboxFull,
        Self::BlocksThread,
        Self::HangsInSpawnBlocking,
        Self::BlocksMain,
        Self::HoldsStdout,
        Self::PanicsWhileUnwinding,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Rejects => "rejects",
            Self::Hangs => "hangs",
            Self::PanicsInHandler => "panics-in-handler",
            Self::PanicsInFuture => "panics-in-future",
            Self::Dead => "dead",
            Self::MailboxFull => "mailbox-full",
            Self::BlocksThread => "blocks-thread",
            Self::HangsInSpawnBlocking => "hangs-in-spawn-blocking",
            Self::BlocksMain => "blocks-main",
            Self::HoldsStdout => "holds-stdout",
            Self::PanicsWhileUnwinding => "panics-while-unwinding",
        }
    }

    /// A plugin that misbehaves in this way.
    pub fn plugin(self, name: impl Into<Arc<str>>) -> PluginSpec {
        let main = System::try_current().map(|system| system.arbiter().clone());
        PluginSpec::actor(name, move || Misbehaving {
            how: self,
            main: main.clone(),
        })
    }
}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Misbehaviour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|it| it.as_str() == text);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|it| it.as_str()).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}

/// The actor that misbehaves.
struct Misbehaving {
    how: Misbehaviour,
    main: Option<ArbiterHandle>,
}

impl Actor for Misbehaving {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        match self.how {
            Misbehaviour::Dead => ctx.stop(),
            Misbehaviour::MailboxFull => {
                // It looks at no message before this has come.
                ctx.wait(std::future::pending::<()>().into_actor(self));
                let address = ctx.address();
                while address.try_send(Filler).is_ok() {}
            }
            _ => {}
        }
    }
}

impl Handler<Deliver> for Misbehaving {
    type Result = ResponseFuture<anyhow::Result<()>>;

    fn handle(&mut self, delivery: Deliver, _: &mut Context<Self>) -> Self::Result {
        let events = delivery.events.iter().enumerate();
        let ends = events.filter(|(_, event)| event.hook() == Hook::SessionEnd);
        let ends: Vec<_> = ends.map(|(index, _)| index).collect();
        if ends.is_empty() {
            return Box::pin(std::future::ready(Ok(())));
        }
        match self.how {
            Misbehaviour::Slow => Box::pin(async {
                tokio::time::sleep(SLOWNESS).await;
                Ok(())
            }),
            Misbehaviour::Rejects => {
                for index in ends {
                    delivery
                        .acks
                        .reject(index, anyhow::anyhow!("rejected, as always"));
                }
                Box::pin(std::future::ready(Ok(())))
            }
            Misbehaviour::Hangs => Box::pin(std::future::pending()),
            Misbehaviour::PanicsInHandler => panic!("panics in its handler, as always"),
            Misbehaviour::PanicsInFuture => {
                Box::pin(async { panic!("panics in its future, as always") })
            }
            // Neither ever comes to handle a message.
            Misbehaviour::Dead | Misbehaviour::MailboxFull => Box::pin(std::future::pending()),
            Misbehaviour::BlocksThread => block(),
            Misbehaviour::HangsInSpawnBlocking => Box::pin(async {
                tokio::task::spawn_blocking(|| block()).await?;
                Ok(())
            }),
            Misbehaviour::BlocksMain => {
                let here = || System::current().arbiter().clone();
                let main = self.main.clone().unwrap_or_else(here);
                main.spawn_fn(|| block());
                Box::pin(std::future::pending())
            }
            Misbehaviour::HoldsStdout => {
                let _lock = io::stdout().lock();
                block()
            }
            Misbehaviour::PanicsWhileUnwinding => {
                let _again = PanicsAtDrop;
                panic!("panics, as always")
            }
        }
    }
}

/// What the mailbox is filled with.
#[derive(Message)]
#[rtype(result = "()")]
struct Filler;

impl Handler<Filler> for Misbehaving {
    type Result = ();

    fn handle(&mut self, _: Filler, _: &mut Context<Self>) {}
}

struct PanicsAtDrop;

impl Drop for PanicsAtDrop {
    fn drop(&mut self) {
        panic!("panics again, as always");
    }
}

/// Blocks the thread for ever.
fn block() -> ! {
    loop {
        std::thread::park();
    }
}
