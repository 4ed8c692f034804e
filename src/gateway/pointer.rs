//! How a refusal points at what is wrong.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What may not stand as it is in the fragment of a URI.
const NOT_IN_FRAGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The JSON Pointer (RFC 6901) that `names` lead along, in its form as a URI fragment.
pub(super) fn pointer<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut pointer = String::from("#");
    for name in names {
        let name = name.replace('~', "~0").replace('/', "~1");
        pointer.push('/');
        pointer.extend(utf8_percent_encode(&name, NOT_IN_FRAGMENT));
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_pointers() {
        assert_eq!(pointer([]), "#");
        assert_eq!(pointer(["query", "key"]), "#/query/key");
        assert_eq!(pointer(["a/b~c"]), "#/a~1b~0c");
        assert_eq!(pointer(["50% {x}"]), "#/50%25%20%7Bx%7D");
        assert_eq!(pointer(["\u{e4}\n"]), "#/%C3%A4%0A");
    }
}
