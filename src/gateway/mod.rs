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
//! | route, method, scope of what reads | here, `route`, `caller` |
//! | content type, size, scope | `body` |
//! | whether it is the caller's own | `caller` and the handler |
//! | JSON, fields | `body`, `target` and the handler |
//! | what it means | the handle |
//!
//! What each request takes and answers is said in an annotation at its handler, from which
//! [`openapi`] makes the API's description.

mod access;
mod answers;
mod body;
mod bulk;
mod caller;
mod connection;
mod dead_letters;
mod ends;
mod events;
mod exposition;
mod guard;
mod health;
mod hold;
mod holders;
mod metrics;
mod openapi;
mod page;
mod plugins;
mod pointer;
mod problem;
mod process;
mod refusals;
mod route;
mod schema;
mod server;
mod sessions;
mod silence;
mod stop;
mod stream;
mod target;

use actix_web::web::{self, Data, ServiceConfig};

pub use self::access::{Access, InvalidSecret, Scope, Secret, Token};
use self::answers::Answers;
use self::ends::Ends;
use self::metrics::LastShutdown;
use self::problem::{Kind, Problem};
use self::route::{Endpoint, delete, get, post, put};
pub use self::server::Gateway;
#[cfg(feature = "cli")]
pub(crate) use self::server::raise_file_limit;
use self::stop::Home;
use self::stream::Streams;
use crate::supervisor::SessionSupervisor;

/// What the handlers work with.
#[derive(Debug, Clone)]
struct Served {
    supervisor: SessionSupervisor,
    access: Access,
    streams: Streams,
    ends: Ends,
    answers: Answers,
    last_shutdown: LastShutdown,
    home: Home,
}

/// Every request that the gateway answers, with those first that come most often, since the router tries
/// one path after the other. [`openapi`] describes the same.
fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/v1/sessions", sessions::list).for_holders(),
        post("/v1/sessions", sessions::start).for_holders(),
        post("/v1/sessions/{id}/touch", sessions::touch).for_holders(),
        get("/v1/sessions/{id}", sessions::show).for_holders(),
        post("/v1/sessions/{id}/end", sessions::end).for_holders(),
        post("/v1/bulk-end", bulk::end).for_holders(),
        get("/v1/holders", holders::list).for_holders(),
        post("/v1/holders/{holder}/hold", holders::hold).for_holders(),
        post("/v1/holders/{holder}/heartbeat", holders::heartbeat).for_holders(),
        put("/v1/holders/{holder}/sessions", holders::reconcile).for_holders(),
        post("/v1/holders/{holder}/end", holders::end).for_holders(),
        get("/v1/plugins", plugins::list),
        post("/v1/plugins/reload", plugins::reload),
        post("/v1/plugins/{name}/test", plugins::test),
        post("/v1/plugins/{name}/resume", plugins::resume),
        get("/v1/plugins/{name}/dead-letters", dead_letters::list),
        delete("/v1/plugins/{name}/dead-letters", dead_letters::delete),
        post("/v1/plugins/{name}/redeliver", dead_letters::redeliver),
        get("/v1/events", events::follow).for_holders(),
        get("/healthz", health::alive),
        get("/readyz", health::ready),
        get("/openapi.json", openapi::show),
        get("/metrics", metrics::scrape),
        post("/v1/shutdown", stop::shut_down),
        get("/v1/reports/last", stop::last_report),
    ]
}

fn routes(config: &mut ServiceConfig, served: Served) {
    config
        .app_data(Data::new(served.supervisor))
        .app_data(Data::new(served.access))
        .app_data(Data::new(served.streams))
        .app_data(Data::new(served.ends))
        .app_data(Data::new(served.answers))
        .app_data(Data::new(served.last_shutdown))
        .app_data(Data::new(served.home))
        .default_service(web::to(not_found));
    route::register(config, endpoints());
}

async fn not_found() -> Result<&'static str, Problem> {
    Err(Problem::new(
        Kind::NotFound,
        "there is nothing at this path",
    ))
}
