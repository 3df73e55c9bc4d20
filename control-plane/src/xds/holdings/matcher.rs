//! Which clients an operator asks about: by node id, by what is in its metadata.
//!
//! All of a matcher has to hold, of several matchers one. Read once a request; what cannot be read is refused, not
//! passed over. Source: `envoy.type.matcher.v3` (NodeMatcher, StructMatcher, ValueMatcher).

use outrigger_proto::envoy::r#type::matcher::v3::{
    NodeMatcher, StringMatcher, StructMatcher, ValueMatcher, double_matcher, list_matcher,
    string_matcher::MatchPattern, struct_matcher::path_segment::Segment, value_matcher,
};
use prost_types::{Struct, Value, value::Kind};
use regex::{Regex, RegexBuilder};

/// Of one regular expression, compiled.
const MAX_REGEX_BYTES: usize = 1024 * 1024;

/// Some clients.
#[derive(Debug)]
pub(super) struct Clients(Vec<One>);

#[derive(Debug)]
struct One {
    id: Option<Text>,
    metadata: Vec<At>,
}

/// A value at a path.
#[derive(Debug)]
struct At {
    path: Vec<String>,
    value: Is,
}

#[derive(Debug)]
enum Is {
    Null,
    Between(f64, f64),
    Exactly(f64),
    Text(Text),
    Flag(bool),
    Present(bool),
    ListWith(Box<Self>),
    OneOf(Vec<Self>),
}

#[derive(Debug)]
struct Text {
    pattern: Pattern,
    ignore_case: bool,
}

#[derive(Debug)]
enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Box<Regex>),
}

impl Clients {
    /// None = all.
    ///
    /// # Errors
    /// The field that cannot be used, and why.
    pub(super) fn of(matchers: &[NodeMatcher]) -> Result<Self, String> {
        let matchers = matchers.iter().enumerate();
        let all = matchers
            .map(|(at, one)| One::of(one).map_err(|why| format!("node_matchers[{at}].{why}")));
        all.collect::<Result<_, _>>().map(Self)
    }

    /// Whether the metadata of clients is looked at.
    pub(super) fn need_metadata(&self) -> bool {
        self.0.iter().any(|one| !one.metadata.is_empty())
    }

    pub(super) fn have(&self, id: &str, metadata: &Struct) -> bool {
        self.0.is_empty() || self.0.iter().any(|one| one.holds(id, metadata))
    }
}

impl One {
    fn of(matcher: &NodeMatcher) -> Result<Self, String> {
        let id = matcher.node_id.as_ref().map(Text::of).transpose();
        let metadata = matcher.node_metadatas.iter().enumerate();
        let metadata = metadata
            .map(|(at, one)| At::of(one).map_err(|why| format!("node_metadatas[{at}].{why}")));
        Ok(Self {
            id: id.map_err(|why| format!("node_id: {why}"))?,
            metadata: metadata.collect::<Result<_, _>>()?,
        })
    }

    fn holds(&self, id: &str, metadata: &Struct) -> bool {
        self.id.as_ref().is_none_or(|text| text.holds(id))
            && self.metadata.iter().all(|at| at.holds(metadata))
    }
}

impl At {
    fn of(matcher: &StructMatcher) -> Result<Self, String> {
        let path = matcher.path.iter().map(|segment| match &segment.segment {
            Some(Segment::Key(key)) => Ok(key.clone()),
            None => Err("path: a segment without a key".to_owned()),
        });
        let path: Vec<_> = path.collect::<Result<_, _>>()?;
        if path.is_empty() {
            return Err("path: empty; name a key of the metadata".to_owned());
        }
        let value = matcher.value.as_ref().ok_or("value: missing")?;
        let value = Is::of(value).map_err(|why| format!("value: {why}"))?;
        Ok(Self { path, value })
    }

    fn holds(&self, metadata: &Struct) -> bool {
        let mut keys = self.path.iter();
        let mut found = keys.next().and_then(|key| metadata.fields.get(key));
        for key in keys {
            found = match found.map(|value| &value.kind) {
                Some(Some(Kind::StructValue(inner))) => inner.fields.get(key),
                _ => None,
            };
        }
        self.value.holds(found)
    }
}

