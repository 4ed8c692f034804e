//! The example `axum`: jobs that are done, fail, panic, and are under way at the stop.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Example, ends_by};

#[test]
fn every_job_of_the_axum_example_has_its_end_however_it_goes() {
    let mut example = Example::start("axum", &["127.0.0.1:0".as_ref()]);
    let address = example.wait_for_line("listening on ");
    let url = |path: &str| format!("http://{address}{path}");
    let ready = ureq::get(url("/readyz")).call().unwrap();
    assert_eq!(ready.status(), 200);

    let kinds = ["quick", "unheard-of", "panics", "long"];
    let ids = kinds.map(|kind| {
        let mut answer = ureq::post(url(&format!("/jobs/{kind}")))
            .send_empty()
            .unwrap();
        assert_eq!(answer.status(), 202);
        answer.body_mut().read_to_string().unwrap()
    });
    for _ in 0..3 {
        example.wait_for_line("{\"schema\":1,\"type\":\"session_end\"");
    }
    let (status, printed) = example.stop(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0), "{printed:?}");
    let events = printed.iter().filter(|line| line.starts_with('{'));
    let events: Vec<Value> = events
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ends = ends_by(&events, |end| {
        let id = end["session"]["id"].as_str().unwrap();
        let job = ids.iter().position(|known| known == id).unwrap();
        let detail = end["detail"].as_str().unwrap_or("-");
        format!(
            "{} {}: {detail}",
            kinds[job],
            end["reason"].as_str().unwrap()
        )
    });
    let expected = [
        "long shutdown: -",
        "panics failed: -",
        "quick completed: -",
        "unheard-of failed: there are no jobs of the kind `unheard-of`",
    ];
    assert_eq!(ends, expected);
}
