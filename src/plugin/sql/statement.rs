//! What is wrong with a statement, said without the database that it is for.

use rusqlite::Connection;
use sqlite3_parser::lexer::Scanner;
use sqlite3_parser::lexer::sql::{TokenType, Tokenizer};

use super::parameters::{self, Parameter};
use crate::nearest::nearest;

/// What begins a statement that can't run inside the plugin's transaction, that would make or leave
/// a database, or that tells the database nothing of the session.
const NOT_FOR_A_HOOK: [&str; 11] = [
    "BEGIN",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT",
    "RELEASE",
    "ATTACH",
    "DETACH",
    "VACUUM",
    "PRAGMA",
    "EXPLAIN",
];

/// How SQLite begins to say that a statement is wrong whatever tables there are.
const ALWAYS_WRONG: [&str; 5] = [
    "near ",
    "incomplete input",
    "unrecognized token",
    "no such function",
    "wrong number of arguments",
];

/// Checks that `sql` is one statement, that SQLite can parse it, and that its parameters exist.
/// Whether its tables exist is not known before it runs.
///
/// # Errors
///
/// What is wrong and what was expected.
pub(super) fn check(sql: &str) -> Result<(), String> {
    check_syntax(sql)?;

    let mut statements = 0;
    let mut is_new = true;
    let mut scanner = Scanner::new(Tokenizer::new());
    loop {
        let token = scanner.scan(sql.as_bytes()).map_err(|_| {
            let place = scanner.position(sql.as_bytes());
            format!("can't be read from {place} on")
        })?;
        let (_, Some((text, kind)), _) = token else {
            break;
        };
        let text = String::from_utf8_lossy(text);
        if kind == TokenType::TK_SEMI {
            is_new = true;
            continue;
        }
        if is_new {
            is_new = false;
            statements += 1;
            if NOT_FOR_A_HOOK.contains(&text.to_uppercase().as_str()) {
                return Err(format!(
                    "`{text}` is not possible here: a statement records the event, in a transaction of the plugin"
                ));
            }
        }
        if kind == TokenType::TK_VARIABLE {
            check_parameter(&text)?;
        }
    }
    match statements {
        1 => Ok(()),
        0 => Err("expected a statement, found none".into()),
        _ => Err(format!("expected one statement, found {statements}")),
    }
}

/// Asks SQLite itself, which reads a whole statement before it looks for the tables, in a database
/// that has none.
fn check_syntax(sql: &str) -> Result<(), String> {
    let empty = Connection::open_in_memory().map_err(|error| error.to_string())?;
    let (Err(rusqlite::Error::SqlInputError { msg, .. })
    | Err(rusqlite::Error::SqliteFailure(_, Some(msg)))) = empty.prepare(sql)
    else {
        return Ok(());
    };
    if ALWAYS_WRONG.iter().any(|words| msg.starts_with(words)) {
        return Err(msg);
    }
    Ok(())
}

/// Checks a parameter, given as in the statement, but without the `?` of a positional one.
fn check_parameter(token: &str) -> Result<(), String> {
    if token.is_empty() || token.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!(
            "`?{token}` is a positional parameter: expected a named one, such as `:session_id`"
        ));
    }
    if Parameter::of_token(token).is_none() {
        let names: Vec<_> = parameters::ALL.iter().map(|known| known.name).collect();
        let meant = meant(token.trim_start_matches([':', '@', '$']), &names);
        let meant = meant.map_or(String::new(), |name| format!(", the nearest is `:{name}`"));
        return Err(format!(
            "unknown parameter `{token}`{meant}: expected one of {}",
            names.join(", ")
        ));
    }
    Ok(())
}

