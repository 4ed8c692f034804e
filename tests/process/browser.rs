//! What a web page can do to a gateway without a token: nothing. Tried in a real browser.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gateway::{AUDITED, Gateway, json_lines};
use crate::tools::{is_installed, skip};

const PAGE: &str = include_str!("browser/page.html");

/// How long the page may take for all that it tries.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request as a server of the test got it.
struct Request {
    line: String,
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &TcpStream) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? <= "\r\n".len() {
                break;
            }
            let lower = header.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            // One request per connection, so that each comes to where it belongs.
            if lower.trim_end() != "connection: keep-alive" {
                head.push_str(&header);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(Self { line, head, body })
    }

    fn path(&self) -> &str {
        let target = self.line.split(' ').nth(1).unwrap_or_default();
        target.split('?').next().unwrap()
    }
}

/// Serves every connection on a thread of its own.
fn serve(
    answer: impl Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || {
                let request = Request::read(&stream)?;
                answer(&request, &mut stream)
            });
        }
    });
    address
}

fn respond(stream: &mut TcpStream, head: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// The site of the page. To the page it stands for the gateway too, as it would after its name was
/// resolved anew: what is not its own goes to `gateway` as the browser sent it.
fn site(gateway: SocketAddr, reports: Sender<Value>) -> SocketAddr {
    serve(move |request, stream| match request.path() {
        "/page" => respond(stream, "200 OK\r\nContent-Type: text/html", PAGE),
        "/report" => {
            let _ = reports.send(serde_json::from_slice(&request.body).unwrap());
            respond(stream, "204 No Content", "")
        }
        _ => {
            let mut gateway = TcpStream::connect(gateway)?;
            let Request { line, head, body } = request;
            gateway.write_all(format!("{line}{head}Connection: close\r\n\r\n").as_bytes())?;
            gateway.write_all(body)?;
            io::copy(&mut gateway, stream).map(drop)
        }
    })
}

/// A server that is open to every page, and the requests that it got.
fn open_server() -> (SocketAddr, Arc<Mutex<BTreeSet<String>>>) {
    const CORS: &str = "Access-Control-Allow-Origin: http://evil.test:PORT\r\n\
        Access-Control-Allow-Credentials: true\r\n\
        Access-Control-Allow-Methods: PUT, DELETE\r\n\
        Access-Control-Allow-Headers: content-type, authorization";
    let seen = Arc::<Mutex<BTreeSet<String>>>::default();
    let requests = seen.clone();
    let address = serve(move |request, stream| {
        let method = request.line.split(' ').next().unwrap();
        let path = request.path();
        requests.lock().unwrap().insert(format!("{method} {path}"));
        let headers = request.head.lines();
        let mut origins = headers.filter_map(|line| line.strip_prefix("Origin: http://evil.test:"));
        let cors = CORS.replace("PORT", origins.next().unwrap_or_default());
        let status = if path.ends_with("unknown") {
            "404 Not Found"
        } else {
            "200 OK"
        };
        let content = match path {
            "/v1/events" => "text/event-stream",
            _ => "text/css",
        };
        respond(
            stream,
            &format!("{status}\r\n{cors}\r\nContent-Type: {content}"),
            "{}",
        )
    });
    (address, seen)
}

/// A browser that shows one page. Killed when dropped, with all its processes.
struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
            ])
            .args(["--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--no-proxy-server"])
            // What newer browsers keep pages from is not what protects us.
            .arg("--disable-features=LocalNetworkAccessChecks")
            .arg("--host-resolver-rules=MAP *.test 127.0.0.1")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Self {
            child,
            _profile: profile,
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().try_into().unwrap());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// What the page tried, and what it could read of the answers.
#[derive(Debug)]
struct Report {
    tried: BTreeSet<String>,
    read: Vec<(String, String)>,
}

