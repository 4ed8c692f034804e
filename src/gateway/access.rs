//! Who may ask, and what for: bearer tokens and their scopes.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq};

use super::problem::{Kind, Problem};
use crate::session::HolderId;

/// How long a secret may be, in bytes. A shorter one could be guessed over the network.
const SECRET_BYTES: RangeInclusive<usize> = 16..=4096;

/// Who may use a [`Gateway`](crate::Gateway).
///
/// # Examples
///
/// ```
/// use session_supervisor::{Access, Scope, Secret, Token};
///
/// # fn main() -> Result<(), session_supervisor::InvalidSecret> {
/// let operator = Token::new("ops", Scope::Operator, Secret::new("3vNbQq0aTjXoYk2m")?);
/// let dashboard = Token::new("dashboard", Scope::Read, Secret::new("f81Lw5ZcRr7uPe9d")?);
/// let access = Access::tokens([operator, dashboard]);
/// assert!(!format!("{access:?}").contains("3vNbQq0aTjXoYk2m"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Access {
    /// None where none is needed.
    tokens: Option<Arc<[Token]>>,
}

impl Access {
    /// Every program of this machine may do everything, and no web page that a browser on it shows
    /// may do anything. The listeners must be on loopback addresses.
    pub fn loopback() -> Self {
        Self { tokens: None }
    }

    /// Whoever sends one of these tokens, as `Authorization: Bearer …`, may do what its scope
    /// allows; where two have the same secret, that of the first. Without any token nobody may do
    /// anything.
    ///
    /// The listeners may be on any address. Tokens are sent as they are, so put TLS in front where
    /// that is not a loopback one.
    pub fn tokens(tokens: impl IntoIterator<Item = Token>) -> Self {
        Self {
            tokens: Some(tokens.into_iter().collect()),
        }
    }

    /// Whether other machines may be listened to.
    pub(super) fn has_token(&self) -> bool {
        self.tokens
            .as_ref()
            .is_some_and(|tokens| !tokens.is_empty())
    }

    /// Whether every request needs a token.
    pub(super) fn needs_token(&self) -> bool {
        self.tokens.is_some()
    }

    /// Who asks, as the values of the `Authorization` headers say.
    pub(super) fn caller<'h>(
        &self,
        mut authorization: impl Iterator<Item = &'h [u8]>,
    ) -> Result<Caller, Problem> {
        let Some(tokens) = &self.tokens else {
            return Ok(Caller::Local);
        };
        let (Some(credentials), None) = (authorization.next(), authorization.next()) else {
            return Err(unauthorized(
                "send one header `Authorization: Bearer TOKEN`",
            ));
        };
        let Some(secret) = bearer(credentials) else {
            return Err(unauthorized(
                "use the scheme of `Authorization: Bearer TOKEN`",
            ));
        };
        let secret = Secret::digest(secret);
        // Every token is compared, so that the time tells nothing about which one is near.
        let mut found = u64::MAX;
        for (index, token) in tokens.iter().enumerate().rev() {
            found.conditional_assign(&(index as u64), token.secret.ct_eq(&secret));
        }
        let token = usize::try_from(found)
            .ok()
            .and_then(|found| tokens.get(found));
        let token = token.ok_or_else(|| unauthorized("the token is unknown"))?;
        Ok(Caller::Bearer(token.clone()))
    }
}

/// What follows the scheme `Bearer`, which may be written in any case.
fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = credentials.split_at_checked("Bearer".len())?;
    let secret = rest.trim_ascii_start();
    (scheme.eq_ignore_ascii_case(b"Bearer") && secret.len() < rest.len()).then_some(secret)
}

fn unauthorized(detail: &'static str) -> Problem {
    Problem::new(Kind::Unauthorized, detail)
}

/// A token that opens a gateway.
#[derive(Debug, Clone)]
pub struct Token {
    name: Arc<str>,
    scope: Scope,
    secret: Secret,
}

impl Token {
    /// A token whose bearer may do what `scope` allows. Messages call it `name`.
    pub fn new(name: impl Into<Arc<str>>, scope: Scope, secret: Secret) -> Self {
        Self {
            name: name.into(),
            scope,
            secret,
        }
    }
}

/// What the bearer of a token may do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// Everything.
    Operator,
    /// Every GET, which changes nothing.
    Read,
    /// The sessions and the lease of this holder, and nothing else.
    Holder(HolderId),
}

/// The secret of a token. Only its digest is kept, so that nothing can show it.
#[derive(Clone, Copy)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A secret of 16 to 4096 visible ASCII characters, without spaces.
    ///
    /// # Errors
    ///
    /// The text is something else: it would be guessed, or could not be sent in a header.
    pub fn new(text: &str) -> Result<Self, InvalidSecret> {
        if !SECRET_BYTES.contains(&text.len()) {
            return Err(InvalidSecret::Length(text.len()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidSecret::Characters);
        }
        Ok(Self::digest(text.as_bytes()))
    }

    fn digest(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }
}

impl ConstantTimeEq for Secret {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(_)")
    }
}

