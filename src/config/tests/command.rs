//! Plugins of kind `command`.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::plugin::{CommandMode, CommandSettings};

/// A world with a program `bin/archive`, which is in no `PATH` but the environment's.
fn world() -> World {
    let world = World::new();
    let directory = world.path("bin");
    fs::create_dir(&directory).unwrap();
    let program = directory.join("archive");
    fs::write(&program, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("/nowhere:{}", directory.display());
    world.env("PATH", &path)
}

fn plugin(keys: &str) -> String {
    format!("[[plugin]]\nname = \"a\"\nkind = \"command\"\n{keys}")
}

#[test]
fn every_key_of_a_command_is_read() {
    let world = world();
    let text = plugin(
        r#"hooks = ["session_end"]
        command = ["archive", "--json", "$HOME"]
        mode = "stream"
        pass_env = ["PATH", "HOME"]
        env = { STAGE = "prod", EMPTY = "" }
        cwd = "bin"
        max_batch = 7
        max_in_flight = 8"#,
    );
    let config = world.read(&text).unwrap();
    let expected = CommandSettings::new(["archive", "--json", "$HOME"])
        .and_then(|settings| settings.passing("PATH"))
        .and_then(|settings| settings.passing("HOME"))
        .and_then(|settings| settings.with_variable("STAGE", "prod"))
        .and_then(|settings| settings.with_variable("EMPTY", ""))
        .unwrap()
        .with_mode(CommandMode::Stream)
        .in_directory(world.path("bin"));
    let plugin = &config.plugins[0];
    assert!(plugin.kind == PluginKind::Command(expected));
    assert_eq!(plugin.hooks, Hooks::NONE.with(Hook::SessionEnd));
    assert_eq!(
        (plugin.policy.max_batch, plugin.policy.max_in_flight),
        (7, 1)
    );
    assert_eq!(plugin.to_spec(Durability::Power).policy(), &plugin.policy);
}

#[test]
fn a_command_is_run_for_each_event_unless_it_says_otherwise() {
    let world = world();
    let read = |keys: &str| {
        let config = world.read(&plugin(keys)).unwrap();
        let plugin = config.plugins.into_iter().next().unwrap();
        let in_flight = (plugin.policy.max_batch, plugin.policy.max_in_flight);
        (plugin.kind, in_flight)
    };
    let expected = CommandSettings::new([world.path("bin/archive")]).unwrap();
    let command = "command = [\"bin/archive\"]\n";
    let (kind, in_flight) = read(command);
    assert!(kind == PluginKind::Command(expected));
    assert_eq!(in_flight, (1, 4));
    let many = format!("{command}max_batch = 100\nmax_in_flight = 16");
    assert_eq!(read(&many).1, (1, 16));
    let stream = format!("{command}mode = \"stream\"");
    assert_eq!(read(&stream).1, (256, 1));
}

#[test]
fn a_command_that_could_not_be_started_is_refused() {
    let cases = [
        (
            "",
            "1: a plugin of kind `command` has no `command`, expected a program and its arguments",
        ),
        (
            "command = []",
            "4: `plugin.command` names no program, expected a program and its arguments",
        ),
        (
            "command = \"bin/archive\"",
            "4: `plugin.command` is of type string, expected an array of strings",
        ),
        (
            "command = [\"\", \"x\"]",
            "4: `plugin.command` names no program, expected a program and its arguments",
        ),
        (
            "command = [\"bin/archive\", \"a\\u0000b\"]",
            "4: `plugin.command` must not contain NUL, expected a program and its arguments",
        ),
        (
            "command = [\"bin/other\"]",
            "4: `plugin.command`: `DIR/bin/other` is not there: No such file or directory (os error 2), expected a program that can be run",
        ),
        (
            "command = [\"./a_file\"]",
            "4: `plugin.command`: `DIR/a_file` is not executable, expected a program that can be run",
        ),
        (
            "command = [\"./bin\"]",
            "4: `plugin.command`: `DIR/bin` is no file, expected a program that can be run",
        ),
        (
            "command = [\"archive\"]",
            "4: `plugin.command`: `archive` is to be found in PATH, which the program is not given: add `PATH` to `pass_env`",
        ),
        (
            "command = [\"archive\"]\nenv = { PATH = \"/nowhere\" }\npass_env = [\"PATH\"]",
            "4: `plugin.command`: `archive` is in no directory of the PATH that it is given, expected a program that can be run",
        ),
        (
            "command = [\"bin/archive\"]\nmode = \"batch\"",
            "5: `plugin.mode` is \"batch\", expected `per_event` or `stream`",
        ),
        (
            "command = [\"bin/archive\"]\npass_env = [\"PATH\",\n\"A=B\"]",
            "6: `plugin.pass_env`: \"A=B\" is no name of a variable",
        ),
        (
            "command = [\"bin/archive\"]\nenv = [\"A=B\"]",
            "5: `plugin.env` is of type array, expected a table of strings",
        ),
        (
            "command = [\"bin/archive\"]\nenv = { A = 1 }",
            "5: `plugin.env` is of type integer, expected a table of strings",
        ),
        (
            "command = [\"bin/archive\"]\nenv = { \"\" = \"x\" }",
            "5: `plugin.env`: \"\" is no name of a variable",
        ),
        (
            "command = [\"bin/archive\"]\nenv = { A = \"s3cret\\u0000\" }",
            "5: `plugin.env`: the value of `A` must not contain NUL",
        ),
        (
            "command = [\"bin/archive\"]\ncwd = \"elsewhere\"",
            "5: `plugin.cwd`: `DIR/elsewhere`: No such file or directory (os error 2), expected a directory",
        ),
        (
            "command = [\"bin/archive\"]\ncwd = \"a_file\"",
            "5: `plugin.cwd`: `DIR/a_file` is no directory, expected one",
        ),
        (
            "command = [\"bin/archive\"]\nurl = \"x\"",
            "5: `plugin.url` is for kind `sql` and `webhook`, expected a key of `command`",
        ),
    ];
    let world = world();
    for (keys, problem) in cases {
        let expected = format!("c.toml:{problem}");
        assert_eq!(world.refusals(&plugin(keys)), [expected], "for:\n{keys}");
    }
}

#[test]
fn the_values_of_variables_are_in_no_debug_output() {
    let world = world();
    let text = plugin("command = [\"bin/archive\"]\nenv = { TOKEN = \"s3cret\" }");
    let shown = format!("{:?}", world.read(&text).unwrap());
    assert!(
        shown.contains("archive") && !shown.contains("s3cret"),
        "{shown}"
    );
}

#[test]
fn a_script_that_is_not_there_is_warned_of() {
    let world = world();
    let warnings = |command: &str| {
        let text = plugin(&format!(
            "command = [\"bin/archive\", {command}]\ncwd = \"bin\""
        ));
        world.read(&text).unwrap().warnings
    };
    let there = world.path("bin/there.py");
    fs::write(&there, "").unwrap();
    for fine in ["\"there.py\"", "\"--out\", \"nosuch.py\"", "\"nosuch\""] {
        assert_eq!(warnings(fine), [""; 0], "{fine}");
    }
    let script = world.path("bin/nosuch.py");
    let warning = format!(
        "c.toml:4: `plugin.command`: {} is not there, expected a file",
        script.display()
    );
    assert_eq!(warnings("\"nosuch.py\", \"-v\""), [warning]);
}
