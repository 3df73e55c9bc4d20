//! JSON as tokens and key sets have it: read strictly, kept for look-ups by path.
//!
//! A name that is there twice is refused, because two readers may take different ones; so is what is nested deeper than
//! anybody writes. Numbers are doubles, as in Envoy's metadata.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Levels inside each other.
const MAX_DEPTH: u8 = 32;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// Any number.
    Number(f64),
    /// A text.
    Text(Box<str>),
    /// A list.
    List(Box<[Self]>),
    /// Values by name.
    Object(Claims),
}

/// Values by name, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Box<[(Box<str>, Claim)]>);

impl Claims {
    /// One object and nothing after it.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        let found = Any(MAX_DEPTH).deserialize(&mut reader)?;
        reader.end()?;
        match found {
            Claim::Object(claims) => Ok(claims),
            _ => Err(serde_json::Error::custom("not an object")),
        }
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Claim> {
        let found = self.0.binary_search_by(|(own, _)| (**own).cmp(name));
        found.ok().and_then(|at| self.0.get(at)).map(|(_, v)| v)
    }

    /// The value at the end of `path`, through objects alone.
    #[must_use]
    pub fn at<T: AsRef<str>>(&self, path: &[T]) -> Option<&Claim> {
        let (first, rest) = path.split_first()?;
        let found = self.get(first.as_ref())?;
        match (rest.is_empty(), found) {
            (true, found) => Some(found),
            (false, Claim::Object(inner)) => inner.at(rest),
            (false, _) => None,
        }
    }

    /// The same with the texts of these names cut at their spaces into lists (RFC 8693 section 4.2).
    #[must_use]
    pub fn splitting(mut self, names: &[Box<str>]) -> Self {
        for (name, value) in &mut self.0 {
            if names.contains(name)
                && let Claim::Text(text) = &*value
            {
                let parts = text.split(' ').filter(|part| !part.is_empty());
                *value = Claim::List(parts.map(|part| Claim::Text(part.into())).collect());
            }
        }
        self
    }
}

/// Reads any value; so many levels may still follow.
struct Any(u8);

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Claim;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Claim, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Any {
    fn inner<E: Error>(&self) -> Result<u8, E> {
        self.0
            .checked_sub(1)
            .ok_or_else(|| E::custom("more than 32 levels inside each other"))
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Claim;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Claim, E> {
        Ok(Claim::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Claim, E> {
        Ok(Claim::Bool(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Claim, E> {
        Ok(Claim::Number(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "as in Envoy's metadata")]
    fn visit_i64<E: Error>(self, value: i64) -> Result<Claim, E> {
        Ok(Claim::Number(value as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "as in Envoy's metadata")]
    fn visit_u64<E: Error>(self, value: u64) -> Result<Claim, E> {
        Ok(Claim::Number(value as f64))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Claim, E> {
        Ok(Claim::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Claim, A::Error> {
        let depth = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Self(depth))? {
            items.push(item);
        }
        Ok(Claim::List(items.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claim, A::Error> {
        let depth = self.inner()?;
        let mut pairs: Vec<(Box<str>, Claim)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            pairs.push((name.into(), map.next_value_seed(Self(depth))?));
        }
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        let twice = pairs.iter().zip(pairs.iter().skip(1));
        if let Some(((name, _), _)) = twice.into_iter().find(|((a, _), (b, _))| a == b) {
            return Err(A::Error::custom(format_args!("{name:?} is there twice")));
        }
        Ok(Claim::Object(Claims(pairs.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> String {
        format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels))
    }

    #[test]
    fn a_value_is_found_by_its_path_through_objects_alone() {
        let text = br#"{"b":{"c":{"d":7}},"a":["x",{"c":1}],"b.c":true,"":null}"#;
        let claims = Claims::parse(text).unwrap();
        assert_eq!(claims.at(&["b", "c", "d"]), Some(&Claim::Number(7.0)));
        assert_eq!(claims.at(&["b.c"]), Some(&Claim::Bool(true)));
        assert_eq!(claims.at(&[""]), Some(&Claim::Null));
        for path in [
            &["a", "c"][..],
            &["b", "x"],
            &["b", "c", "d", "e"],
            &["z"],
            &[],
        ] {
            assert_eq!(claims.at(path), None, "{path:?}");
        }
    }

    #[test]
    fn what_two_readers_may_take_for_different_things_is_refused() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"c":2,"b":3}}"#,
            r#"{"a":[{"b":1,"b":1}]}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":1} {"a":1}"#,
            r#"{"a":1}x"#,
            "[1]",
            "1",
            "",
            "{",
            r#"{"a":NaN}"#,
            r#"{"a":1e999}"#,
            r#"{'a':1}"#,
            r#"{"a":01}"#,
            "{\"a\":\"\\ud800\"}",
        ] {
            assert!(Claims::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Claims::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn what_is_nested_without_end_is_refused_before_it_is_built() {
        assert!(Claims::parse(nested(32).as_bytes()).is_ok());
        assert!(Claims::parse(nested(33).as_bytes()).is_err());
        assert!(Claims::parse(nested(100_000).as_bytes()).is_err());
        let lists = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(Claims::parse(lists.as_bytes()).is_err());
    }

    #[test]
    fn a_text_of_words_becomes_a_list_where_it_is_asked_for() {
        let claims = Claims::parse(br#"{"scope":" a  b ","other":"a b","n":1}"#).unwrap();
        let split = claims.splitting(&["scope".into(), "n".into()]);
        let text = |text: &str| Claim::Text(text.into());
        let list = Claim::List([text("a"), text("b")].into());
        assert_eq!(split.get("scope"), Some(&list));
        assert_eq!(split.get("other"), Some(&text("a b")));
        assert_eq!(split.get("n"), Some(&Claim::Number(1.0)));
    }
}