impl Is {
    fn of(matcher: &ValueMatcher) -> Result<Self, String> {
        use value_matcher::MatchPattern as Match;

        let double = |pattern: &Option<double_matcher::MatchPattern>| match pattern {
            Some(double_matcher::MatchPattern::Exact(number)) => Ok(Self::Exactly(*number)),
            Some(double_matcher::MatchPattern::Range(range)) => {
                Ok(Self::Between(range.start, range.end))
            }
            None => Err("double_match: empty".to_owned()),
        };
        match matcher.match_pattern.as_ref().ok_or("empty")? {
            Match::NullMatch(_) => Ok(Self::Null),
            Match::DoubleMatch(one) => double(&one.match_pattern),
            Match::StringMatch(text) => Text::of(text).map(Self::Text),
            Match::BoolMatch(flag) => Ok(Self::Flag(*flag)),
            Match::PresentMatch(present) => Ok(Self::Present(*present)),
            Match::ListMatch(list) => match &list.match_pattern {
                Some(list_matcher::MatchPattern::OneOf(one)) => {
                    Ok(Self::ListWith(Box::new(Self::of(one)?)))
                }
                None => Err("list_match: empty".to_owned()),
            },
            Match::OrMatch(or) => {
                let all = or.value_matchers.iter().map(Self::of);
                all.collect::<Result<_, _>>().map(Self::OneOf)
            }
        }
    }

    /// None = there is no such value.
    fn holds(&self, value: Option<&Value>) -> bool {
        let kind = value.and_then(|value| value.kind.as_ref());
        match (self, kind) {
            (Self::Null, Some(Kind::NullValue(_))) => true,
            (Self::Between(start, end), Some(Kind::NumberValue(number))) => {
                start <= number && number < end
            }
            #[expect(clippy::float_cmp, reason = "the very same number, as the API says")]
            (Self::Exactly(wanted), Some(Kind::NumberValue(number))) => wanted == number,
            (Self::Text(text), Some(Kind::StringValue(found))) => text.holds(found),
            (Self::Flag(wanted), Some(Kind::BoolValue(flag))) => wanted == flag,
            // What is not a primitive value is neither there nor not there.
            (Self::Present(_), Some(Kind::StructValue(_) | Kind::ListValue(_))) => false,
            (Self::Present(present), found) => *present == found.is_some(),
            (Self::ListWith(one), Some(Kind::ListValue(list))) => {
                list.values.iter().any(|value| one.holds(Some(value)))
            }
            (Self::OneOf(all), _) => all.iter().any(|one| one.holds(value)),
            _ => false,
        }
    }
}

impl Text {
    fn of(matcher: &StringMatcher) -> Result<Self, String> {
        let ignore_case = matcher.ignore_case;
        let fold = |text: &String| fold(text, ignore_case);
        let pattern = match matcher.match_pattern.as_ref().ok_or("empty")? {
            MatchPattern::Exact(text) => Pattern::Exact(fold(text)),
            MatchPattern::Prefix(text) => Pattern::Prefix(fold(text)),
            MatchPattern::Suffix(text) => Pattern::Suffix(fold(text)),
            MatchPattern::Contains(text) => Pattern::Contains(fold(text)),
            // Its case counts (Envoy).
            MatchPattern::SafeRegex(regex) => RegexBuilder::new(&format!("^(?:{})$", regex.regex))
                .size_limit(MAX_REGEX_BYTES)
                .build()
                .map(|regex| Pattern::Regex(Box::new(regex)))
                .map_err(|error| format!("safe_regex: {error}"))?,
            MatchPattern::Custom(_) => return Err("custom: not supported".to_owned()),
        };
        Ok(Self {
            pattern,
            ignore_case,
        })
    }

    fn holds(&self, found: &str) -> bool {
        if let Pattern::Regex(regex) = &self.pattern {
            return regex.is_match(found);
        }
        let found = fold(found, self.ignore_case);
        match &self.pattern {
            Pattern::Exact(text) => found == *text,
            Pattern::Prefix(text) => found.starts_with(text),
            Pattern::Suffix(text) => found.ends_with(text),
            Pattern::Contains(text) => found.contains(text),
            Pattern::Regex(_) => false,
        }
    }
}

fn fold(text: &str, ignore_case: bool) -> String {
    if ignore_case {
        text.to_lowercase()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests;
