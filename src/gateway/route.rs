//! Routes: what the router and the API's description are both held against.

use std::collections::BTreeMap;

use actix_web::guard::{Any, Get, Head};
use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};
use actix_web::{FromRequest, Handler, Resource, Responder, Route};

use super::problem::Problem;

/// A request that the gateway answers.
pub(super) struct Endpoint {
    /// Where, with names in braces: `/v1/sessions/{id}`.
    pub(super) path: &'static str,
    /// How. HEAD goes with GET.
    pub(super) method: Method,
    route: Route,
}

/// What is read. HEAD is answered like GET, and the server leaves the body out.
pub(super) fn get<F, Args>(path: &'static str, handler: F) -> Endpoint
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Endpoint {
        path,
        method: Method::GET,
        route: web::route().guard(Any(Get()).or(Head())).to(handler),
    }
}

/// What changes something.
pub(super) fn post<F, Args>(path: &'static str, handler: F) -> Endpoint
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Endpoint {
        path,
        method: Method::POST,
        route: web::post().to(handler),
    }
}

/// What lets go of something.
pub(super) fn delete<F, Args>(path: &'static str, handler: F) -> Endpoint
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Endpoint {
        path,
        method: Method::DELETE,
        route: web::delete().to(handler),
    }
}

/// Puts `endpoints` into the router: those at one path together, with a refusal of all other
/// methods.
pub(super) fn register(config: &mut ServiceConfig, endpoints: Vec<Endpoint>) {
    let mut paths: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        paths.entry(endpoint.path).or_default().push(endpoint);
    }
    for (path, endpoints) in paths {
        config.service(resource(path, endpoints));
    }
}

fn resource(path: &str, endpoints: Vec<Endpoint>) -> Resource {
    let allow = allow(&endpoints);
    let refuse = move || {
        let refusal = Problem::method_not_allowed(allow.clone());
        async move { Err::<&str, _>(refusal) }
    };
    let resource = web::resource(path).default_service(web::to(refuse));
    let routes = endpoints.into_iter().map(|endpoint| endpoint.route);
    routes.fold(resource, Resource::route)
}

/// The methods of what is at one path, as the header `Allow` names them.
fn allow(endpoints: &[Endpoint]) -> String {
    let methods = endpoints.iter().map(|endpoint| match endpoint.method {
        Method::GET => "GET, HEAD",
        ref other => other.as_str(),
    });
    methods.collect::<Vec<_>>().join(", ")
}
