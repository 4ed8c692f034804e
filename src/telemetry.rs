//! Logs of the binary, on standard error.

use std::env;
use std::io::{self, IsTerminal};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

const FILTER: &str = "RUST_LOG";

/// What the server libraries say of their threads, and of clients that send nonsense, is for those
/// who look into it.
const DEFAULT_FILTER: &str = "info,actix_server=warn,actix_http=off";

/// How many lines wait for a reader of standard error, at the most. Further ones are dropped.
const MAX_WAITING_LINES: usize = 10_000;

/// How long the program waits at its end for the last lines to be read.
const FLUSH_PATIENCE: Duration = Duration::from_millis(30);

/// Writes the last lines when it is dropped, if somebody reads them.
#[must_use = "dropping it ends the logs"]
pub(crate) struct Logs(Option<WorkerGuard>);

impl Drop for Logs {
    fn drop(&mut self) {
        // The guard waits longer than a program that is stopping may.
        let guard = self.0.take();
        let (done, flushed) = mpsc::channel();
        thread::spawn(move || {
            drop(guard);
            let _ = done.send(());
        });
        let _ = flushed.recv_timeout(FLUSH_PATIENCE);
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// Sends logs to standard error, filtered by `RUST_LOG`, from `info` on where that says nothing.
/// Call it once.
///
/// A thread of its own writes them: whoever logs must not wait for whoever should read, or a full
/// pipe would hold the shutdown up.
pub(crate) fn init(format: LogFormat) -> Logs {
    let directives = env::var(FILTER).ok().filter(|text| !text.is_empty());
    let directives = directives.unwrap_or_else(|| DEFAULT_FILTER.into());
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    let (filter, error) = match builder.parse(&directives) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_WAITING_LINES)
        .lossy(true)
        .thread_name("log-writer")
        .finish(io::stderr());
    tracing_subscriber::registry()
        .with(layer(format, writer).with_filter(filter))
        .init();
    if let Some(error) = error {
        tracing::warn!(%error, "{FILTER} is no filter, expected one such as `info`; using the default");
    }
    Logs(Some(guard))
}

fn layer<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = fmt::layer()
        .with_writer(writer)
        // A failed write would be reported by `eprintln!`, which panics when that fails too.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => layer.with_ansi(is_coloured()).boxed(),
        LogFormat::Json => layer.json().boxed(),
    }
}

/// Colours are for people, and for those who want them: <https://no-color.org>.
fn is_coloured() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(format: LogFormat) -> String {
        let written = Written::default();
        let writer = written.clone();
        let layer = layer(format, move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("session", id = "sess-A").entered();
            tracing::warn!(plugin = "audit", "timed out");
        });
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_logs_are_an_object_per_line() {
        let text = log(LogFormat::Json);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["fields"]["message"], "timed out");
        assert_eq!(line["fields"]["plugin"], "audit");
        assert_eq!(line["span"]["id"], "sess-A");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn text_logs_name_the_span_and_the_fields() {
        let text = log(LogFormat::Text);
        assert!(text.contains("WARN session{id=\"sess-A\"}"), "{text}");
        assert!(text.contains("timed out plugin=\"audit\""), "{text}");
    }
}
