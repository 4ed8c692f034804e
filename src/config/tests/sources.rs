//! Where values are taken from.

use super::*;

#[test]
fn a_flag_comes_before_the_environment_the_file_and_the_default() {
    let file = "listen = \"127.0.0.1:3\"\nstate_dir = \"of_file\"";
    let mut world = World::new()
        .env("SESSION_SUPERVISOR_LISTEN", "127.0.0.1:2")
        .env("SESSION_SUPERVISOR_STATE_DIR", "of_env")
        .env("STATE_DIRECTORY", "/tmp/of_systemd:/tmp/other");
    let effective = |world: &World, text: &str| {
        let config = world.read(text).unwrap();
        (config.listen[0].port(), config.state_dir)
    };

    world.flags.listen = Some("127.0.0.1:1".parse().unwrap());
    world.flags.state_dir = Some("of_flag".into());
    assert_eq!(effective(&world, file), (1, "of_flag".into()));

    world.flags = Flags::default();
    assert_eq!(effective(&world, file), (2, "of_env".into()));

    let world = world
        .env("SESSION_SUPERVISOR_LISTEN", "")
        .env("SESSION_SUPERVISOR_STATE_DIR", "");
    assert_eq!(effective(&world, file), (3, world.path("of_file")));
    assert_eq!(effective(&world, ""), (7467, "/tmp/of_systemd".into()));

    let world = world.env("STATE_DIRECTORY", "");
    assert_eq!(effective(&world, ""), (7467, "./state".into()));
}

#[test]
fn the_file_is_named_by_a_flag_or_by_the_environment() {
    let mut world = World::new();
    for (name, port) in [("flag.toml", 1), ("env.toml", 2)] {
        fs::write(world.path(name), format!("listen = \"127.0.0.1:{port}\"")).unwrap();
    }
    let of_env = world.path("env.toml");
    world = world.env("SESSION_SUPERVISOR_CONFIG", of_env.to_str().unwrap());
    assert_eq!(world.load().unwrap().listen[0].port(), 2);

    world.flags.config = Some(world.path("flag.toml"));
    assert_eq!(world.load().unwrap().listen[0].port(), 1);

    world.flags.config = None;
    let world = world.env("SESSION_SUPERVISOR_CONFIG", "");
    assert_eq!(world.load().unwrap().listen[0].port(), 7467);
}

#[test]
fn what_is_overridden_need_not_work() {
    let mut world = World::new();
    let text = "listen = \"0.0.0.0:1\"\nstate_dir = \"a_file\"\n[ledger]\nkind = \"postgres\"";
    assert_eq!(world.refusals(text).len(), 3);

    world.flags = Flags {
        config: None,
        listen: Some("127.0.0.1:1".parse().unwrap()),
        state_dir: Some(world.path("state")),
        ledger: Some(LedgerKind::Memory),
        ..Flags::default()
    };
    world.read(text).unwrap();
}

#[test]
fn an_override_that_can_not_work_is_named() {
    let mut world = World::new();
    world.flags = Flags {
        config: None,
        listen: Some("192.0.2.1:80".parse().unwrap()),
        state_dir: Some(world.path("a_file")),
        ledger: Some(LedgerKind::Postgres),
        ..Flags::default()
    };
    assert_eq!(
        world.refusals(""),
        [
            "--ledger: this release has no ledger of kind `postgres`, expected `sqlite` or `memory`",
            "--listen: 192.0.2.1:80 is not a loopback address and needs a token, expected an `[[auth.token]]` or an address such as 127.0.0.1:7467",
            "--state-dir: DIR/a_file can't be made, expected a directory: DIR/a_file: not a directory",
        ]
    );

    let world = World::new().env("SESSION_SUPERVISOR_LISTEN", "here");
    assert_eq!(
        world.refusals(""),
        [
            "SESSION_SUPERVISOR_LISTEN: \"here\" is no address, expected an IP address and a port such as 127.0.0.1:7467"
        ]
    );
}

#[test]
fn a_file_that_can_not_be_read_is_named() {
    let mut world = World::new();
    let load = |world: &World| world.load().unwrap_err().to_string();

    world.flags.config = Some("no/such.toml".into());
    assert_eq!(
        load(&world),
        "no/such.toml: can't be read, expected a configuration file: No such file or directory (os error 2)"
    );

    let path = world.path("latin1.toml");
    fs::write(&path, b"# fine\n# caf\xe9\n").unwrap();
    world.flags.config = Some(path.clone());
    let expected = format!(
        "{}:2: not UTF-8, expected a TOML file in UTF-8",
        path.display()
    );
    assert_eq!(load(&world), expected);
}

#[test]
fn the_state_directory_is_found_in_a_file_that_is_wrong_elsewhere() {
    let find = |world: &World| world.with_env(|env| Config::find_state_dir(&world.flags, env));
    let mut world = World::new();
    fs::write(world.path("c.toml"), "state_dir = \"of_file\"\ncap = 2").unwrap();
    world.flags.config = Some(world.path("c.toml"));
    assert_eq!(find(&world), Ok(world.path("of_file")));
    assert!(world.load().is_err());

    world = world.env("SESSION_SUPERVISOR_STATE_DIR", "of_env");
    assert_eq!(find(&world), Ok("of_env".into()));
    world.flags.state_dir = Some("of_flag".into());
    assert_eq!(find(&world), Ok("of_flag".into()));
    assert_eq!(find(&World::new()), Ok("./state".into()));
}

#[test]
fn the_state_directory_is_not_found_in_a_file_that_is_wrong_about_it() {
    let mut world = World::new();
    world.flags.config = Some(world.path("c.toml"));
    for text in ["state_dir = 1", "state_dir =", "state_dir = \"a_file/x\""] {
        fs::write(world.path("c.toml"), text).unwrap();
        let found = world.with_env(|env| Config::find_state_dir(&world.flags, env));
        assert!(found.is_err(), "{text}: {found:?}");
    }
}
