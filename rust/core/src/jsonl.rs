//! One field of every line of a jsonl text, without building the rest.
//!
//! Only for lines that are as they should be. Anything else, however slight, is left to the reader in Python, which
//! says what is wrong, or knows that it is not.

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

struct Field<'a> {
    name: &'a str,
    out: &'a mut Vec<u8>,
}

/// A string, appended to what is there; borrowed from the line where nothing in it is escaped.
struct Text<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = ();
    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("text")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = ();
    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a table")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let start = self.out.len();
        let mut found = false;
        while let Some(key) = map.next_key::<Cow<str>>()? {
            if key == self.name {
                self.out.truncate(start); // as in Python, the last of equal keys is the one
                map.next_value_seed(Text(self.out))?;
                found = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if found { Ok(()) } else { Err(A::Error::custom("the field is missing")) }
    }
}

/// The field's texts, one behind the other, and where each ends. None when any line is not a table with that text.
pub fn texts(data: &[u8], field: &str) -> Option<(Vec<u8>, Vec<i64>)> {
    std::str::from_utf8(data).ok()?; // what is skipped would not be looked at
    let (mut out, mut edges) = (Vec::with_capacity(data.len()), vec![0]);
    for line in data.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let mut line = serde_json::Deserializer::from_slice(line);
        Field { name: field, out: &mut out }.deserialize(&mut line).ok()?;
        line.end().ok()?;
        edges.push(out.len() as i64);
    }
    Some((out, edges))
}

#[cfg(test)]
mod tests {
    use super::texts;

    fn found(data: &str) -> Option<Vec<String>> {
        let (out, edges) = texts(data.as_bytes(), "text")?;
        let text = |cut: &[i64]| String::from_utf8_lossy(&out[cut[0] as usize..cut[1] as usize]).into_owned();
        Some(edges.windows(2).map(text).collect())
    }

    #[test]
    fn lines_that_are_as_they_should_be() {
        let data =
            "{\"text\": \"a\\n\\u00e9\", \"n\": [1, {\"text\": \"no\"}]}\r\n\n  \n{\"n\": null, \"text\": \"\"}\n";
        assert_eq!(found(data), Some(vec!["a\né".into(), String::new()]));
        assert_eq!(found(r#"{"text": "a", "text": "b"}"#), Some(vec!["b".into()]));
        assert_eq!(found(""), Some(vec![]));
    }

    #[test]
    fn all_others_are_left_to_the_other_reader() {
        for line in [
            "{\"text\": 1}",
            "{\"text\": null}",
            "{\"n\": 1}",
            "[\"text\"]",
            "{\"text\": \"a\"} x",
            "{\"text\": \"\\ud83d\"}",
            "{\"text\": \"a\", \"n\": NaN}",
            "{\"text\": \"a\"",
            "\u{feff}{\"text\": \"a\"}",
        ] {
            assert_eq!(found(line), None, "{line}");
        }
        assert!(texts(b"{\"text\": \"a\", \"n\": \"\xff\"}", "text").is_none());
    }
}
