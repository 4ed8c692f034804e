//! The mode `stream`: a program that lives long, and answers each event by a line.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, warn};

use super::CommandSettings;
use super::answer::{Batch, Unanswered};
use super::group::{Ending, Group, Pipes, beside};
use super::output::{Lines, Scribe, Tail};
use crate::event::{Deliver, Event};
use crate::plugin::Down;

/// How many deliveries may wait for the program to read: that of the lane, and lifecycle or test
/// events beside it.
const QUEUED_DELIVERIES: usize = 4;

/// The program as it runs now, if it does.
#[derive(Debug)]
pub(super) struct Stream {
    settings: Rc<CommandSettings>,
    program: RefCell<Option<Rc<Program>>>,
}

/// A program that runs. Dropped, it sees the end of its input.
struct Program {
    input: mpsc::Sender<Vec<u8>>,
    life: Rc<Life>,
    /// Completes when the program and its group are gone, with what became of it.
    gone: Shared<LocalBoxFuture<'static, Arc<str>>>,
}

/// What a program's deliveries share with the task that keeps it.
#[derive(Debug, Default)]
struct Life {
    unanswered: Unanswered,
    /// How many lines of the program answered nothing that it was asked.
    strays: Cell<u64>,
    /// Why it is over; the first reason counts.
    cause: Cell<Option<Cause>>,
    is_over: CancellationToken,
}

/// Why a program's life is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Exited,
    ClosedInput,
    ClosedOutput,
    GivenUp,
    LetGo,
}

impl Stream {
    pub(super) fn new(settings: Rc<CommandSettings>) -> Self {
        Self {
            settings,
            program: RefCell::default(),
        }
    }

    pub(super) async fn deliver(&self, delivery: &Deliver) -> anyhow::Result<()> {
        let program = self.program().await.map_err(Down::new)?;
        let mut lines = Vec::new();
        for event in delivery.wire() {
            serde_json::to_writer(&mut lines, &event)?;
            lines.push(b'\n');
        }
        let batch = program.life.unanswered.expect(delivery);
        let mut waiting = Waiting {
            life: &program.life,
            delivery,
            batch: &batch,
            is_settled: false,
        };
        let answered = async {
            // A program that takes no more has no answer to give: its end is what comes.
            let _ = program.input.send(lines).await;
            batch.all_answered().await;
        };
        let result = tokio::select! {
            biased;
            () = answered => Ok(()),
            fate = program.gone.clone() => Err(Down::new(anyhow::Error::msg(fate)).into()),
        };
        waiting.is_settled = true;
        result
    }

    /// The program, started if it does not run. One that is about to end is gone before another is
    /// started.
    async fn program(&self) -> anyhow::Result<Rc<Program>> {
        loop {
            let present = self.program.borrow().clone();
            let Some(present) = present else {
                let started = Rc::new(Program::start(&self.settings)?);
                *self.program.borrow_mut() = Some(Rc::clone(&started));
                return Ok(started);
            };
            if !present.life.is_over.is_cancelled() {
                return Ok(present);
            }
            present.gone.clone().await;
            let mut program = self.program.borrow_mut();
            if program.as_ref().is_some_and(|it| Rc::ptr_eq(it, &present)) {
                *program = None;
            }
        }
    }
}

impl Program {
    fn start(settings: &CommandSettings) -> anyhow::Result<Self> {
        let name = settings.name();
        let started = settings
            .command()
            .and_then(|command| Ok(Group::start(command)?));
        let (group, pipes) = started.with_context(|| format!("can't start `{name}`"))?;
        info!(program = name, pid = group.pid(), "the program was started");
        let (input, lines) = mpsc::channel(QUEUED_DELIVERIES);
        let life = Rc::new(Life::default());
        let group = group.with_last_grace();
        let keep = keep(group, pipes, lines, Rc::clone(&life), name);
        let kept = actix_rt::spawn(keep.in_current_span());
        let gone = kept.map(|fate| fate.unwrap_or_else(|error| error.to_string().into()));
        Ok(Self {
            input,
            life,
            gone: gone.boxed_local().shared(),
        })
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl Life {
    fn end(&self, cause: Cause) {
        if self.cause.get().is_none() {
            self.cause.set(Some(cause));
            self.is_over.cancel();
        }
    }

    fn cause(&self) -> Cause {
        self.cause.get().unwrap_or(Cause::Exited)
    }
}

/// A delivery that waits for its answers. Dropped before, it gives the program up, since nobody knows
/// what that is doing; lifecycle and test events, which come beside the lane's delivery, don't.
struct Waiting<'a> {
    life: &'a Life,
    delivery: &'a Deliver,
    batch: &'a Rc<Batch>,
    is_settled: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.life.unanswered.forget(self.delivery, self.batch);
        let is_of_lane = |event: &Event| event.session().is_some() && !event.is_synthetic();
        if !self.is_settled && self.delivery.events.iter().any(is_of_lane) {
            self.life.end(Cause::GivenUp);
        }
    }
}

