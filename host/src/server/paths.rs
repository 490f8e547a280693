//! How names are written into paths and queries, for whoever asks this API or links
//! into the page.

use serde_json::{Value, json};

/// `path?a=b` with the fields of `query` that are something.
pub fn with_query<T: serde::Serialize>(path: &str, query: &T) -> String {
    let fields = json!(query);
    let pairs = fields.as_object().into_iter().flatten().filter_map(|(name, value)| match value {
        Value::Null => None,
        Value::String(text) => Some(format!("{name}={}", escaped(text))),
        other => Some(format!("{name}={}", escaped(&other.to_string()))),
    });
    let pairs: Vec<_> = pairs.collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

/// Percent-encoded, as one segment of a path or one value of a query.
pub fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
        // Dots too: a segment of dots alone would be taken for a way up.
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_any_characters_are_one_segment() {
        assert_eq!(escaped("a/b ?ü.."), "a%2Fb%20%3F%C3%BC%2E%2E");
        assert_eq!(with_query("x", &json!({ "a": null, "b": 1, "c": "d&e" })), "x?b=1&c=d%26e");
    }
}
