//! `[[auth.token]]`: who may ask the gateway, and what for.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::document::{Given, Section};
use super::sources::Env;
use crate::gateway::{Scope, Secret};

const KEYS: &[&str] = &["token"];
const TOKEN_KEYS: &[&str] = &["name", "token_file", "token_env", "scope", "holder"];
const ANY_SCOPE: &str = "expected `operator` or `read`";

/// Far more than the longest secret: whatever is larger was named by mistake.
const MAX_FILE_BYTES: u64 = 64 * 1024;

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
    pub(super) fn read(mut section: Section<'_, '_>, base: &Path, env: &Env<'_>) -> Self {
        let sections = section.tables("token");
        let has_token = !sections.is_empty();
        let mut tokens: Vec<TokenConfig> = Vec::new();
        for token in sections {
            let origin = token.origin;
            let Some(token) = TokenConfig::read(token, base, env) else {
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
    fn read(mut section: Section<'_, '_>, base: &Path, env: &Env<'_>) -> Option<Self> {
        let name = section.required("name");
        let scope = read_scope(&mut section);
        let secret = read_secret(&mut section, base, env);
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
    let holder = section.take("holder");
    let given = given?;
    let scope = match given.value.as_str() {
        "operator" => Scope::Operator,
        "read" => Scope::Read,
        other => {
            let problem = match other {
                "holder" => "which this release does not have, ",
                _ => "",
            };
            let problem = format!("`auth.token.scope` is {other:?}, {problem}{ANY_SCOPE}");
            section.refuse(given.origin, problem);
            return None;
        }
    };
    if let Some(origin) = holder {
        let scope = given.value;
        let problem = format!(
            "`auth.token.holder` is for the scope `holder`, expected none beside `{scope}`"
        );
        section.refuse(origin, problem);
    }
    Some(scope)
}

/// The secret, which is in no message.
fn read_secret(section: &mut Section<'_, '_>, base: &Path, env: &Env<'_>) -> Option<Secret> {
    if !section.has("token_file") && !section.has("token_env") {
        let problem = "a token has no secret, expected `token_file` or `token_env`";
        section.refuse(section.origin, problem);
    }
    let (file, variable) = (section.string("token_file"), section.string("token_env"));
    let text = match (file, variable) {
        (Some(_), Some(variable)) => {
            let problem =
                "`auth.token.token_env` is given beside `token_file`, expected one of them";
            section.refuse(variable.origin, problem);
            return None;
        }
        (Some(file), None) => read_file(section, file, base)?,
        (None, Some(variable)) => read_variable(section, variable, env)?,
        (None, None) => return None,
    };
    match Secret::new(&text.value) {
        Ok(secret) => Some(secret),
        Err(error) => {
            section.refuse(text.origin, error.to_string());
            None
        }
    }
}

fn read_variable(
    section: &Section<'_, '_>,
    name: Given<String>,
    env: &Env<'_>,
) -> Option<Given<String>> {
    let problem = match env.get(&name.value).map(std::ffi::OsString::into_string) {
        Some(Ok(secret)) => return Some(name.map(|_| secret)),
        Some(Err(_)) => "is not UTF-8",
        None => "is not set",
    };
    let variable = name.value;
    let problem = format!(
        "`auth.token.token_env` names {variable:?}, which {problem}, expected a secret in it"
    );
    section.refuse(name.origin, problem);
    None
}

fn read_file(section: &Section<'_, '_>, path: Given<String>, base: &Path) -> Option<Given<String>> {
    let origin = path.origin;
    let path = base.join(path.value);
    let shown = path.display();
    match open(&path) {
        Ok((text, is_exposed)) => {
            if is_exposed {
                let warning = format!(
                    "`auth.token.token_file`: every user of this machine may open {shown}, expected \
                     mode 0600"
                );
                section.warn(origin, warning);
            }
            let line = text.strip_suffix("\r\n");
            let text = line.or(text.strip_suffix('\n')).unwrap_or(&text);
            Some(Given::new(text.to_owned(), origin))
        }
        Err(error) => {
            let problem = format!(
                "`auth.token.token_file`: {shown} can't be read, expected a secret in it: {error}"
            );
            section.refuse(origin, problem);
            None
        }
    }
}

/// What the file holds, and whether it is open to every user.
fn open(path: &Path) -> io::Result<(String, bool)> {
    let file = File::open(path)?;
    let is_exposed = is_exposed(&file)?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok((text, is_exposed))
}

#[cfg(unix)]
fn is_exposed(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    // To read it or to put another in its place.
    Ok(file.metadata()?.permissions().mode() & 0o006 != 0)
}

#[cfg(not(unix))]
fn is_exposed(_: &File) -> io::Result<bool> {
    Ok(false)
}
