//! Routes: what the router and the API's description are both held against.

use std::collections::BTreeSet;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::guard::{Any, Get, Head};
use actix_web::http::Method;
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, ServiceConfig};
use actix_web::{
    Error, FromRequest, Handler, HttpMessage as _, Resource, Responder, ResponseError as _, Route,
};

use super::caller::Caller;
use super::problem::Problem;

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

/// Whether the caller may make the request at all, for the handler of one that changes something:
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

    /// The route with its check of the caller's scope.
    fn into_route(self) -> Route {
        let Self {
            method,
            is_for_holders,
            route,
            ..
        } = self;
        let check = move |request: ServiceRequest, next: Next<BoxBody>| {
            let caller = request.extensions().get::<Caller>().cloned();
            // Health checks have none, and need none.
            let check = |caller: Caller| caller.check_route(&method, is_for_holders);
            check_scope(
                caller.map_or(Ok(()), check),
                method == Method::GET,
                request,
                next,
            )
        };
        route.wrap(from_fn(check))
    }
}

async fn check_scope(
    permission: Result<(), Problem>,
    is_read: bool,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    match permission {
        Err(refusal) if is_read => Ok(request.into_response(refusal.error_response())),
        permission => {
            request.extensions_mut().insert(Permission(permission));
            next.call(request).await
        }
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

/// What `can_end` has a path of its own for that, where those look who would delete it.
fn resource(path: &str, endpoints: Vec<Endpoint>, can_end: bool) -> Resource {
    let allow = allow(&endpoints);
    let refuse = move || {
        let refusal = Problem::method_not_allowed(allow.clone(), can_end);
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
