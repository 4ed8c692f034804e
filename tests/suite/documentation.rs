//! The documents against the code: `docs/guarantees.md` names the tests that hold each guarantee, all
//! of them and none that is not; `docs/architecture.md` names every file, and who imports whom;
//! `docs/embedding.md` names every example; every link leads somewhere, and every file that is named
//! is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The paths and texts of the files below `folder`.
fn files(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let files = paths.flat_map(|path| {
        if path.is_dir() {
            return files(&path);
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        vec![(path.display().to_string(), text)]
    });
    files.collect()
}

/// The paths, from the root on, and texts of the Rust files below `folder`.
fn sources(folder: &str) -> Vec<(String, String)> {
    let files = files(&Path::new(ROOT).join(folder)).into_iter();
    let sources = files.filter(|(path, _)| path.ends_with(".rs"));
    sources
        .map(|(path, text)| (below_root(&path), text))
        .collect()
}

fn below_root(path: &str) -> String {
    let path = Path::new(path).strip_prefix(ROOT).unwrap();
    path.display().to_string()
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
    let tests = ["src", "tests"].map(sources).concat();
    let functions = tests.iter().flat_map(|(_, text)| text.split("fn ").skip(1));
    let names = functions.filter_map(|rest| rest.split('(').next());
    let numbered: BTreeSet<_> = names.filter(|name| is_numbered(name)).collect();
    assert!(numbered.len() > 40, "{numbered:?}");
    let missing: Vec<_> = numbered.difference(&named).collect();
    assert!(missing.is_empty(), "not in docs/guarantees.md: {missing:?}");
}

#[test]
fn every_test_in_the_list_of_guarantees_exists_where_it_says() {
    let all = ["src", "tests"].map(sources).concat();
    for span in named() {
        let (file, name) = span.split_once(": ").unwrap_or(("", &span));
        let has_test = |(path, text): &&(String, String)| {
            path.ends_with(file) && text.contains(&format!("fn {name}("))
        };
        let exists = || all.iter().any(|source| has_test(&source));
        assert!(!is_name(name) || exists(), "there is no test `{span}`");
    }
}

/// A part of `docs/architecture.md`, from the line that begins with `from` to the one with `to`.
fn architecture(from: &str, to: &str) -> String {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/architecture.md")).unwrap();
    let lines = text.lines().skip_while(|line| !line.starts_with(from));
    let lines: Vec<_> = lines.take_while(|line| !line.starts_with(to)).collect();
    assert!(lines.len() > 1, "no part from `{from}` to `{to}`");
    lines.join("\n")
}

/// What the first column of the table of rooms names. A name without a folder is in that of the
/// one before.
fn rooms() -> BTreeSet<String> {
    let table = architecture("## Rooms", "## The ideas");
    let mut rooms = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let mut folder = "";
        for name in row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2) {
            let end = name.trim_end_matches('/').rfind('/').map_or(0, |at| at + 1);
            if end > 0 {
                folder = &name[..end];
            }
            rooms.insert(format!("{folder}{}", &name[end..]));
        }
    }
    rooms
}

#[test]
fn every_file_of_the_source_is_in_the_table_of_rooms() {
    let rooms = rooms();
    let root = Path::new(ROOT);
    let gone: Vec<_> = rooms.iter().filter(|it| !root.join(it).exists()).collect();
    assert!(gone.is_empty(), "there is no {gone:?}");
    let files = files(&root.join("src")).into_iter();
    let files = files.map(|(path, _)| below_root(&path));
    let is_in = |room: &String, file: &str| {
        file == room || room.ends_with('/') && file.starts_with(room.as_str())
    };
    let missing: Vec<_> = files
        .filter(|file| !rooms.iter().any(|room| is_in(room, file)))
        .collect();
    assert!(
        missing.is_empty(),
        "not in docs/architecture.md: {missing:?}"
    );
}

