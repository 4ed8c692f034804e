//! A program with three plugins, of which the one in the middle misbehaves. Stop it with a signal, and
//! see that the others are told of every end, that it is gone in time, and what its report says:
//!
//! ```sh
//! cargo run --example misbehaving -- --plugin blocks-thread --sessions 1000 --cap 500ms --dir example
//! ```
//!
//! Started again with `--plugin ok`, it delivers what was owed.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use actix::prelude::*;
use clap::Parser;
use futures_util::future::try_join_all;
use session_supervisor::testing::Misbehaviour;
use session_supervisor::{
    DeliveryPolicy, Durability, LogPlugin, NewSession, PluginSpec, SessionId, SessionSupervisor,
    SqliteLedger, StateDir,
};
use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_subscriber::fmt::MakeWriter;

/// How many starts are asked for at once.
const STARTS_AT_ONCE: usize = 4096;

/// As `serve` has it. There are no teardown steps, and with the cap it is when the process has to be gone.
const TEARDOWN: Duration = Duration::from_secs(1);

/// Holds sessions until it gets a signal.
#[derive(Parser)]
struct Options {
    /// How the plugin in the middle misbehaves; `ok` if it does not
    #[arg(long, default_value = "ok")]
    plugin: String,
    /// How many sessions to start
    #[arg(long, default_value_t = 11)]
    sessions: usize,
    /// How long hooks and drain may take
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    cap: Duration,
    /// Where the state and the plugins' files are
    #[arg(long)]
    dir: PathBuf,
    /// Writes the log to standard error by itself, so that whoever logs waits for whoever reads it
    #[arg(long)]
    log_blocks: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if options.log_blocks {
        log_to(io::stderr);
        return System::new().block_on(run(options));
    }
    // A thread writes the log, and lines are dropped when nobody reads them.
    let builder = NonBlockingBuilder::default().lossy(true);
    let (writer, guard) = builder.finish(io::stderr());
    // Its end would wait for the reader.
    std::mem::forget(guard);
    log_to(writer);
    System::new().block_on(run(options))
}

fn log_to(writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) {
    tracing_subscriber::fmt().with_writer(writer).init();
}

async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let state_dir = StateDir::open(options.dir.join("state"))?;
    let ledger = SqliteLedger::open_in(&state_dir, Durability::Power)?;
    let log = |name: &'static str| {
        let path = options.dir.join(name).with_extension("jsonl");
        PluginSpec::new(name, move || LogPlugin::file(&path))
    };
    let mut patient = DeliveryPolicy::default();
    patient.timeout = Duration::from_secs(600);
    let middle = match &*options.plugin {
        "ok" => log("culprit"),
        misbehaves => misbehaves
            .parse::<Misbehaviour>()
            .map_err(anyhow::Error::msg)?
            .plugin("culprit")
            // What hangs from the first start on hangs still when the stop begins.
            .with_policy(patient),
    };
    let supervisor = SessionSupervisor::builder()
        .cap(options.cap)
        .teardown(TEARDOWN)
        .ledger(ledger)
        .state_dir(state_dir)
        .plugin(log("first"))
        .plugin(middle)
        .plugin(log("last"))
        .handle_signals()
        // Nothing else goes on in here, so the process may end with it.
        .exit_process()
        .start()
        .await?;
    start_sessions(&supervisor, options.sessions).await?;
    let can_wait_for = |name: &str| name != "culprit" || options.plugin == "ok";
    wait_until_told(&supervisor, can_wait_for).await?;
    writeln!(io::stdout(), "ready")?;

    let report = supervisor.stopped().await?;
    Ok(ExitCode::from(report.exit_code))
}

async fn start_sessions(supervisor: &SessionSupervisor, count: usize) -> anyhow::Result<()> {
    let numbers: Vec<_> = (0..count).collect();
    for chunk in numbers.chunks(STARTS_AT_ONCE) {
        let starts = chunk.iter().map(|number| async move {
            let id = SessionId::new(format!("sess-{number}"))?;
            supervisor.started(NewSession::new(id)).await?;
            anyhow::Ok(())
        });
        try_join_all(starts).await?;
    }
    Ok(())
}

/// Waits until these plugins are owed nothing.
async fn wait_until_told(
    supervisor: &SessionSupervisor,
    which: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    loop {
        let plugins = supervisor.plugins().await?;
        let mut asked = plugins.iter().filter(|plugin| which(&plugin.name));
        if asked.all(|plugin| plugin.owed == 0) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
