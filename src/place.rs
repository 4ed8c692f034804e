//! Where actors run.

use actix::prelude::*;
use actix_rt::ArbiterHandle;

/// Where an actor is started.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// On the arbiter of the caller.
    Current,
    /// On another arbiter.
    On(ArbiterHandle),
}

impl Place {
    /// Runs `work` there.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match self {
            Self::Current => {
                actix_rt::spawn(work);
            }
            Self::On(arbiter) => {
                arbiter.spawn(work);
            }
        }
    }

    /// Starts the actor that `make` makes there. If `make` panics there, the address is dead.
    pub(crate) fn start<A>(&self, make: impl FnOnce() -> A + Send + 'static) -> Addr<A>
    where
        A: Actor<Context = Context<A>>,
    {
        match self {
            Self::Current => make().start(),
            Self::On(arbiter) => A::start_in_arbiter(arbiter, |_| make()),
        }
    }
}
