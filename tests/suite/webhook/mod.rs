//! Webhooks, sent to a receiver over TLS that verifies each signature by an implementation that is not
//! ours. In real time: connections have a clock of their own.

mod failures;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use session_supervisor::testing::{Recording, recorder};
use session_supervisor::{
    DeliveryPolicy, EndReason, Hooks, PluginSpec, PluginStatus, SessionSupervisor, Shutdown,
    WebhookBody, WebhookPlugin, WebhookSettings,
};
use tokio::time::{sleep, timeout};

use crate::receiver::{Address, Answer, Receiver, SECRETS};
use crate::support::Shorthand;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many sessions a test starts and ends, where more would show nothing else.
const SESSIONS: usize = 2;

fn policy() -> DeliveryPolicy {
    let mut policy = DeliveryPolicy::default();
    policy.timeout = Duration::from_secs(1);
    policy.backoff = Duration::from_millis(5);
    policy.backoff_max = Duration::from_millis(20);
    policy.max_attempts = 3;
    policy.max_batch = 1;
    policy.max_in_flight = 4;
    policy
}

fn settings(address: &Address) -> WebhookSettings {
    let settings = WebhookSettings::new(&address.url()).unwrap();
    let settings = settings.with_secrets(SECRETS).unwrap();
    settings
        .with_authorities(address.authority().as_bytes())
        .unwrap()
}

/// A supervisor that tells a webhook, and beside it a plugin that nothing happens to.
struct Running {
    supervisor: SessionSupervisor,
    told: Recording,
}

async fn start_with(settings: WebhookSettings, policy: DeliveryPolicy) -> Running {
    let plugin = PluginSpec::new("crm", move || WebhookPlugin::new(settings.clone()));
    let (recorder, told) = recorder("audit");
    let builder = SessionSupervisor::builder()
        .plugin(plugin.with_policy(policy))
        .plugin(recorder);
    let supervisor = builder.start().await.unwrap();
    Running { supervisor, told }
}

async fn start(address: &Address) -> Running {
    start_with(settings(address), policy()).await
}

impl Running {
    /// Starts and ends so many sessions, and answers the ids of their events.
    async fn live(&self, sessions: usize) -> BTreeSet<String> {
        for n in 0..sessions {
            let id = format!("s{n}");
            self.supervisor.begin(&id).await;
            self.supervisor.finish(&id, EndReason::Completed).await;
        }
        let all = self.told.wait_for(2 * sessions);
        timeout(PATIENCE, all).await.unwrap();
        let events = self.told.events();
        events.iter().map(|event| event.id().to_string()).collect()
    }

