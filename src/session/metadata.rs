//! Details that travel with a session untouched.

use std::fmt;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::{InvalidField, check_length};

/// Largest `metadata`, in bytes of its compact JSON text.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;
/// Deepest nesting of `metadata`: programs that read JSON stop somewhere, this one included.
pub const MAX_METADATA_DEPTH: usize = 100;

/// The details of a session that its owner gave for the plugins: a JSON object of at most
/// [`MAX_METADATA_BYTES`].
///
/// It is kept as text, which takes a tenth of the memory of a map.
///
/// ```
/// use session_supervisor::Metadata;
///
/// let metadata = Metadata::from_iter([("channel", "web".into()), ("visits", 3.into())]);
/// assert_eq!(metadata.as_str(), r#"{"channel":"web","visits":3}"#);
/// assert_eq!(metadata.get("visits"), Some(3.into()));
/// ```
#[derive(Clone, Default)]
pub struct Metadata(Option<Box<RawValue>>);

impl Metadata {
    /// Without any details.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The details as compact JSON text, in the order of their names.
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("{}", |text| text.get())
    }

    /// The details, each under its name. Empty if they are nested deeper than 128: a start with such
    /// details is refused.
    pub fn to_map(&self) -> Map<String, Value> {
        // It was written from such a map.
        serde_json::from_str(self.as_str()).unwrap_or_default()
    }

    /// The detail of this name. Reads all of them: who wants several does well to ask for
    /// [`to_map`](Self::to_map).
    pub fn get(&self, name: &str) -> Option<Value> {
        self.to_map().remove(name)
    }

    /// How many bytes of memory they take.
    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |text| text.get().len())
    }

    pub(super) fn validate(&self) -> Result<(), InvalidField> {
        if depth(self.as_str()) > MAX_METADATA_DEPTH + 1 {
            let problem = format!("must be nested at most {MAX_METADATA_DEPTH} deep");
            return Err(InvalidField::new("metadata", problem));
        }
        check_length("metadata", Some(self.as_str()), MAX_METADATA_BYTES)
    }
}

/// How deep arrays and objects are nested in this JSON text.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0, 0);
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            _ if is_text => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    deepest
}

impl From<Map<String, Value>> for Metadata {
    fn from(mut details: Map<String, Value>) -> Self {
        // They are in order, unless another crate has `serde_json` preserve the order that they came in.
        details.sort_keys();
        details.values_mut().for_each(Value::sort_all_objects);
        // There is always a text of values that are JSON.
        let text = (!details.is_empty()).then(|| to_raw_value(&details).ok());
        Self(text.flatten())
    }
}

impl<N: Into<String>, V: Into<Value>, const LEN: usize> From<[(N, V); LEN]> for Metadata {
    fn from(details: [(N, V); LEN]) -> Self {
        let details = details.into_iter();
        details.map(|(name, value)| (name, value.into())).collect()
    }
}

impl<N: Into<String>> FromIterator<(N, Value)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (N, Value)>>(details: I) -> Self {
        let details = details.into_iter();
        let map: Map<_, _> = details.map(|(name, value)| (name.into(), value)).collect();
        map.into()
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Metadata {}

impl fmt::Display for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As an object of JSON, to which its text is copied. Another format gets what it makes of a
/// [`RawValue`].
impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(text) => text.serialize(serializer),
            None => serializer.serialize_map(Some(0))?.end(),
        }
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_details_are_an_empty_object() {
        let none: Metadata = serde_json::from_str("{ }").unwrap();
        assert_eq!(none, Metadata::new());
        assert_eq!((none.bytes(), none.as_str()), (0, "{}"));
        assert_eq!(serde_json::to_string(&none).unwrap(), "{}");
        assert!(serde_json::from_str::<Metadata>("[]").is_err());
    }

    #[test]
    fn brackets_and_quotes_in_texts_are_not_taken_for_nesting() {
        let metadata = Metadata::from_iter([("a[\"{\\", Value::from("[[[\"\\[")), ("b", 1.into())]);
        assert_eq!(depth(metadata.as_str()), 1);
        let nested = Metadata::from_iter([("a", serde_json::json!([{"b": []}, []]))]);
        assert_eq!(depth(nested.as_str()), 4);
    }

    #[test]
    fn metadata_over_its_limit_is_named() {
        let metadata = Metadata::from_iter([("note", "x".repeat(MAX_METADATA_BYTES).into())]);
        assert_eq!(metadata.validate().unwrap_err().field, "metadata");
    }
}
