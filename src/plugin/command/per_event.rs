//! The mode `per_event`: a program per event, which answers by its exit code.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::ExitStatus;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info};

use super::CommandSettings;
use super::group::{Ending, Group, Pipes, beside};
use super::output::{Tail, discard};
use crate::event::Deliver;
use crate::plugin::Down;

/// The exit code by which a program says that it can't work at present: `EX_TEMPFAIL`.
const TRY_LATER: i32 = 75;

/// Runs the program for one event after the other. The lane is what runs several side by side.
pub(super) async fn deliver(settings: &CommandSettings, delivery: &Deliver) -> anyhow::Result<()> {
    let mut rejected = HashSet::new();
    let mut is_incomplete = false;
    for (index, event) in delivery.events.iter().enumerate() {
        let session = event.session().map(|session| &session.id);
        if session.is_some_and(|id| rejected.contains(id)) {
            is_incomplete = true;
            continue;
        }
        delivery.acks.remark("the program has not exited");
        let remaining = delivery.deadline.remaining();
        let mut input = serde_json::to_vec(&event.wire(delivery.attempt, remaining))?;
        input.push(b'\n');
        match run(settings, input).await {
            Ok(()) => delivery.acks.acknowledge(index),
            Err(error) if error.is::<Down>() => return Err(error),
            Err(error) => {
                delivery.acks.reject(index, error);
                rejected.extend(session);
            }
        }
    }
    anyhow::ensure!(
        !is_incomplete,
        "not tried, since an earlier event of its session failed"
    );
    Ok(())
}

/// Runs the program with `input`. Dropped before it has exited, it gives it up.
///
/// The child lives in a task of its own, which outlives this future for the moment that it takes to
/// end it.
async fn run(settings: &CommandSettings, input: Vec<u8>) -> anyhow::Result<()> {
    let started = settings
        .command()
        .and_then(|command| Ok(Group::start(command)?));
    let (group, pipes) = started
        .with_context(|| format!("can't start `{}`", settings.name()))
        .map_err(Down::new)?;
    let given_up = CancellationToken::new();
    let _given_up_when_dropped = given_up.clone().drop_guard();
    let keep = keep(group, pipes, input, given_up, settings.name());
    actix_rt::spawn(keep.in_current_span())
        .await
        .context("its child's task failed")?
}

/// Lives as long as the child does.
async fn keep(
    mut group: Group,
    pipes: Pipes,
    input: Vec<u8>,
    given_up: CancellationToken,
    name: String,
) -> anyhow::Result<()> {
    let mut errors = Tail::default();
    let status = {
        let io = async {
            tokio::join!(
                feed(pipes.input, &input),
                discard(pipes.output),
                errors.collect(pipes.errors)
            );
        };
        let mut io = pin!(io.fuse());
        let ending = tokio::select! {
            biased;
            () = beside(io.as_mut(), group.exited()) => Ending::Exited,
            () = given_up.cancelled() => Ending::GivenUp,
        };
        group.see_out(ending, io).await
    };
    let status = status
        .context("its exit code is not known")
        .map_err(Down::new)?;
    if given_up.is_cancelled() {
        // Nobody waits for the answer.
        let (pid, explanation) = (group.pid(), errors.explanation());
        info!(
            program = name,
            pid, "the program was late, and was ended ({status}){explanation}"
        );
    }
    judge(status, &errors)
}

/// Gives the child its input and the end of it. It need not read any.
async fn feed(mut pipe: impl tokio::io::AsyncWrite + Unpin, input: &[u8]) {
    let _ = pipe.write_all(input).await;
}

fn judge(status: ExitStatus, errors: &Tail) -> anyhow::Result<()> {
    let explanation = errors.explanation();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(TRY_LATER), _) => {
            let problem = anyhow::anyhow!("exited with {TRY_LATER}, try later{explanation}");
            Err(Down::new(problem).into())
        }
        (Some(code), _) => anyhow::bail!("exited with {code}{explanation}"),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            anyhow::bail!("was ended by signal {signal}{explanation}")
        }
    }
}