    /// How the webhook is, once it is so.
    async fn until(&self, is_so: impl Fn(&PluginStatus) -> bool) -> PluginStatus {
        let began = Instant::now();
        loop {
            let status = self.supervisor.plugins().await.unwrap().remove(0);
            if is_so(&status) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{status:?}");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// How it is when it is owed nothing.
    async fn settled(&self) -> PluginStatus {
        self.until(|status| status.owed == 0).await
    }

    async fn stop(self) {
        let down = self.supervisor.shutdown(Shutdown::now());
        timeout(PATIENCE, down).await.unwrap().unwrap();
    }
}

/// A receiver that answers `first` to the first request with an event, and takes it after that.
fn wrong_once(first: Answer) -> Receiver {
    let seen = Mutex::new(BTreeSet::new());
    Receiver::start(move |request| {
        let is_new = |id| seen.lock().unwrap().insert(id);
        let new = request.event_ids().into_iter().map(is_new);
        match new.collect::<Vec<_>>().contains(&true) {
            true => first.clone(),
            false => Answer::Status(204),
        }
    })
}

#[tokio::test]
async fn an_event_is_a_signed_request_under_its_own_id() {
    let receiver = Receiver::start(|_| Answer::Status(200));
    let settings = settings(receiver.address());
    let settings = settings
        .with_headers("Authorization: Bearer s3cret\nX-Team: a")
        .unwrap();
    let running = start_with(settings, policy()).await;
    let ids = running.live(1).await;
    running.settled().await;
    let requests = receiver.requests();
    assert_eq!(requests.len(), 2);
    for (request, hook) in requests.iter().zip(["session_start", "session_end"]) {
        assert_eq!(request.body["type"], hook);
        assert_eq!(request.body["attempt"], 1);
        let remaining = request.body["remaining_ms"].as_u64().unwrap();
        assert!((1..=1000).contains(&remaining), "{remaining}");
        assert_eq!(request.header("webhook-id"), request.body["event_id"]);
        assert_eq!(
            request.header("webhook-signature").matches("v1,").count(),
            2
        );
        assert_eq!(request.header("authorization"), "Bearer s3cret");
        assert_eq!(request.header("x-team"), "a");
        let agent = request.header("user-agent");
        assert!(agent.starts_with("session-supervisor/"), "{agent}");
    }
    assert_eq!(receiver.event_ids(), ids);
}

#[tokio::test]
async fn a_batch_has_one_id_however_often_it_is_sent() {
    let seen = Mutex::new(BTreeSet::new());
    let receiver = Receiver::start(move |request| {
        let ids = request.event_ids();
        // Those that come alone are taken: one that has the plugin down by itself would make the others
        // come alone, too.
        match ids.len() > 1 && seen.lock().unwrap().insert(ids) {
            true => Answer::Status(503),
            false => Answer::Status(204),
        }
    });
    let mut policy = policy();
    policy.max_batch = 100;
    policy.max_in_flight = 1;
    let settings = settings(receiver.address()).with_body(WebhookBody::Batch);
    let running = start_with(settings, policy).await;
    let ids = running.live(50).await;
    running.settled().await;
    let mut batches = BTreeMap::<_, Vec<_>>::new();
    for request in receiver.requests() {
        assert_eq!(request.body["type"], "session_batch");
        let sent = batches.entry(request.header("webhook-id").to_owned());
        sent.or_default().push(request.event_ids());
    }
    let of_several = batches.iter().filter(|(_, sent)| sent[0].len() > 1);
    assert!(of_several.clone().count() > 0, "no batch of several");
    for (id, sent) in of_several {
        assert!(sent.len() == 2 && sent[0] == sent[1], "{id}: {sent:?}");
    }
    assert_eq!(BTreeSet::from_iter(receiver.taken()), ids);
}

#[tokio::test]
async fn connections_are_used_again() {
    let receiver = Receiver::start(|_| {
        Answer::Whole("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone".into())
    });
    let running = start(receiver.address()).await;
    let ids = running.live(100).await;
    running.settled().await;
    let requests = receiver.requests();
    assert_eq!(requests.len(), ids.len());
    let connections: BTreeSet<_> = requests.iter().map(|request| request.connection).collect();
    // One may be on its way back when the next request is made.
    let most = 2 * policy().max_in_flight;
    assert!(connections.len() <= most, "{connections:?}");
}

/// Which sessions are being told of, and how many at once there have been.
#[derive(Default)]
struct UnderWay {
    sessions: Vec<String>,
    most: usize,
    doubled: bool,
}

#[tokio::test]
async fn g3_sessions_go_side_by_side_and_one_in_order() {
    let under_way = Arc::<Mutex<UnderWay>>::default();
    let watched = Arc::clone(&under_way);
    let receiver = Receiver::start(move |request| {
        let id = request.body["session"]["id"].as_str().unwrap();
        {
            let mut now = watched.lock().unwrap();
            now.doubled |= now.sessions.iter().any(|it| it == id);
            now.sessions.push(id.to_owned());
            now.most = now.most.max(now.sessions.len());
        }
        // Time for others to come meanwhile.
        std::thread::sleep(Duration::from_millis(20));
        watched.lock().unwrap().sessions.retain(|it| it != id);
        Answer::Status(204)
    });
    let running = start(receiver.address()).await;
    let ids = running.live(20).await;
    running.settled().await;
    let taken = receiver.taken();
    assert_eq!(taken.len(), ids.len());
    for end in taken.iter().filter(|id| id.ends_with("end")) {
        let start = end.replace("end", "start");
        let place = |id: &str| taken.iter().position(|it| it == id);
        assert!(place(&start) < place(end), "{end}: {taken:?}");
    }
    let under_way = under_way.lock().unwrap();
    assert!(!under_way.doubled, "two events of one session at once");
    assert!((2..=4).contains(&under_way.most), "{}", under_way.most);
}

#[tokio::test]
async fn lifecycle_events_are_sent_too() {
    let receiver = Receiver::start(|_| Answer::Status(204));
    let settings = settings(receiver.address());
    let plugin = PluginSpec::new("crm", move || WebhookPlugin::new(settings.clone()));
    let plugin = plugin.with_policy(policy()).with_hooks(Hooks::ALL);
    let builder = SessionSupervisor::builder().plugin(plugin);
    // Patient, for a machine that has much to do.
    let builder = builder.cap(PATIENCE).lifecycle_timeout(PATIENCE / 4);
    let supervisor = builder.start().await.unwrap();
    supervisor.begin("A").await;
    let began = Instant::now();
    while receiver.requests().len() < 2 {
        assert!(began.elapsed() < PATIENCE, "{:?}", receiver.requests());
        sleep(Duration::from_millis(2)).await;
    }
    supervisor.shutdown(Shutdown::now()).await.unwrap();
    let requests = receiver.requests();
    let hooks: BTreeSet<_> = requests
        .iter()
        .map(|it| it.body["type"].as_str().unwrap())
        .collect();
    let expected = [
        "gateway_start",
        "gateway_shutdown",
        "session_start",
        "session_end",
    ];
    assert_eq!(hooks, BTreeSet::from(expected));
    for request in &requests {
        assert_eq!(request.header("webhook-id"), request.body["event_id"]);
    }
}
