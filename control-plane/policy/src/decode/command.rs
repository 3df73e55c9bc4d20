//! Envoy's command operators in header values: `%REQ(X-User?X-Guest):20%`, `%PROTOCOL%`, `%%`.
//!
//! Only checked here: the sidecar compiles them, stock Envoy reads the same text. What one of the two would not
//! understand, or could not know when the header is written, is refused.
//! Source: Envoy's "Command Operators" of access logs and custom headers.

use super::{http::header_name_fault, unknown_word};
use crate::yaml::quoted;

/// Which way the header goes that the value is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Request,
    Response,
}

/// What stands between the percent signs.
struct Command {
    name: &'static str,
    /// A header's name in brackets.
    header: bool,
    /// Not before the answer is there, or the endpoint chosen.
    late: bool,
}

const fn command(name: &'static str) -> Command {
    Command {
        name,
        header: false,
        late: false,
    }
}

const fn late(name: &'static str) -> Command {
    Command {
        late: true,
        ..command(name)
    }
}

const COMMANDS: [Command; 13] = [
    command("DOWNSTREAM_REMOTE_ADDRESS"),
    command("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"),
    command("DOWNSTREAM_LOCAL_ADDRESS"),
    command("DOWNSTREAM_PEER_URI_SAN"),
    Command {
        header: true,
        ..command("REQ")
    },
    Command {
        header: true,
        ..late("RESP")
    },
    command("PROTOCOL"),
    late("RESPONSE_CODE"),
    late("UPSTREAM_HOST"),
    command("UPSTREAM_CLUSTER"),
    command("ROUTE_NAME"),
    command("START_TIME"),
    command("HOSTNAME"),
];

/// What is wrong with the substitutions of a value, if anything.
pub(crate) fn substitution_fault(value: &str, way: Way) -> Option<String> {
    let mut rest = value;
    let mut before = 0; // characters that were read
    while let Some((plain, opened)) = rest.split_once('%') {
        let place = before + plain.chars().count() + 1;
        if let Some(tail) = opened.strip_prefix('%') {
            before = place + 1;
            rest = tail;
            continue;
        }
        let Some((inside, tail)) = opened.split_once('%') else {
            return Some(format!(
                "the % at character {place} opens a substitution that nothing closes; write %% for the sign"
            ));
        };
        if let Some(fault) = command_fault(inside, way) {
            return Some(format!(
                "the substitution %{inside}% at character {place} {fault}"
            ));
        }
        before = place + inside.chars().count() + 1;
        rest = tail;
    }
    None
}

/// `NAME`, `NAME(header?other):length`.
fn command_fault(inside: &str, way: Way) -> Option<String> {
    let end = inside.find(['(', ':']).unwrap_or(inside.len());
    let (name, rest) = inside.split_at_checked(end)?;
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        let known = COMMANDS.map(|command| command.name);
        return Some(format!(
            "is unknown: {}",
            unknown_word(name, "one of", &known)
        ));
    };
    if command.late && way == Way::Request {
        return Some(
            "is not known yet when the request is sent; write it into a response header".to_owned(),
        );
    }
    if command.header {
        return header_argument_fault(name, rest);
    }
    (!rest.is_empty()).then(|| format!("takes no argument; write %{name}%"))
}

/// `(X-User?X-Guest):20`; the second header and the length may be missing.
fn header_argument_fault(name: &str, rest: &str) -> Option<String> {
    let want = || Some(format!("names no header; write %{name}(X-Header)%"));
    let Some((argument, length)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'))
    else {
        return want();
    };
    let (first, other) = argument.split_once('?').unwrap_or((argument, ""));
    if first.is_empty() && other.is_empty() {
        return want();
    }
    for header in [first, other].into_iter().filter(|name| !name.is_empty()) {
        let pseudo = matches!(header, ":path" | ":authority" | ":method" | ":scheme");
        if pseudo && name == "REQ" {
            continue;
        }
        if header_name_fault(header).is_some() {
            return Some(format!("names {}, which is no header", quoted(header)));
        }
    }
    let bad = !length.is_empty()
        && !length
            .strip_prefix(':')
            .is_some_and(|n| n.parse::<u16>().is_ok_and(|n| n > 0));
    bad.then(|| format!("ends in {}; want a length such as :20", quoted(length)))
}

#[cfg(test)]
mod tests {
    use super::{Way, substitution_fault};

    #[test]
    fn what_a_sidecar_and_envoy_can_fill_in_is_accepted() {
        for value in [
            "plain",
            "100%%",
            "%DOWNSTREAM_REMOTE_ADDRESS%",
            "a %REQ(X-User)% b %PROTOCOL%",
            "%REQ(X-User?:authority):20%%%",
            "%UPSTREAM_CLUSTER%",
        ] {
            assert_eq!(substitution_fault(value, Way::Request), None, "{value}");
        }
        for value in ["%RESP(Server):7%", "%RESPONSE_CODE%", "%UPSTREAM_HOST%"] {
            assert_eq!(substitution_fault(value, Way::Response), None, "{value}");
        }
    }

    #[test]
    fn what_they_cannot_is_refused_with_its_place() {
        for (value, expected) in [
            (
                "ä%",
                "the % at character 2 opens a substitution that nothing closes; write %% for the sign",
            ),
            (
                "%%%PROTOKOL%",
                "the substitution %PROTOKOL% at character 3 is unknown: found \"PROTOKOL\", want one of: \
                 DOWNSTREAM_REMOTE_ADDRESS, DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT, DOWNSTREAM_LOCAL_ADDRESS, \
                 DOWNSTREAM_PEER_URI_SAN, REQ, RESP, PROTOCOL, RESPONSE_CODE, UPSTREAM_HOST, UPSTREAM_CLUSTER, \
                 ROUTE_NAME, START_TIME, HOSTNAME; did you mean \"PROTOCOL\"?",
            ),
            (
                "%REQ%",
                "the substitution %REQ% at character 1 names no header; write %REQ(X-Header)%",
            ),
            (
                "%REQ()%",
                "the substitution %REQ()% at character 1 names no header; write %REQ(X-Header)%",
            ),
            (
                "%REQ(a b)%",
                "the substitution %REQ(a b)% at character 1 names \"a b\", which is no header",
            ),
            (
                "%REQ(a):0%",
                "the substitution %REQ(a):0% at character 1 ends in \":0\"; want a length such as :20",
            ),
            (
                "%START_TIME(x)%",
                "the substitution %START_TIME(x)% at character 1 takes no argument; write %START_TIME%",
            ),
            (
                "%PROTOCOL%%RESP(a)%",
                "the substitution %RESP(a)% at character 11 is not known yet when the request is sent; write it into \
                 a response header",
            ),
        ] {
            assert_eq!(
                substitution_fault(value, Way::Request).as_deref(),
                Some(expected),
                "{value}"
            );
        }
    }
}
