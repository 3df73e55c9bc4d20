//! Which code a refusal has, from its path and the fixed words of its message.
//!
//! Here, in one place, rather than at each of the hundreds of calls that refuse something: a call cannot forget its
//! code, and the words are held by tests (`parse/tests/refusals.rs`, and the stories' documents).

use super::Code;

/// Words, and the code of a message that has them; the first that fit win.
type Words = (&'static [&'static str], Code);

/// What `parse` says. Each entry's words must all be in the message.
const REFUSALS: &[Words] = &[
    (&["warm up"], Code::WarmupWithoutEffect),
    (
        &["missing: want one of allowOrigins"],
        Code::CorsWithoutOrigins,
    ),
    (
        &["has no effect without splitExternal"],
        Code::LocalOriginWithoutSplit,
    ),
    (
        &["is the region that it comes from"],
        Code::FailoverToItself,
    ),
    (
        &["has no effect with attempts: 0"],
        Code::RetriesOffWithSettings,
    ),
    (&["missing; want"], Code::MissingField),
    (&["missing: want one of"], Code::OneOf),
    (&["only one of them can be"], Code::OneOf),
    (&["unknown field"], Code::UnknownField),
    (&["the key ", " is there twice"], Code::KeyTwice),
    (&["is there twice in another letter case"], Code::KeyTwice),
    (&["is in this file twice"], Code::DocumentTwice),
    (
        &["is also at ", "keep one, or rename one"],
        Code::DocumentTwice,
    ),
    (
        &["found ", "want the name of one of the ports"],
        Code::EndpointPortUnknown,
    ),
    (
        &["matches nothing: a path starts with /"],
        Code::PathWithoutSlash,
    ),
    (&["is used twice", "; keep one"], Code::EndpointTwice),
    (&["is used twice"], Code::UsedTwice),
    (&["is the same header as"], Code::UsedTwice),
    (&["found an empty list"], Code::EmptyList),
    (&["found an empty text"], Code::EmptyText),
    (&["without quotes, which kubectl"], Code::Unquoted),
    (&["a text; write"], Code::Unquoted),
    (&["found the control character"], Code::Encoding),
    (&["want UTF-8"], Code::Encoding),
    (&["levels deep"], Code::TooLarge),
    (&["this is where the limit of"], Code::TooLarge),
    (&["in one file; split it"], Code::TooLarge),
    (&["values", "aliases"], Code::TooLarge),
    (&["the tag "], Code::BadTag),
    (&["its tag "], Code::BadTag),
    (&["this alias"], Code::BadTag),
    (&["\"\" merges"], Code::BadTag),
    (&["as a key, want a text"], Code::WrongType),
    (&["which could mean none or unlimited"], Code::ZeroLimit),
    (&["a duration such as"], Code::BadDuration),
    (&["at least 1ms"], Code::BadDuration),
    (&["regular expression"], Code::BadRegex),
    (&["RE2"], Code::BadRegex),
    (&["the weights sum"], Code::WeightsSum),
    (&["pseudo-header"], Code::BadHeader),
    (&["is no header"], Code::BadHeader),
    (&["each proxy writes its own"], Code::BadHeader),
    (&["the Host header is changed"], Code::BadHeader),
    (&["a header's value"], Code::BadHeaderValue),
    (&["changes nothing"], Code::ChangesNothing),
    (&["back to the same place"], Code::ChangesNothing),
    (&["has no effect"], Code::WithoutEffectBeside),
    (&["which would select everything"], Code::BadSelector),
];

/// What `parse` says if none of [`REFUSALS`] fits, and no path decides.
const VALUES: &[Words] = &[
    (&["found the number", "want a "], Code::OutOfRange),
    (&["whole number"], Code::OutOfRange),
    (&["prime number"], Code::OutOfRange),
    (&["a mapping"], Code::WrongType),
    (&["want a list"], Code::WrongType),
    (&["want a text"], Code::WrongType),
    (&["want true or false"], Code::WrongType),
    (&["found a list"], Code::WrongType),
    (&["found a mapping"], Code::WrongType),
    (&["found nothing"], Code::WrongType),
    (&["a path "], Code::BadPath),
    (&["IP address"], Code::BadAddress),
    (&["network such as"], Code::BadAddress),
    (&["did you mean"], Code::UnknownWord),
];

impl Code {
    /// Of what `parse` refuses.
    pub(crate) fn of_refusal(path: &str, message: &str) -> Self {
        let message = &own_words(message);
        if let Some(code) = first(REFUSALS, message) {
            return code;
        }
        if message.contains("not supported yet") {
            return match path {
                "kind" => Self::KindNotSupported,
                _ if message.starts_with("not supported yet") => Self::NotSupportedYet,
                _ => Self::ValueNotSupported,
            };
        }
        let field = last_field(path);
        match path {
            "" => return Self::Syntax,
            "kind" => return Self::UnknownKind,
            "apiVersion" => return Self::UnknownApiVersion,
            _ if path.starts_with("metadata.") && !message.contains("a mapping") => {
                return Self::BadName;
            }
            _ => {}
        }
        if let Some(code) = first(VALUES, message) {
            return code;
        }
        match field {
            "host" | "hosts" | "sniHosts" | "authority" | "sni" => Self::BadHost,
            "address" | "bind" | "destinationSubnets" => Self::BadAddress,
            _ if path.contains("abels") || path.contains("elector") => Self::BadSelector,
            _ if message.contains(", want ") && message.contains(": ") => Self::UnknownWord,
            _ => Self::BadValue,
        }
    }
}

/// The message without what stands between quotes: that is what an operator has written, or could.
fn own_words(message: &str) -> String {
    let mut words = String::with_capacity(message.len());
    let (mut quoted, mut escaped) = (false, false);
    for c in message.chars() {
        let quote = c == '"' && !escaped;
        if quote || !quoted {
            words.push(c);
        }
        escaped = quoted && c == '\\' && !escaped;
        quoted ^= quote;
    }
    words
}

fn first(table: &[Words], message: &str) -> Option<Code> {
    let fits = |(words, _): &&Words| words.iter().all(|word| message.contains(word));
    table.iter().find(fits).map(|&(_, code)| code)
}

/// `host` of `spec.http[0].route[1].destination.host`, `hosts` of `spec.hosts[2]`.
fn last_field(path: &str) -> &str {
    let last = path.rsplit_once('.').map_or(path, |(_, last)| last);
    last.split_once('[').map_or(last, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ParseLimits, parse};

    #[test]
    fn what_an_operator_writes_does_not_choose_the_code() {
        let code = |kind: &str, spec: &str| {
            let text = format!(
                "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n"
            );
            let errors = parse("f", &text, "default", &ParseLimits::default()).expect_err(&text);
            errors.first().expect("one").code
        };
        let simple = |word: &str| {
            let spec = format!("{{host: a, trafficPolicy: {{loadBalancer: {{simple: {word}}}}}}}");
            code("DestinationRule", &spec)
        };
        for word in [
            "RE2",
            "'warm up'",
            "'unknown field'",
            "'a \" has no effect'",
        ] {
            assert_eq!(simple(word), simple("NOTHING"), "{word}");
        }
        assert_eq!(simple("NOTHING"), Code::UnknownWord);
        assert_eq!(
            code("DestinationRule", "{host: unknown field}"),
            Code::BadHost
        );
        assert_eq!(own_words(r#"a "b \" c" d"#), r#"a "" d"#);
    }
}
