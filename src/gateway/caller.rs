//! On whose behalf a request is made, and what that may ask for.
//!
//! A token of scope `holder` opens few requests, and of those only what is its holder's own. Which
//! requests is said where the routes are listed, and decided before their handlers run; what is its
//! own the handlers see to.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};

use super::access::{Scope, Token};
use super::problem::{Kind, Problem};
use crate::session::HolderId;

/// On whose behalf a request is made. [`guard`](super::guard) leaves it with the request.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// A program of this machine, where that is enough.
    Local,
    /// The bearer of a token.
    Bearer(Token),
}

impl Caller {
    /// Whether it may use a route with `method`, which is open to holders or not.
    pub(super) fn check_route(&self, method: &Method, is_for_holders: bool) -> Result<(), Problem> {
        let Self::Bearer(token) = self else {
            return Ok(());
        };
        match token.scope() {
            Scope::Operator => Ok(()),
            Scope::Read if method == Method::GET => Ok(()),
            Scope::Read => {
                let name = token.name();
                let detail = format!(
                    "the token `{name}` has the scope `read`, which changes nothing: use one of \
                     scope `operator`"
                );
                Err(Problem::new(Kind::Forbidden, detail))
            }
            Scope::Holder(_) if is_for_holders => Ok(()),
            Scope::Holder(holder) => Err(not_its_own(token, holder)),
        }
    }

    /// The holder whose sessions and lease alone it may see and change; none where it may all.
    pub(super) fn holder(&self) -> Option<&HolderId> {
        match self {
            Self::Local => None,
            Self::Bearer(token) => match token.scope() {
                Scope::Operator | Scope::Read => None,
                Scope::Holder(holder) => Some(holder),
            },
        }
    }

    /// Refuses what is of another holder than its own, or of none.
    pub(super) fn check_holder(&self, of: Option<&HolderId>) -> Result<(), Problem> {
        match self {
            Self::Bearer(token) => match token.scope() {
                Scope::Holder(own) if of != Some(own) => Err(not_its_own(token, own)),
                _ => Ok(()),
            },
            Self::Local => Ok(()),
        }
    }

    /// The holder that a request is about which names this one, or none: its own, where it has one.
    pub(super) fn implied(&self, named: Option<HolderId>) -> Result<Option<HolderId>, Problem> {
        let Some(own) = self.holder() else {
            return Ok(named);
        };
        if named.is_some() {
            self.check_holder(named.as_ref())?;
        }
        Ok(Some(own.clone()))
    }
}

fn not_its_own(token: &Token, holder: &HolderId) -> Problem {
    let name = token.name();
    let detail =
        format!("the token `{name}` is for the sessions and the lease of holder `{holder}` alone");
    Problem::new(Kind::Forbidden, detail)
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = request.extensions().get::<Self>().cloned();
        ready(caller.ok_or_else(|| Problem::new(Kind::Forbidden, "nobody is known to ask")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::Secret;

    fn bearer(scope: Scope) -> Caller {
        let secret = Secret::new("0123456789abcdef").unwrap();
        Caller::Bearer(Token::new("a", scope, secret))
    }

    fn holder(name: &str) -> HolderId {
        HolderId::new(name).unwrap()
    }

    #[test]
    fn a_scope_opens_its_routes_and_no_others() {
        let (local, operator) = (Caller::Local, bearer(Scope::Operator));
        let (reader, own) = (bearer(Scope::Read), bearer(Scope::Holder(holder("h"))));
        for (method, for_holders, open_to_reader) in [
            (Method::GET, false, true),
            (Method::GET, true, true),
            (Method::POST, false, false),
            (Method::POST, true, false),
            (Method::PUT, true, false),
            (Method::DELETE, false, false),
        ] {
            let opens = |caller: &Caller| caller.check_route(&method, for_holders).is_ok();
            assert!(opens(&local) && opens(&operator), "{method}");
            assert_eq!(opens(&reader), open_to_reader, "{method}");
            assert_eq!(opens(&own), for_holders, "{method}");
        }
        let refusal = own.check_route(&Method::GET, false).unwrap_err();
        let refusal = refusal.to_string();
        assert!(
            refusal.starts_with("forbidden: the token `a` "),
            "{refusal}"
        );
    }

    #[test]
    fn a_token_of_a_holder_implies_it() {
        let own = bearer(Scope::Holder(holder("h")));
        assert_eq!(own.implied(None), Ok(Some(holder("h"))));
        assert_eq!(own.implied(Some(holder("h"))), Ok(Some(holder("h"))));
        assert!(own.implied(Some(holder("other"))).is_err());
        for free in [Caller::Local, bearer(Scope::Operator)] {
            assert_eq!(free.implied(None), Ok(None));
            let other = Some(holder("other"));
            assert_eq!(free.implied(other.clone()), Ok(other));
        }
    }

    #[test]
    fn what_is_of_no_holder_is_not_its_own() {
        let own = bearer(Scope::Holder(holder("h")));
        assert_eq!(own.check_holder(Some(&holder("h"))), Ok(()));
        assert!(own.check_holder(Some(&holder("other"))).is_err());
        assert!(own.check_holder(None).is_err());
        assert_eq!(bearer(Scope::Operator).check_holder(None), Ok(()));
    }
}