/// Lives as long as the program does. What became of it.
async fn keep(
    mut group: Group,
    pipes: Pipes,
    input: mpsc::Receiver<Vec<u8>>,
    life: Rc<Life>,
    name: String,
) -> Arc<str> {
    let scribe = RefCell::new(Scribe::new(name.clone(), group.pid()));
    let mut last_errors = Tail::default();
    let status = {
        let io = async {
            tokio::join!(
                feed(pipes.input, input, &life),
                listen(pipes.output, &life, &scribe),
                log_errors(pipes.errors, &mut last_errors, &scribe),
            );
        };
        // Dropped before the group: when all ends, the program sees the end of its input first.
        let mut io = pin!(io.fuse());
        tokio::select! {
            biased;
            () = beside(io.as_mut(), group.exited()) => life.end(Cause::Exited),
            () = life.is_over.cancelled() => {}
        }
        group.see_out(life.cause().ending(), io).await
    };
    let status = match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its exit status is not known: {error}"),
    };
    let is_given_up = life.cause() == Cause::GivenUp;
    // What it closed says little of a program that was about to exit.
    let cause = match is_given_up || group.was_told_to_end() {
        true => life.cause(),
        false => Cause::Exited,
    };
    let (cause, explanation) = (cause.as_str(), last_errors.explanation());
    let strays = match life.strays.get() {
        0 => String::new(),
        strays => format!("; lines that answer nothing it was asked: {strays}"),
    };
    let fate = format!("the program {cause} ({status}{strays}){explanation}");
    match is_given_up {
        // Its delivery says no more than that it timed out, and its last stray line.
        true => warn!(program = name, pid = group.pid(), "{fate}"),
        false => info!(program = name, pid = group.pid(), "{fate}"),
    }
    fate.into()
}

impl Cause {
    fn ending(self) -> Ending {
        match self {
            Self::Exited => Ending::Exited,
            Self::ClosedInput | Self::ClosedOutput | Self::LetGo => Ending::Closed,
            Self::GivenUp => Ending::GivenUp,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::ClosedInput => "closed its standard input",
            Self::ClosedOutput => "closed its standard output",
            Self::GivenUp => "did not answer in time, and was ended",
            Self::LetGo => "did not exit at the end of its input, and was ended",
        }
    }
}

/// Writes what is delivered until the program takes nothing more, or is given nothing more.
async fn feed(mut pipe: pipe::Sender, mut input: mpsc::Receiver<Vec<u8>>, life: &Life) {
    let write = async {
        while let Some(lines) = input.recv().await {
            if pipe.write_all(&lines).await.is_err() {
                return Cause::ClosedInput;
            }
        }
        Cause::LetGo
    };
    tokio::select! {
        cause = write => life.end(cause),
        () = life.is_over.cancelled() => {}
    }
}

/// Takes answers until the program closes its output.
async fn listen(pipe: pipe::Receiver, life: &Life, scribe: &RefCell<Scribe>) {
    let mut lines = Lines::new(pipe);
    while let Some(line) = lines.next().await {
        if let Err(about) = life.unanswered.take(line) {
            // Once it is given up a late answer is one, too.
            if !life.is_over.is_cancelled() {
                life.strays.set(life.strays.get() + 1);
            }
            scribe.borrow_mut().note(about, line);
        }
    }
    life.end(Cause::ClosedOutput);
}

async fn log_errors(pipe: pipe::Receiver, last: &mut Tail, scribe: &RefCell<Scribe>) {
    let mut lines = Lines::new(pipe);
    while let Some(line) = lines.next().await {
        last.push(line);
        last.push(b"\n");
        scribe
            .borrow_mut()
            .note("the program wrote to standard error", line);
    }
}