/// Which of `names` an unknown one was meant to be: most statements are about a session.
fn meant<'n>(name: &str, names: &[&'n str]) -> Option<&'n str> {
    let name = name.to_lowercase();
    let of_session = format!("session_{name}");
    let found = names.iter().find(|known| **known == of_session);
    found.copied().or_else(|| nearest(&name, names))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_sqlite_takes_is_accepted() {
        let good = [
            "INSERT INTO s(id, at) VALUES (:session_id, :started_at) \
             ON CONFLICT(id) DO UPDATE SET at = excluded.at WHERE excluded.at > s.at",
            "INSERT OR REPLACE INTO s VALUES ($session_id, @incarnation, :metadata ->> '$.a') RETURNING id, *",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) \
             INSERT INTO s SELECT i, json_extract(:metadata, '$.name') FROM n",
            "UPDATE s SET at = datetime('now'), n = n + 1e3, x = x'00ff' FROM t AS u WHERE u.id IS NOT :key",
            "UPDATE \"my table\" SET [a b] = 'it''s; ? :nobody', `c` = \"d\" WHERE id = :session_id ;",
            "/* two; of ? them */ DELETE FROM s -- and :more\n WHERE id = :session_id;;\n",
            "DELETE FROM main.s WHERE (id, k) IN (SELECT a, b FROM t) AND x GLOB 'a*' AND y BETWEEN 1 AND 2",
            "UPDATE s SET n = count(*) FILTER (WHERE 1) OVER (PARTITION BY a ORDER BY b NULLS LAST) WHERE a",
            "INSERT INTO s DEFAULT VALUES",
            "REPLACE INTO s(id) SELECT :session_id WHERE NOT EXISTS (SELECT 1 FROM s)",
            "SELECT CASE WHEN :resumable THEN 1 ELSE iif(:synthetic, 2, 3) END COLLATE nocase",
            "UPDATE s SET end = 1, key = 2, type = 3, ünïcode = 'é' WHERE reason ISNULL",
            "INSERT INTO s(id) VALUES (:session_id) ON CONFLICT DO NOTHING",
        ];
        for sql in good {
            assert_eq!(check(sql), Ok(()), "{sql}");
        }
    }

    #[test]
    fn wrong_statements_are_refused_and_say_why() {
        let bad = [
            ("", "found none"),
            (" ; -- nothing\n", "found none"),
            ("SELEC 1", "near \"SELEC\": syntax error"),
            ("UPDATE s SET a = 1 WHERE b = 2 oops", "near \"oops\""),
            ("UPDATE s SET a = 1 WHERE", "incomplete input"),
            ("UPDATE s SET a = 'b", "unrecognized token"),
            ("INSERT INTO s(a, b VALUES (1, 2)", "near \"VALUES\""),
            ("SELECT nosuch(1)", "no such function: nosuch"),
            (
                "UPDATE s SET a = 1; DELETE FROM s",
                "expected one statement, found 2",
            ),
            ("PRAGMA user_version = 3", "`PRAGMA` is not possible"),
            ("EXPLAIN SELECT 1", "`EXPLAIN` is not possible"),
            ("SELECT 1; SELEC", "near \"SELEC\""),
            ("SELECT 1 \u{0} nonsense", "can't be read from"),
            ("UPDATE s SET a = ?", "`?` is a positional parameter"),
            (
                "UPDATE s SET a = ?12 + 1",
                "`?12` is a positional parameter",
            ),
            (
                "UPDATE s SET a = :sesion_id",
                "unknown parameter `:sesion_id`, the nearest is `:session_id`: expected one of event_id, type",
            ),
            (
                "UPDATE s SET a = :id",
                "unknown parameter `:id`, the nearest is `:session_id`: ",
            ),
            (
                "UPDATE s SET a = @Reason",
                "unknown parameter `@Reason`, the nearest is `:reason`: ",
            ),
            (
                "UPDATE s SET a = :colour",
                "unknown parameter `:colour`: expected one of event_id",
            ),
            ("UPDATE s SET a = $reason::x", "can't be read from"),
            ("commit", "`commit` is not possible here"),
            ("ATTACH 'new.db' AS n", "`ATTACH` is not possible here"),
        ];
        for (sql, problem) in bad {
            let error = check(sql).expect_err(sql);
            assert!(error.contains(problem), "{sql}: {error}");
        }
    }
}
