//! `[[auth.token]]`: who may ask the gateway, and what for.

use super::document::{Given, Section};
use super::outside::{Outside, without_newline};
use crate::gateway::{Scope, Secret};
use crate::session::HolderId;

const KEYS: &[&str] = &["token"];
const TOKEN_KEYS: &[&str] = &["name", "token_file", "token_env", "scope", "holder"];
const ANY_SCOPE: &str = "expected `operator`, `read` or `holder`";

/// A token as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenConfig {
    /// Unique among the tokens.
    pub(crate) name: String,
    /// What its bearer may do.
    pub(crate) scope: Scope,
    /// What the bearer sends.
    pub(crate) secret: Secret,
}

/// `[auth]`
pub(super) struct AuthConfig {
    pub(super) tokens: Vec<TokenConfig>,
    /// Whether there is a token, be it a refused one.
    pub(super) has_token: bool,
}

impl AuthConfig {
    pub(super) fn read(mut section: Section<'_, '_>, outside: Outside<'_>) -> Self {
        let sections = section.tables("token");
        let has_token = !sections.is_empty();
        let mut tokens: Vec<TokenConfig> = Vec::new();
        for token in sections {
            let origin = token.origin;
            let Some(token) = TokenConfig::read(token, outside) else {
                continue;
            };
            for other in &tokens {
                let (name, other_name) = (&token.name, &other.name);
                if name == other_name {
                    let problem = format!("a token before has the name `{name}`, expected another");
                    section.refuse(origin, problem);
                } else if token.secret == other.secret {
                    let problem =
                        format!("`{name}` has the secret of `{other_name}`, expected its own");
                    section.refuse(origin, problem);
                }
            }
            tokens.push(token);
        }
        section.finish(KEYS);
        Self { tokens, has_token }
    }
}

impl TokenConfig {
    fn read(mut section: Section<'_, '_>, outside: Outside<'_>) -> Option<Self> {
        let name = section.required("name");
        let scope = read_scope(&mut section);
        let secret = read_secret(&mut section, outside);
        section.finish(TOKEN_KEYS);
        Some(Self {
            name: name?.value,
            scope: scope?,
            secret: secret?,
        })
    }
}

fn read_scope(section: &mut Section<'_, '_>) -> Option<Scope> {
    let given = section.required("scope");
    if given.as_ref().is_some_and(|scope| scope.value == "holder") {
        return Some(Scope::Holder(read_holder(section)?));
    }
    let holder = section.take("holder");
    let Given { value, origin } = given?;
    let scope = match value.as_str() {
        "operator" => Scope::Operator,
        "read" => Scope::Read,
        other => {
            let problem = format!("`auth.token.scope` is {other:?}, {ANY_SCOPE}");
            section.refuse(origin, problem);
            return None;
        }
    };
    if let Some(origin) = holder {
        let problem = format!(
            "`auth.token.holder` is for the scope `holder`, expected none beside `{value}`"
        );
        section.refuse(origin, problem);
    }
    Some(scope)
}

/// Whose token of scope `holder` it is.
fn read_holder(section: &mut Section<'_, '_>) -> Option<HolderId> {
    if !section.has("holder") {
        let problem = "a token of scope `holder` has no `holder`, expected its name";
        section.refuse(section.origin, problem);
    }
    let Given { value, origin } = section.string("holder")?;
    match HolderId::new(value) {
        Ok(holder) => Some(holder),
        Err(error) => {
            let problem = format!("`auth.token.holder` {}", error.problem);
            section.refuse(origin, problem);
            None
        }
    }
}

/// The secret, which is in no message.
fn read_secret(section: &mut Section<'_, '_>, outside: Outside<'_>) -> Option<Secret> {
    if !section.has("token_file") && !section.has("token_env") {
        let problem = "a token has no secret, expected `token_file` or `token_env`";
        section.refuse(section.origin, problem);
    }
    let (file, variable) = (section.string("token_file"), section.string("token_env"));
    let key = match file {
        Some(_) => "token_file",
        None => "token_env",
    };
    let text = match (file, variable) {
        (Some(_), Some(variable)) => {
            let problem =
                "`auth.token.token_env` is given beside `token_file`, expected one of them";
            section.refuse(variable.origin, problem);
            return None;
        }
        (Some(file), None) => outside
            .secret_file(section, "token_file", &file, "a secret")?
            .map(|text| without_newline(&text).to_owned()),
        (None, Some(name)) => outside.variable(section, "token_env", &name, "a secret")?,
        (None, None) => return None,
    };
    match Secret::new(&text.value) {
        Ok(secret) => Some(secret),
        Err(error) => {
            let key = section.full(key);
            section.refuse(text.origin, format!("{key}: {error}"));
            None
        }
    }
}