/// Why a text can't be the [`Secret`] of a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSecret {
    /// It has this many bytes.
    #[error(
        "the secret is {0} bytes long, expected {least} to {most}",
        least = SECRET_BYTES.start(),
        most = SECRET_BYTES.end()
    )]
    Length(usize),
    /// It has other characters than visible ASCII.
    #[error("the secret has spaces, line breaks or characters beyond ASCII, expected none of them")]
    Characters,
}

/// On whose behalf a request is made.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// A program of this machine, where that is enough.
    Local,
    /// The bearer of a token.
    Bearer(Token),
}

impl Caller {
    /// Whether it may change anything.
    pub(super) fn check_change(&self) -> Result<(), Problem> {
        let Self::Bearer(Token { name, scope, .. }) = self else {
            return Ok(());
        };
        let detail = match scope {
            Scope::Operator => return Ok(()),
            Scope::Read => format!(
                "the token `{name}` has the scope `read`, which changes nothing: use one of scope \
                 `operator`"
            ),
            Scope::Holder(holder) => format!(
                "the token `{name}` is for the sessions and the lease of holder `{holder}` alone"
            ),
        };
        Err(Problem::new(Kind::Forbidden, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPS: &str = "operator-0123456789";
    const DASHBOARD: &str = "dashboard-0123456789";

    fn token(name: &str, scope: Scope, secret: &str) -> Token {
        Token::new(name, scope, Secret::new(secret).unwrap())
    }

    fn access() -> Access {
        Access::tokens([
            token("ops", Scope::Operator, OPS),
            token("dashboard", Scope::Read, DASHBOARD),
            token("again", Scope::Read, OPS),
        ])
    }

    /// The name of the token that the headers carry, or why they are refused.
    fn caller(headers: &[&str]) -> Result<String, String> {
        let headers = headers.iter().map(|value| value.as_bytes());
        match access()
            .caller(headers)
            .map_err(|problem| problem.to_string())?
        {
            Caller::Bearer(token) => Ok(token.name.to_string()),
            Caller::Local => Ok(String::new()),
        }
    }

    #[test]
    fn a_token_is_found_by_its_secret() {
        for (header, name) in [
            (format!("Bearer {OPS}"), "ops"),
            (format!("bearer  {OPS}"), "ops"),
            (format!("BEARER {DASHBOARD}"), "dashboard"),
        ] {
            assert_eq!(caller(&[&header]).as_deref(), Ok(name), "{header}");
        }
    }

    #[test]
    fn everything_else_is_unauthorized() {
        let good = format!("Bearer {OPS}");
        for headers in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &[OPS],
            &[&format!("Basic {OPS}")],
            &[&format!("Bearer{OPS}")],
            &[&format!("Bearer {OPS}x")],
            &[&format!("Bearer {}", &OPS[1..])],
            &[&format!("Bearer {}", OPS.to_uppercase())],
            &[&format!("Bearer {OPS},{DASHBOARD}")],
            &[&good, &good],
        ] {
            let refusal = caller(headers).unwrap_err();
            assert!(
                refusal.starts_with("unauthorized: "),
                "{headers:?}: {refusal}"
            );
            assert!(!refusal.contains(OPS), "{refusal}");
        }
    }

    #[test]
    fn without_any_token_nobody_is_let_in() {
        let nobody = Access::tokens([]);
        assert!(nobody.needs_token() && !nobody.has_token());
        let header = format!("Bearer {OPS}");
        assert!(nobody.caller([header.as_bytes()].into_iter()).is_err());
    }

    #[test]
    fn on_loopback_no_token_is_needed() {
        let caller = Access::loopback().caller(std::iter::empty()).unwrap();
        assert_eq!(caller.check_change(), Ok(()));
    }

    #[test]
    fn only_an_operator_may_change_something() {
        let may_change = |scope| Caller::Bearer(token("a", scope, OPS)).check_change();
        assert_eq!(may_change(Scope::Operator), Ok(()));
        let refusal = may_change(Scope::Read).unwrap_err().to_string();
        assert!(
            refusal.starts_with("forbidden: the token `a` "),
            "{refusal}"
        );
    }

    #[test]
    fn a_secret_that_is_too_short_or_can_not_be_sent_is_refused() {
        let refusal = |text: &str| Secret::new(text).unwrap_err().to_string();
        let expected = "the secret is 15 bytes long, expected 16 to 4096";
        assert_eq!(refusal(&"x".repeat(15)), expected);
        assert!(refusal(&"x".repeat(4097)).contains("4097 bytes"));
        for text in [
            "a secret with spaces",
            "0123456789abcdef\n",
            "0123456789abcde\u{e4}",
        ] {
            assert!(refusal(text).contains("line breaks"), "{text:?}");
        }
        assert!(Secret::new(&"x".repeat(16)).is_ok());
        assert!(Secret::new(&"x".repeat(4096)).is_ok());
    }

    #[test]
    fn no_secret_is_shown() {
        let shown = format!("{:?} {:?}", access(), access().tokens);
        assert!(shown.contains("dashboard"), "{shown}");
        for part in [&OPS[..8], &DASHBOARD[10..]] {
            assert!(!shown.contains(part), "{shown}");
        }
        assert!(shown.contains("Secret(_)"), "{shown}");
    }
}