impl Report {
    fn wait(reports: &Receiver<Value>, url: &str) -> Self {
        let _browser = Browser::open(url);
        let report = reports
            .recv_timeout(PATIENCE)
            .expect("a report of the page");
        let strings =
            |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
        let read = report["read"].as_array().unwrap().iter();
        Self {
            tried: strings(&report["tried"]).into_iter().collect(),
            read: read
                .map(|entry| {
                    let [name, text] = strings(entry).try_into().unwrap();
                    (name, text)
                })
                .collect(),
        }
    }
}

/// A gateway with one session, `a`.
struct Victim {
    gateway: Gateway,
    sessions: Value,
}

impl Victim {
    fn start() -> Self {
        let gateway = Gateway::start_in(tempfile::tempdir().unwrap(), AUDITED);
        gateway.begin("a");
        let (_, sessions) = gateway.get("/v1/sessions");
        Self { gateway, sessions }
    }

    fn address(&self) -> SocketAddr {
        let address = self.gateway.url().strip_prefix("http://").unwrap();
        address.parse().unwrap()
    }

    /// Asserts that it still runs, and that nothing started or ended but `a` at the beginning.
    fn assert_untouched(self) {
        assert_eq!(self.gateway.get("/readyz").0, 200);
        assert_eq!(self.gateway.get("/v1/sessions").1, self.sessions);
        let ended = self.gateway.stop(Signal::SIGTERM);
        let lines = json_lines(&ended.path("audit.jsonl"));
        let told: Vec<_> = lines
            .iter()
            .map(|line| (&line["type"], &line["session"]["id"], &line["reason"]))
            .collect();
        let (start, end) = (json!("session_start"), json!("session_end"));
        let (id, reason) = (json!("a"), json!("shutdown"));
        assert_eq!(told, [(&start, &id, &Value::Null), (&end, &id, &reason)]);
    }
}

#[test]
fn a_page_of_another_origin_reads_and_changes_nothing() {
    if !is_installed("chromium") {
        return skip("what web pages can do", "chromium");
    }
    let victim = Victim::start();
    let (sender, reports) = mpsc::channel();
    let site = site(victim.address(), sender).port();
    let page = |target| format!("http://evil.test:{site}/page?target=http://{target}");

    // First a server that is open to pages, or it would prove nothing that all is refused.
    let (open, seen) = open_server();
    let control = Report::wait(&reports, &page(open));
    for way in ["fetch cors", "fetch token", "xhr"] {
        let way = format!("{way} /v1/sessions");
        assert!(
            control.read.iter().any(|(name, _)| *name == way),
            "{control:?}"
        );
    }
    for way in ["events /v1/events", "told by script", "told by link"] {
        assert!(
            control.read.iter().any(|(name, _)| name == way),
            "{control:?}"
        );
    }
    let seen = seen.lock().unwrap().clone();
    for request in [
        "POST /v1/sessions",
        "POST /v1/sessions/a/end",
        "POST /v1/shutdown",
        "PUT /v1/holders/h/sessions",
        "DELETE /v1/plugins/audit/dead-letters",
    ] {
        assert!(seen.contains(request), "no {request} in {seen:?}");
    }

    let report = Report::wait(&reports, &page(victim.address()));
    assert_eq!(report.tried, control.tried);
    assert!(report.read.is_empty(), "{:?}", report.read);
    victim.assert_untouched();
}

#[test]
fn a_page_whose_name_was_rebound_to_the_gateway_reads_and_changes_nothing() {
    if !is_installed("chromium") {
        return skip("what rebound web pages can do", "chromium");
    }
    let victim = Victim::start();
    let (sender, reports) = mpsc::channel();
    let site = site(victim.address(), sender).port();
    let origin = format!("http://rebound.test:{site}");
    let report = Report::wait(&reports, &format!("{origin}/page?target={origin}"));
    // To the browser all this is the page's own, so it reads the refusals.
    let is_refusal = |text: &str| text.contains("urn:session-supervisor:problem:forbidden");
    assert!(
        report.read.iter().any(|(_, text)| is_refusal(text)),
        "{report:?}"
    );
    for (name, text) in &report.read {
        let is_health_check = name.ends_with("/healthz") || name.ends_with("/readyz");
        assert!(is_health_check || is_refusal(text), "{name}: {text}");
    }
    victim.assert_untouched();
}
