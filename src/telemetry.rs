//! Logs of the binary, on standard error.

use std::env;
use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

const FILTER: &str = "RUST_LOG";

/// What the server library says of its threads is for those who look into it.
const DEFAULT_FILTER: &str = "info,actix_server=warn";

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
pub(crate) fn init(format: LogFormat) {
    let directives = env::var(FILTER).ok().filter(|text| !text.is_empty());
    let directives = directives.unwrap_or_else(|| DEFAULT_FILTER.into());
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    let (filter, error) = match builder.parse(&directives) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
    };
    tracing_subscriber::registry()
        .with(layer(format, io::stderr).with_filter(filter))
        .init();
    if let Some(error) = error {
        tracing::warn!(%error, "{FILTER} is no filter, expected one such as `info`; using the default");
    }
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
