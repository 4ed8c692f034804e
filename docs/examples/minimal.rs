//! The least there is to it: a plugin, a session, and a stop by Ctrl-C.
//!
//! ```sh
//! cargo run --example minimal
//! ```

use session_supervisor::{PluginSpec, SessionId, SessionSupervisor};

#[actix::main] // or #[tokio::main]: the supervisor has threads of its own
async fn main() -> anyhow::Result<()> {
    let audit = PluginSpec::per_session("audit", |event| async move {
        let reason = event.how_ended().map(|end| end.reason.as_str());
        println!("{} {}", event.hook(), reason.unwrap_or_default());
        Ok(())
    });
    let supervisor = SessionSupervisor::builder()
        .plugin(audit)
        .handle_signals() // SIGTERM, SIGQUIT and SIGINT, which is Ctrl-C
        .start()
        .await?;

    // It ends when the guard is dropped, and it is not forgotten when the program is stopped before.
    let _guard = supervisor.guard(SessionId::new("sess-1")?).await?;
    println!("stop me with Ctrl-C");

    let report = supervisor.stopped().await?;
    println!(
        "{} after {} ms",
        report.outcome.as_str(),
        report.duration_ms
    );
    Ok(())
}
