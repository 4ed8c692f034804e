//! The Dockerfile, and the Compose file of the guide.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::kubernetes::user_of_the_pod;
use super::{CONFIG_PATH, Checked, document, folder_with, reason_of_a_stop_by, serve};
use crate::gateway::command;

/// The instructions of the Dockerfile, each with its arguments on one line.
struct Dockerfile(Vec<(String, String)>);

impl Dockerfile {
    fn shipped() -> Self {
        let text = document("deploy/Dockerfile");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
        let instructions = joined.lines().filter(|line| !line.is_empty());
        let instructions = instructions.map(|line| line.split_once(' ').unwrap());
        let owned = instructions.map(|(name, rest)| (name.to_owned(), rest.to_owned()));
        Self(owned.collect())
    }

    fn all(&self, name: &str) -> Vec<&str> {
        let instructions = self.0.iter().filter(|(it, _)| it == name);
        instructions.map(|(_, rest)| rest.as_str()).collect()
    }

    /// The arguments of an instruction that is there once.
    #[track_caller]
    fn one(&self, name: &str) -> &str {
        match self.all(name)[..] {
            [rest] => rest,
            ref all => panic!("{name} is there {} times", all.len()),
        }
    }
}

/// A command without a shell.
#[track_caller]
fn words(command: &str) -> Vec<String> {
    serde_json::from_str(command.trim()).expect("the form without a shell")
}

#[test]
fn the_container_runs_the_gateway_without_a_shell_and_asks_it_how_it_is() {
    let file = Dockerfile::shipped();
    let program = words(file.one("ENTRYPOINT"));
    // An init that reaps what programs of plugins leave behind.
    let [tini, "--", program @ ..] = &*program.iter().map(String::as_str).collect::<Vec<_>>()
    else {
        panic!("{program:?}");
    };
    assert_eq!((*tini, program), ("tini", &["session-supervisor"][..]));
    let arguments = words(file.one("CMD"));
    let gateway = serve(
        folder_with("state_dir = \"state\""),
        arguments.iter().map(String::as_str),
        command(),
    );

    let (_, probe) = file.one("HEALTHCHECK").split_once("CMD").unwrap();
    let probe = words(probe);
    assert_eq!(probe[0], program[0]);
    let arguments: Vec<_> = probe[1..].iter().map(String::as_str).collect();
    assert!(gateway.run(&arguments).done().starts_with("alive"));
    assert_eq!(gateway.stop(Signal::SIGTERM).status.code(), Some(0));
}

#[test]
fn the_signal_of_the_container_is_a_shutdown() {
    let file = Dockerfile::shipped();
    assert_eq!(reason_of_a_stop_by(file.one("STOPSIGNAL")), "shutdown");
}

#[test]
fn the_container_keeps_its_state_in_a_volume_and_runs_as_nobody_special() {
    let file = Dockerfile::shipped();
    let (name, state_dir) = file.one("ENV").split_once('=').unwrap();
    let checked = Checked::new("", &[(name, state_dir)]);
    assert_eq!(checked.state_dir, state_dir);
    assert!(state_dir.starts_with(&format!("{}/", file.one("VOLUME"))));
    assert!(
        checked
            .listen
            .ends_with(&format!(":{}", file.one("EXPOSE")))
    );
    let (user, group) = file.one("USER").split_once(':').unwrap();
    for id in [user, group] {
        assert_ne!(id.parse::<u32>().unwrap(), 0);
    }
    // The volume of a pod belongs to this group.
    assert_eq!(user_of_the_pod(), file.one("USER"));
}

#[test]
fn the_image_is_built_by_a_compiler_that_can_for_the_system_that_runs_it() {
    let file = Dockerfile::shipped();
    let [build, base] = file.all("FROM")[..] else {
        panic!("not two stages");
    };
    let tag = build.strip_prefix("rust:").unwrap();
    let tag = tag.strip_suffix(" AS build").unwrap();
    let (version, system) = tag.split_once("-slim-").unwrap();
    let parts = |version: &str| {
        let parts = version.split('.').map(|part| part.parse::<u32>().unwrap());
        parts.collect::<Vec<_>>()
    };
    assert!(parts(version) >= parts(env!("CARGO_PKG_RUST_VERSION")));
    assert_eq!(base, format!("debian:{system}-slim"));
}

/// The code block of the guide in this language, which has one.
#[track_caller]
fn example(language: &str) -> String {
    let guide = document("deploying.md");
    let (_, block) = guide.split_once(&format!("```{language}\n")).unwrap();
    let (block, rest) = block.split_once("```").unwrap();
    assert!(!rest.contains(&format!("```{language}\n")));
    block.to_owned()
}

#[test]
fn the_compose_file_of_the_guide_fits_its_configuration_and_the_image() {
    let compose: Value = serde_norway::from_str(&example("yaml")).unwrap();
    let service = &compose["services"]["session-supervisor"];
    let environment = service["environment"].as_object().unwrap();
    let secrets = environment
        .keys()
        .map(|name| (name.as_str(), "a-token-of-the-test"));
    let checked = Checked::new(&example("toml"), &secrets.collect::<Vec<_>>());
    let grace = service["stop_grace_period"].as_str().unwrap();
    checked.fits_into(humantime::parse_duration(grace).unwrap());

    let (_, port) = checked.listen.rsplit_once(':').unwrap();
    let published = service["ports"][0].as_str().unwrap();
    assert!(
        published.ends_with(&format!(":{port}:{port}")),
        "{published}"
    );
    let volumes = service["volumes"].as_array().unwrap();
    let targets = volumes
        .iter()
        .map(|it| it.as_str().unwrap().split(':').nth(1).unwrap());
    let file = Dockerfile::shipped();
    assert_eq!(
        targets.collect::<Vec<_>>(),
        [file.one("VOLUME"), CONFIG_PATH]
    );
    assert!(
        compose["volumes"]
            .as_object()
            .unwrap()
            .contains_key("state")
    );
}
