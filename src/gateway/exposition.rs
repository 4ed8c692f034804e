//! The metrics by their names, labels and descriptions.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

use super::process::ProcessStats;
use crate::bus::{PluginState, PluginStatus};
use crate::ledger::Recovery;
use crate::monitor::{Counts, HistogramCounts};
use crate::session::EndReason;
use crate::shutdown::ShutdownReport;

/// No label.
const NONE: [(&str, &str); 0] = [];

/// What is known of a supervisor at one moment.
#[derive(Debug)]
pub(super) struct SupervisorMetrics {
    pub(super) counts: Counts,
    pub(super) sessions_active: usize,
    pub(super) holders: usize,
    pub(super) plugins: Vec<PluginStatus>,
    /// What was found of the run before.
    pub(super) recovery: Recovery,
    pub(super) ledger_size_bytes: Option<u64>,
    pub(super) is_draining: bool,
    /// The stop of the process before.
    pub(super) last_shutdown: Option<Arc<ShutdownReport>>,
}

/// Writes metrics.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn begin<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        metric_type: MetricType,
    ) -> Result<MetricEncoder<'s>, Error> {
        self.0.encode_descriptor(name, help, None, metric_type)
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> Result<(), Error> {
        self.gauges(name, help, [(NONE, value)])
    }

    /// A gauge with a value per set of labels.
    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> Result<(), Error> {
        let mut metric = self.begin(name, help, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A counter, whose name gets `_total` at its end, with a value per set of labels.
    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        let mut metric = self.begin(name, help, MetricType::Counter)?;
        for (labels, value) in values {
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        Ok(())
    }

    /// A histogram per set of labels.
    fn histograms<'h, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, &'h HistogramCounts)>,
    ) -> Result<(), Error> {
        let mut metric = self.begin(name, help, MetricType::Histogram)?;
        for (labels, counts) in values {
            let mut metric = metric.encode_family(&labels)?;
            let HistogramCounts {
                sum,
                count,
                buckets,
                ..
            } = counts;
            metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)?;
        }
        Ok(())
    }
}

impl Collector for SupervisorMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let help = "The version that runs; always 1";
        to.gauges("build_info", help, [(version, 1_u64)])?;
        let help = "Whether a stop is under way";
        to.gauge("draining", help, u64::from(self.is_draining))?;
        self.encode_sessions(&mut to)?;
        self.encode_holders(&mut to)?;
        self.encode_ledger(&mut to)?;
        self.encode_plugins(&mut to)?;
        self.encode_deliveries(&mut to)?;
        self.encode_last_shutdown(&mut to)
    }
}

impl SupervisorMetrics {
    fn encode_sessions(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let help = "Sessions that have started and not ended";
        to.gauge("sessions_active", help, self.sessions_active as u64)?;
        let help = "Sessions that started";
        to.counters("sessions_started", help, [(NONE, self.counts.started)])?;
        let ended = self.counts.ended.iter();
        let ended = ended.map(|(reason, count)| ([("reason", reason.as_str())], *count));
        to.counters(
            "sessions_ended",
            "Sessions that ended, by the reason",
            ended,
        )?;
        let recovered = [EndReason::Crash, EndReason::Restart, EndReason::Shutdown];
        let recovered = recovered.map(|reason| {
            let is_it = self.recovery.reason == Some(reason);
            let count = if is_it { self.recovery.found } else { 0 };
            ([("reason", reason.as_str())], count)
        });
        let help = "Sessions that the run before had left active and the start ended";
        to.counters("sessions_recovered", help, recovered)?;
        let refused = self.counts.refused.iter();
        let refused = refused.map(|(cause, count)| ([("cause", cause.as_str())], *count));
        let help = "Starts that were refused, by the cause";
        to.counters("sessions_refused", help, refused)
    }

    fn encode_holders(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let help = "Other programs that have a lease or sessions";
        to.gauge("holders", help, self.holders as u64)?;
        let help = "Holders with sessions whose lease ended because no sign of life came";
        to.counters("holders_lost", help, [(NONE, self.counts.holders_lost)])
    }

    fn encode_ledger(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let help = "Calls of the ledger that failed or were not answered in time";
        to.counters("ledger_errors", help, [(NONE, self.counts.ledger_errors)])?;
        if let Some(bytes) = self.ledger_size_bytes {
            let help = "What the ledger takes on disk";
            to.gauge("ledger_size_bytes", help, bytes)?;
        }
        let help = "How long it took to record starts and ends";
        let commits = [(NONE, &self.counts.commits)];
        to.histograms("ledger_commit_duration_seconds", help, commits)
    }

