//! What somebody meant who wrote a name that there is not.

use strsim::osa_distance;

/// The name among `known` that `name` was most likely meant to be: one that differs in less than a third
/// of its letters, or that goes on where `name` ends.
pub(crate) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance = |known: &str| osa_distance(known, name);
    let is_near = |known: &str| {
        let longer = known.chars().count().max(name.chars().count());
        let goes_on = known
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('_'));
        distance(known) * 3 < longer || goes_on
    };
    let near = known.iter().copied().filter(|known| is_near(known));
    near.min_by_key(|known| distance(known))
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_what_is_near_is_taken_for_what_was_meant() {
        let known = [
            "timeout",
            "backoff",
            "url_env",
            "cwd",
            "path",
            "idle_after",
            "ca_file",
        ];
        for (name, meant) in [
            ("paht", Some("path")),
            ("idle", Some("idle_after")),
            ("ca_fiel", Some("ca_file")),
            ("time_out", Some("timeout")),
            ("file", None),
            ("db", None),
            ("on_end", None),
            ("cmd", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, &known), meant, "{name}");
        }
    }
}
