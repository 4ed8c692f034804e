//! From what is configured to what is run.

use super::Config;
use super::plugin::{LogTarget, PluginConfig, PluginKind};
use crate::durability::Durability;
use crate::gateway::{Access, Token};
use crate::plugin::{LogPlugin, PluginSpec, SqlPlugin};

impl Config {
    /// Who may use the gateway.
    pub(crate) fn access(&self) -> Access {
        if self.tokens.is_empty() {
            return Access::loopback();
        }
        let tokens = self.tokens.iter();
        Access::tokens(tokens.map(|token| Token::new(&*token.name, token.scope, token.secret)))
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
            PluginKind::Log(LogTarget::File(path)) => {
                let path = path.clone();
                PluginSpec::new(name, move || LogPlugin::file(&path).durable(durability))
            }
            PluginKind::Sql(settings) => {
                let settings = settings.clone();
                PluginSpec::new(name, move || SqlPlugin::new(settings.clone()))
            }
        };
        spec.with_hooks(self.hooks).with_policy(self.policy.clone())
    }
}