    fn encode_plugins(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let each = |value: fn(&PluginStatus) -> f64| {
            let plugins = self.plugins.iter();
            plugins.map(move |plugin| ([("plugin", &*plugin.name)], value(plugin)))
        };
        let help = "Events that a plugin has not acknowledged, without dead letters";
        to.gauges("owed_events", help, each(|plugin| plugin.owed as f64))?;
        let help = "How long the oldest event that a plugin is owed has waited; 0 if none is owed";
        let age = |plugin: &PluginStatus| plugin.oldest_owed_age_ms.unwrap_or(0) as f64 / 1000.0;
        to.gauges("oldest_owed_age_seconds", help, each(age))?;
        let held = self.plugins.iter().filter_map(|plugin| {
            let bytes = plugin.held_bytes?;
            Some(([("plugin", &*plugin.name)], bytes))
        });
        let held: Vec<_> = held.collect();
        if !held.is_empty() {
            let help = "About what the ledger keeps because a plugin has not got past it";
            to.gauges("held_bytes", help, held)?;
        }
        let help = "Events that a plugin rejected for good";
        to.gauges("dead_letters", help, each(|plugin| plugin.dead as f64))?;
        let help = "Threads that hang in code of a plugin";
        let hung = each(|plugin| plugin.hung_threads as f64);
        to.gauges("hung_threads", help, hung)?;
        let states = self.plugins.iter().flat_map(|plugin| {
            PluginState::ALL.iter().map(|state| {
                let labels = [("plugin", &*plugin.name), ("state", state.as_str())];
                (labels, u64::from(plugin.state == *state))
            })
        });
        let help = "1 for the state in which a plugin is, 0 for the others";
        to.gauges("plugin_state", help, states)
    }

    fn encode_deliveries(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let deliveries = self.counts.plugins.iter().flat_map(|(name, counts)| {
            let status = self.plugins.iter().find(|plugin| plugin.name == *name);
            // What a plugin does not hear of is left out, but for one that heard of it once.
            let hears = move |hook| status.is_some_and(|plugin| plugin.hooks.contains(hook));
            let told = counts.deliveries.iter();
            let told = told.filter(move |it| it.count > 0 || hears(it.hook));
            told.map(move |delivery| {
                let labels = [
                    ("plugin", &**name),
                    ("type", delivery.hook.as_str()),
                    ("outcome", delivery.outcome.as_str()),
                ];
                (labels, delivery.count)
            })
        });
        let help = "Attempts to deliver an event, by its type and by what came of it";
        to.counters("deliveries", help, deliveries)?;
        let durations = self.counts.plugins.iter();
        let durations = durations.map(|(name, counts)| ([("plugin", &**name)], &counts.durations));
        let help = "How long deliveries to a plugin took, of however many events";
        to.histograms("delivery_duration_seconds", help, durations)
    }

    /// Nothing where there was none, rather than zeros that look like a good one.
    fn encode_last_shutdown(&self, to: &mut Writer<'_>) -> Result<(), Error> {
        let Some(report) = &self.last_shutdown else {
            return Ok(());
        };
        let help = "How long the stop before this process took";
        let seconds = report.duration_ms as f64 / 1000.0;
        to.gauge("last_shutdown_duration_seconds", help, seconds)?;
        let help = "Whether the drain of the stop before this process ran out of time";
        let timed_out = u64::from(report.drain.timed_out);
        to.gauge("last_shutdown_timed_out", help, timed_out)?;
        let help = "Events that plugins were still owed after the stop before this process";
        let owed = report.drain.owed + report.drain.owed_before;
        to.gauge("last_shutdown_owed_events", help, owed)?;
        let help = "When the stop before this process was over, in seconds since the epoch";
        let ended_at = report.ended_at.as_millisecond() as f64 / 1000.0;
        to.gauge("last_shutdown_timestamp_seconds", help, ended_at)
    }
}

/// What the operating system knows of the process, under the names that all exporters use.
#[derive(Debug)]
pub(super) struct ProcessMetrics(pub(super) ProcessStats);

impl Collector for ProcessMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let (mut to, stats) = (Writer(encoder), &self.0);
        let help = "Time spent on processors, in seconds";
        let mut cpu = to.begin("process_cpu_seconds", help, MetricType::Counter)?;
        cpu.encode_counter::<NoLabelSet, f64, f64>(&stats.cpu_seconds, None)?;
        let help = "When the process started, in seconds since the epoch";
        to.gauge("process_start_time_seconds", help, stats.start_time_seconds)?;
        let (name, help) = ("process_resident_memory_bytes", "Memory that is in use");
        to.gauge(name, help, stats.resident_memory_bytes)?;
        let (name, help) = ("process_virtual_memory_bytes", "Memory that is reserved");
        to.gauge(name, help, stats.virtual_memory_bytes)?;
        to.gauge("process_open_fds", "Files that are open", stats.open_fds)?;
        if let Some(max_fds) = stats.max_fds {
            to.gauge("process_max_fds", "Files that may be open", max_fds)?;
        }
        to.gauge("process_threads", "Threads", stats.threads)
    }
}
