//! The Kubernetes manifest.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize as _;
use serde_json::Value;

use super::{CONFIG_PATH, Checked, document, folder_with, serve};
use crate::gateway::{command, run};

const TOKEN: (&str, &str) = ("SESSION_SUPERVISOR_TOKEN", "a-token-of-the-test");

/// The objects of the manifest.
struct Manifest(Vec<Value>);

impl Manifest {
    fn shipped() -> Self {
        let text = document("deploy/kubernetes.yaml");
        let objects = serde_norway::Deserializer::from_str(&text);
        let objects = objects.map(|object| Value::deserialize(object).unwrap());
        Self(objects.collect())
    }

    #[track_caller]
    fn object(&self, kind: &str) -> &Value {
        let mut objects = self.0.iter();
        let object = objects.find(|object| object["kind"] == kind);
        object.unwrap_or_else(|| panic!("no {kind}"))
    }

    /// The gateway's configuration.
    fn config(&self) -> &str {
        text(&self.object("ConfigMap")["data"]["config.toml"])
    }

    fn pod(&self) -> &Value {
        &self.object("StatefulSet")["spec"]["template"]["spec"]
    }

    fn container(&self) -> &Value {
        let containers = self.pod()["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1);
        &containers[0]
    }

    /// Where a volume of this name is mounted.
    fn mount(&self, name: &str) -> &str {
        let mut mounts = self.container()["volumeMounts"].as_array().unwrap().iter();
        text(&mounts.find(|mount| mount["name"] == name).unwrap()["mountPath"])
    }

    fn arguments(&self) -> impl Iterator<Item = &str> {
        self.container()["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(text)
    }
}

/// As whom the pod runs: user and group.
pub(super) fn user_of_the_pod() -> String {
    let manifest = Manifest::shipped();
    let security = &manifest.pod()["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["fsGroup"], security["runAsGroup"]);
    format!("{}:{}", security["runAsUser"], security["runAsGroup"])
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[track_caller]
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

#[test]
fn a_stop_fits_into_the_grace_period_of_the_manifest() {
    let manifest = Manifest::shipped();
    let grace = &manifest.pod()["terminationGracePeriodSeconds"];
    let grace = Duration::from_secs(number(grace));
    Checked::new(manifest.config(), &[TOKEN]).fits_into(grace);
    Checked::new("", &[]).fits_into(grace);
    // A hook before the stop would be part of it.
    assert_eq!(manifest.container()["lifecycle"], Value::Null);
}

#[test]
fn the_pod_listens_on_the_port_of_the_service() {
    let manifest = Manifest::shipped();
    let port = |listen: &str| listen.rsplit_once(':').unwrap().1.parse::<u64>().unwrap();
    let default = port(&Checked::new("", &[]).listen);
    let checked = Checked::new(manifest.config(), &[TOKEN]);
    assert_eq!(checked.listen, format!("0.0.0.0:{default}"));
    let service = &manifest.object("Service")["spec"];
    let offered = &manifest.container()["ports"][0];
    assert_eq!(number(&service["ports"][0]["port"]), default);
    assert_eq!(service["ports"][0]["targetPort"], offered["name"]);
    assert_eq!(number(&offered["containerPort"]), default);

    let labels = &manifest.object("StatefulSet")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&service["selector"], labels);
    let matched = &manifest.object("StatefulSet")["spec"]["selector"]["matchLabels"];
    assert_eq!(matched, labels);
}

#[test]
fn the_configuration_of_the_manifest_needs_the_token_that_the_pod_has() {
    let manifest = Manifest::shipped();
    let env = &manifest.container()["env"][0];
    assert_eq!(env["name"], TOKEN.0);
    assert!(env["valueFrom"]["secretKeyRef"].is_object());
    let dir = folder_with(manifest.config());
    let mut check = command();
    check.args(["check", "--config", "config.toml"]);
    let without = run(check.current_dir(dir.path()));
    without.failed(78, &[TOKEN.0]);
}

#[test]
fn the_probes_of_the_manifest_are_answered_without_a_token() {
    let manifest = Manifest::shipped();
    let (dir, mut command) = (folder_with(manifest.config()), command());
    command.env(TOKEN.0, TOKEN.1);
    let state_dir = dir.path().join("state");
    command.env("SESSION_SUPERVISOR_STATE_DIR", state_dir);
    let gateway = serve(dir, manifest.arguments(), command);
    assert_eq!(gateway.get("/v1/plugins").0, 401);
    for (probe, path) in [
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ] {
        let asked = &manifest.container()[probe]["httpGet"];
        assert_eq!(
            (&asked["path"], &asked["port"]),
            (&path.into(), &"http".into())
        );
        assert_eq!(gateway.get(path).0, 200);
    }
    assert_eq!(gateway.stop(Signal::SIGTERM).status.code(), Some(0));
}

#[test]
fn what_the_pod_keeps_is_in_a_volume_that_one_pod_has() {
    let manifest = Manifest::shipped();
    let checked = Checked::new(manifest.config(), &[TOKEN]);
    let state_dir = Path::new(&checked.state_dir);
    assert_eq!(state_dir.parent(), Some(Path::new(manifest.mount("state"))));
    let config = Path::new(CONFIG_PATH);
    assert_eq!(config.parent(), Some(Path::new(manifest.mount("config"))));
    assert!(manifest.arguments().any(|it| it == CONFIG_PATH));

    let set = &manifest.object("StatefulSet")["spec"];
    assert_eq!(set["replicas"], 1);
    let claim = &set["volumeClaimTemplates"][0];
    assert_eq!(claim["metadata"]["name"], "state");
    assert_eq!(claim["spec"]["accessModes"][0], "ReadWriteOncePod");
    // The rest of the file system is read-only.
    let security = &manifest.container()["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
}

#[test]
fn the_manifest_names_this_version() {
    let manifest = Manifest::shipped();
    let (_, tag) = text(&manifest.container()["image"])
        .rsplit_once(':')
        .unwrap();
    assert_eq!(tag, env!("CARGO_PKG_VERSION"));
}
