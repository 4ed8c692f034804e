//! `docs/guarantees.md` names the tests that hold each guarantee: all of them, and none that is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The paths and texts of the Rust files below `folder`.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let files = paths.flat_map(|path| {
        if path.is_dir() {
            return sources(&path);
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        vec![(path.display().to_string(), text)]
    });
    files.filter(|(path, _)| path.ends_with(".rs")).collect()
}

fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.chars().all(is_part) && text.matches('_').count() >= 3
}

/// Whether a test of this name holds a guarantee, `g10_…`, or is a scenario, `t1_…`.
fn is_numbered(name: &str) -> bool {
    let (number, _) = name.split_once('_').unwrap_or_default();
    let digits = number.trim_start_matches(|c| "gtdcnh".contains(c));
    digits.len() + 1 == number.len() && digits.parse::<u8>().is_ok()
}

/// What stands between backticks, with the line breaks that it may have.
fn named() -> Vec<String> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/guarantees.md")).unwrap();
    let spans = text.split('`').skip(1).step_by(2);
    let words = |span: &str| span.split_whitespace().collect::<Vec<_>>().join(" ");
    spans.map(words).collect()
}

#[test]
fn every_numbered_test_is_in_the_list_of_guarantees() {
    let named = named();
    let named: BTreeSet<_> = named
        .iter()
        .filter_map(|it| it.split(' ').next_back())
        .collect();
    let tests = sources(&Path::new(ROOT).join("tests"));
    let functions = tests.iter().flat_map(|(_, text)| text.split("fn ").skip(1));
    let names = functions.filter_map(|rest| rest.split('(').next());
    let numbered: BTreeSet<_> = names.filter(|name| is_numbered(name)).collect();
    assert!(numbered.len() > 40, "{numbered:?}");
    let missing: Vec<_> = numbered.difference(&named).collect();
    assert!(missing.is_empty(), "not in docs/guarantees.md: {missing:?}");
}

#[test]
fn every_test_in_the_list_of_guarantees_exists_where_it_says() {
    let all = ["src", "tests"].map(|folder| sources(&Path::new(ROOT).join(folder)));
    for span in named() {
        let (file, name) = span.split_once(": ").unwrap_or(("", &span));
        let has_test = |(path, text): &&(String, String)| {
            path.ends_with(file) && text.contains(&format!("fn {name}("))
        };
        let exists = || all.iter().flatten().any(|source| has_test(&source));
        assert!(!is_name(name) || exists(), "there is no test `{span}`");
    }
}