/// Which rooms each room imports, tests left out.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources("src");
    let room = |path: &str| {
        let inside = path.strip_prefix("src/").unwrap();
        inside.split(['/', '.']).next().unwrap().to_owned()
    };
    let rooms: BTreeSet<_> = sources.iter().map(|(path, _)| room(path)).collect();
    let mut imports = BTreeMap::<_, BTreeSet<_>>::new();
    for (path, text) in &sources {
        let (own, is_test) = (room(path), path.contains("/tests"));
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let found = imports.entry(own.clone()).or_default();
        for line in code.filter(|_| !is_test) {
            let named = line.split("crate::").skip(1);
            let named =
                named.filter_map(|it| it.split(|c: char| c != '_' && !c.is_alphabetic()).next());
            let named = named.filter(|name| rooms.contains(*name) && *name != own);
            found.extend(named.map(str::to_owned));
        }
    }
    for outside in ["lib", "main"] {
        imports.remove(outside);
    }
    imports
}

#[test]
fn who_imports_whom_is_as_it_is_drawn_and_runs_one_way() {
    let drawn = architecture("Who imports whom", "## Rooms");
    let drawn = drawn.split("```").nth(1).unwrap().lines().skip(1);
    let mut above: Vec<String> = Vec::new();
    let imports = imports();
    for line in drawn {
        let words = line.split([' ', ',']).filter(|word| !word.is_empty());
        let mut words = words.map(str::to_owned);
        let room = words.next().unwrap();
        let listed: BTreeSet<_> = words.filter(|word| word != "-").collect();
        let found = imports.get(&room).cloned().unwrap_or_default();
        assert_eq!(found, listed, "what {room} imports");
        above.push(room);
        let up: Vec<_> = listed.iter().filter(|it| above.contains(it)).collect();
        assert!(up.is_empty(), "upwards: {up:?}");
    }
    let missing: Vec<_> = imports.keys().filter(|it| !above.contains(it)).collect();
    assert!(missing.is_empty(), "not drawn: {missing:?}");
}

#[test]
fn every_example_is_declared_and_in_the_guide() {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let guide = fs::read_to_string(Path::new(ROOT).join("docs/embedding.md")).unwrap();
    let examples = sources("docs/examples");
    assert!(examples.len() > 4, "{examples:?}");
    for (path, _) in examples {
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{path}");
        let link = format!("]({})", path.trim_start_matches("docs/"));
        assert!(guide.contains(&link), "{path}");
    }
}

/// The paths of the documents.
fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|it| it == "md"));
    docs.chain([Path::new(ROOT).join("README.md")]).collect()
}

/// The text of a document without its blocks of code.
fn prose(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("```").step_by(2).collect()
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut links = 0;
    for document in documents() {
        let text = prose(&document);
        let targets = text.split("](").skip(1);
        let targets = targets.filter_map(|rest| rest.split_once(')'));
        for (target, _) in targets.filter(|(target, _)| !target.starts_with("http")) {
            links += 1;
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            let shown = format!("{target} in {}", document.display());
            assert!(file.exists(), "{shown}");
            if !fragment.is_empty() {
                let text = prose(&file);
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(headings.any(|it| anchor(it) == fragment), "{shown}");
            }
        }
    }
    assert!(links > 100, "{links}");
}

#[test]
fn every_file_that_the_documents_name_is_there() {
    let mut named = 0;
    for document in documents() {
        let text = prose(&document);
        for span in text.split('`').skip(1).step_by(2) {
            // A test may stand behind it.
            let path = span.split(':').next().unwrap().trim();
            let folders = ["src/", "tests/", "docs/", "benches/"];
            if folders.iter().any(|folder| path.starts_with(folder)) {
                named += 1;
                let shown = format!("`{span}` in {}", document.display());
                assert!(Path::new(ROOT).join(path).exists(), "{shown}");
            }
        }
    }
    assert!(named > 100, "{named}");
}
