//! Texts that many sessions have in common.

use std::collections::HashSet;
use std::sync::Arc;

/// How many texts are remembered. They have up to 4 KiB each.
const MAX_TEXTS: usize = 1024;

/// Texts, each kept once however many sessions have it: there are few agents as a rule, and a million
/// sessions.
#[derive(Debug, Default)]
pub(super) struct CommonTexts(HashSet<Arc<str>>);

impl CommonTexts {
    /// Has `text` be the one that others have, if there is one of the same words.
    pub(super) fn share(&mut self, text: &mut Arc<str>) {
        if let Some(known) = self.0.get(text) {
            *text = Arc::clone(known);
            return;
        }
        // They are not as common as all that.
        if self.0.len() == MAX_TEXTS {
            self.0.clear();
        }
        self.0.insert(Arc::clone(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_is_kept_once_and_no_more_than_so_many_texts_are() {
        let mut common = CommonTexts::default();
        let [mut one, mut other]: [Arc<str>; 2] = ["main".into(), "main".into()];
        common.share(&mut one);
        common.share(&mut other);
        assert!(Arc::ptr_eq(&one, &other));
        for n in 0..3 * MAX_TEXTS {
            common.share(&mut n.to_string().into());
        }
        assert!(common.0.len() <= MAX_TEXTS);
    }
}
