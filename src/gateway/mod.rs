//! The gateway: the HTTP API over a [`SessionSupervisor`], for programs in any language.
//!
//! It owns no logic that the handle lacks: a request is checked, put into the handle's words, and
//! the answer into JSON. Whatever is refused is answered with a problem document, and refusals are
//! decided in one order, from what costs least and matters most:
//!
//! | what is looked at | where |
//! |---|---|
//! | whether it is HTTP at all | `connection` |
//! | `Host`, `Origin`, token | `guard` |
//! | route, method | here |
//! | content type, size, scope | `body` |
//! | JSON, fields | `body`, `target` and the handler |
//! | what it means | the handle |

mod access;
mod body;
mod bulk;
mod connection;
mod dead_letters;
mod guard;
mod health;
mod page;
mod plugins;
mod pointer;
mod problem;
mod server;
mod sessions;
mod stop;
mod target;

use actix_web::guard::{Any, Get, Head};
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{Resource, Route};

pub use self::access::{Access, InvalidSecret, Scope, Secret, Token};
use self::problem::{Kind, Problem};
pub use self::server::Gateway;
use crate::supervisor::SessionSupervisor;

/// Every request that the gateway answers.
fn routes(config: &mut ServiceConfig, supervisor: SessionSupervisor, access: Access) {
    let list = read().to(sessions::list);
    let start = web::post().to(sessions::start);
    let show = read().to(sessions::show);
    let touch = web::post().to(sessions::touch);
    let end = web::post().to(sessions::end);

    let bulk_end = web::post().to(bulk::end);
    let shut_down = web::post().to(stop::shut_down);
    let last_report = read().to(stop::last_report);
    let plugins = read().to(plugins::list);
    let reload = web::post().to(plugins::reload);
    let test = web::post().to(plugins::test);
    let resume = web::post().to(plugins::resume);
    let dead = read().to(dead_letters::list);
    let delete_dead = web::delete().to(dead_letters::delete);
    let redeliver = web::post().to(dead_letters::redeliver);

    config
        .app_data(Data::new(supervisor))
        .app_data(Data::new(access))
        .service(resource("/healthz", READ, [read().to(health::alive)]))
        .service(resource("/readyz", READ, [read().to(health::ready)]))
        .service(resource("/v1/sessions", "GET, HEAD, POST", [list, start]))
        .service(resource("/v1/sessions/{id}", READ, [show]))
        .service(resource("/v1/sessions/{id}/touch", "POST", [touch]))
        .service(resource("/v1/sessions/{id}/end", "POST", [end]))
        .service(resource("/v1/bulk-end", "POST", [bulk_end]))
        .service(resource("/v1/plugins", READ, [plugins]))
        .service(resource("/v1/plugins/reload", "POST", [reload]))
        .service(resource("/v1/plugins/{name}/test", "POST", [test]))
        .service(resource("/v1/plugins/{name}/resume", "POST", [resume]))
        .service(resource(
            "/v1/plugins/{name}/dead-letters",
            "GET, HEAD, DELETE",
            [dead, delete_dead],
        ))
        .service(resource(
            "/v1/plugins/{name}/redeliver",
            "POST",
            [redeliver],
        ))
        .service(resource("/v1/shutdown", "POST", [shut_down]))
        .service(resource("/v1/reports/last", READ, [last_report]))
        .default_service(web::to(not_found));
}

/// The methods of what can only be read.
const READ: &str = "GET, HEAD";

/// A route for what is read. HEAD is answered like GET, and the server leaves the body out.
fn read() -> Route {
    web::route().guard(Any(Get()).or(Head()))
}

/// What is at `path`: `routes` for the methods `allow`, and a refusal of all others.
fn resource<const N: usize>(path: &str, allow: &'static str, routes: [Route; N]) -> Resource {
    let refuse = move || async move { Err::<&str, _>(Problem::method_not_allowed(allow)) };
    let resource = web::resource(path).default_service(web::to(refuse));
    routes.into_iter().fold(resource, Resource::route)
}

async fn not_found() -> Result<&'static str, Problem> {
    Err(Problem::new(
        Kind::NotFound,
        "there is nothing at this path",
    ))
}
