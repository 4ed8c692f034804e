//! Routes: what the router and the API's description are both held against.

use std::collections::BTreeSet;

use actix_web::guard::{Any, Get, Head, fn_guard};
use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};
use actix_web::{FromRequest, Handler, HttpMessage as _, HttpRequest, Resource, Responder, Route};

use super::caller::Caller;
use super::guard::HEALTH;
use super::problem::{Kind, Problem};

/// A request that the gateway answers.
pub(super) struct Endpoint {
    /// Where, with names in braces: `/v1/sessions/{id}`.
    pub(super) path: &'static str,
    /// How. HEAD goes with GET.
    pub(super) method: Method,
    /// Whether it is open to tokens of scope `holder`, to which it shows its own alone.
    pub(super) is_for_holders: bool,
    route: Route,
}

/// Whether the caller may make the request at all. For what changes something its handler looks, since
/// faults of its head are told first.
#[derive(Debug)]
pub(super) struct Permission(pub(super) Result<(), Problem>);

impl Endpoint {
    fn new(path: &'static str, method: Method, route: Route) -> Self {
        Self {
            path,
            method,
            is_for_holders: false,
            route,
        }
    }

    /// Opens it to tokens of scope `holder`. Its handler shows and changes what is their own.
    pub(super) fn for_holders(self) -> Self {
        Self {
            is_for_holders: true,
            ..self
        }
    }

    /// The route, with the check of the caller's scope. A read that it does not cover is not taken, and so
    /// refused by the resource; of what changes something [`Body`](super::body::Body) refuses it, once
    /// that is its turn.
    fn into_route(self) -> Route {
        let Self {
            path,
            method,
            is_for_holders,
            route,
        } = self;
        let is_health_check = HEALTH.contains(&path);
        let is_read = method == Method::GET;
        route.guard(fn_guard(move |request| {
            let checked = match request.req_data().get::<Caller>() {
                Some(caller) => caller.check_route(&method, is_for_holders),
                None if is_health_check => Ok(()),
                None => Err(Problem::new(Kind::Forbidden, "it is not known who asks")),
            };
            if is_read && checked.is_ok() {
                // Nobody asks for it.
                return true;
            }
            request.req_data_mut().insert(Permission(checked));
            !is_read
        }))
    }
}

/// What is read. HEAD is answered like GET, and the server leaves the body out.
pub(super) fn get<F, Args>(path: &'static str, handler: F) -> Endpoint
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Endpoint::new(
        path,
        Method::GET,
        web::route().guard(Any(Get()).or(Head())).to(handler),
    )
}

/// What changes something.
pub(super) fn post<F, Args>(path: &'static str, handler: F) -> Endpoint
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Endpoint::new(path, Method::POST, web::post().to(handler))
}

/// What says how something is, in place of what was said of it before.
pub(super) fn put<F, Args>(path: &'static str, handler: F) -> Endpoint
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Endpoint::new(path, Method::PUT, web::put().to(handler))
}

/// What lets go of something.
pub(super) fn delete<F, Args>(path: &'static str, handler: F) -> Endpoint
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Endpoint::new(path, Method::DELETE, web::delete().to(handler))
}

/// Puts `endpoints` into the router, which tries their paths in this order: those at one path together,
/// with a refusal of all other methods.
pub(super) fn register(config: &mut ServiceConfig, endpoints: Vec<Endpoint>) {
    // Who would delete something that can only end is told so.
    let ends = endpoints
        .iter()
        .filter_map(|it| it.path.strip_suffix("/end"));
    let can_end: BTreeSet<_> = ends.collect();
    let mut paths: Vec<(&str, Vec<Endpoint>)> = Vec::new();
    for endpoint in endpoints {
        match paths.iter_mut().find(|(path, _)| *path == endpoint.path) {
            Some((_, there)) => there.push(endpoint),
            None => paths.push((endpoint.path, vec![endpoint])),
        }
    }
    for (path, endpoints) in paths {
        config.service(resource(path, endpoints, can_end.contains(path)));
    }
}

fn resource(path: &str, endpoints: Vec<Endpoint>, can_end: bool) -> Resource {
    let allow = allow(&endpoints);
    let refuse = move |request: HttpRequest| {
        let refusal = match request.extensions_mut().remove::<Permission>() {
            Some(Permission(Err(refusal))) => refusal,
            _ => Problem::method_not_allowed(allow.clone(), can_end),
        };
        async move { Err::<&str, _>(refusal) }
    };
    let resource = web::resource(pattern(path)).default_service(web::to(refuse));
    let routes = endpoints.into_iter().map(Endpoint::into_route);
    routes.fold(resource, Resource::route)
}

/// The router's pattern for a path. An empty holder is a wrong one and not another path: that is what
/// a program sends which was not told its name.
fn pattern(path: &str) -> String {
    path.replace("{holder}", "{holder:[^/]*}")
}

/// The methods of what is at one path, as the header `Allow` names them.
fn allow(endpoints: &[Endpoint]) -> String {
    let methods = endpoints.iter().map(|endpoint| match endpoint.method {
        Method::GET => "GET, HEAD",
        ref other => other.as_str(),
    });
    methods.collect::<Vec<_>>().join(", ")
}
