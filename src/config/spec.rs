//! From what is configured to what is run.

use super::plugin::{LogTarget, PluginConfig, PluginKind};
use super::{Config, LedgerKind};
use crate::durability::Durability;
use crate::gateway::{Access, Token};
use crate::plugin::{CommandPlugin, LogPlugin, PluginSpec, SqlPlugin, WebhookPlugin};
use crate::supervisor::LiveSettings;

impl Config {
    /// Who may use the gateway: those who have a token of the configuration, or `own`. Without any it
    /// is open to the programs of this machine.
    pub(crate) fn access(&self, own: Option<Token>) -> Access {
        if self.tokens.is_empty() && own.is_none() {
            return Access::loopback();
        }
        let tokens = self.tokens.iter();
        let tokens =
            tokens.map(|token| Token::new(&*token.name, token.scope.clone(), token.secret));
        Access::tokens(tokens.chain(own))
    }

    /// Has what was meant for standard output go to standard error: that is somebody else's.
    pub(crate) fn leave_standard_output(&mut self) {
        for plugin in &mut self.plugins {
            if let PluginKind::Log(target @ LogTarget::Stdout) = &mut plugin.kind {
                *target = LogTarget::Stderr;
            }
        }
    }
}

impl Config {
    /// The settings that may change while a supervisor runs.
    pub(crate) fn live_settings(&self) -> LiveSettings {
        let (shutdown, sessions) = (&self.shutdown, &self.sessions);
        let durability = match self.ledger.kind {
            // What dies with the process needs no more of its plugins.
            LedgerKind::Memory => Durability::Process,
            LedgerKind::Sqlite | LedgerKind::Postgres => self.ledger.durability,
        };
        let plugins = self.plugins.iter();
        LiveSettings {
            plugins: plugins.map(|plugin| plugin.to_spec(durability)).collect(),
            cap: shutdown.cap,
            lifecycle_timeout: Some(shutdown.lifecycle_timeout),
            teardown: shutdown.teardown,
            restart_expected: shutdown.restart_expected,
            max_active: sessions.max_active,
            idle_after: sessions.idle_after,
            max_age: sessions.max_age,
            warnings: self.warnings.clone(),
        }
    }

    /// Takes over from `running` what plugins depend on and can't change while it runs. Answers
    /// whatever differs and can't change: a line each, for people.
    pub(crate) fn keep_fixed(&mut self, running: &Self) -> Vec<String> {
        let differs = [
            ("listen", self.listen != running.listen),
            ("state_dir", self.state_dir != running.state_dir),
            ("ledger", self.ledger != running.ledger),
            ("auth.token", self.tokens != running.tokens),
            (
                "sessions.retention",
                self.sessions.retention != running.sessions.retention,
            ),
        ];
        // What plugins acknowledge is as durable as the ledger that hears of it.
        self.ledger = running.ledger;
        let changed = differs.into_iter().filter(|(_, differs)| *differs);
        let warn = |(key, _)| format!("`{key}` stays as it is: it changes with a restart only");
        changed.map(warn).collect()
    }
}

impl PluginConfig {
    /// The plugin, ready to be registered.
    /// `durability` is that of the ledger: what the plugin acknowledges is no less durable than what
    /// says so.
    pub(crate) fn to_spec(&self, durability: Durability) -> PluginSpec {
        let name = self.name.as_str();
        let spec = match &self.kind {
            PluginKind::Log(LogTarget::Stdout) => {
                PluginSpec::new(name, move || LogPlugin::stdout().durable(durability))
            }
            PluginKind::Log(LogTarget::Stderr) => {
                PluginSpec::new(name, move || LogPlugin::stderr().durable(durability))
            }
            PluginKind::Log(LogTarget::File(path)) => {
                let path = path.clone();
                PluginSpec::new(name, move || LogPlugin::file(&path).durable(durability))
            }
            PluginKind::Sql(settings) => {
                let settings = settings.clone();
                // What was there before is put in order before anything else.
                PluginSpec::new(name, move || SqlPlugin::new(settings.clone())).with_opening()
            }
            PluginKind::Webhook(settings) => {
                let settings = settings.clone();
                PluginSpec::new(name, move || WebhookPlugin::new(settings.clone()))
            }
            PluginKind::Command(settings) => {
                let settings = settings.clone();
                PluginSpec::new(name, move || CommandPlugin::new(settings.clone()))
            }
        };
        spec.with_hooks(self.hooks)
            .with_policy(self.policy.clone())
            .with_configuration(self.clone())
    }
}
