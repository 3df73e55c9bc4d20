//! Edits of headers.

use super::*;

pub(super) fn writing(name: &str, value: &str, append_action: i32) -> rules_proto::HeaderMutation {
    rules_proto::HeaderMutation {
        action: Some(Action::Append(HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_owned(),
                value: value.to_owned(),
                ..HeaderValue::default()
            }),
            append_action,
            ..HeaderValueOption::default()
        })),
    }
}

pub(super) fn mutations(request: Vec<rules_proto::HeaderMutation>) -> mutation_proto::Mutations {
    mutation_proto::Mutations {
        request_mutations: request,
        ..mutation_proto::Mutations::default()
    }
}

#[test]
fn each_edit_of_a_header_is_taken_or_refused_by_its_name() {
    let remove = |name: &str| rules_proto::HeaderMutation {
        action: Some(Action::Remove(name.to_owned())),
    };
    let on_match = |key_matcher| rules_proto::HeaderMutation {
        action: Some(Action::RemoveOnMatch(
            rules_proto::header_mutation::RemoveOnMatch { key_matcher },
        )),
    };
    for (edit, expected) in [
        (writing("x-a", "1", 0), "accepted"),
        (writing("x-a", "%REQ(x-b)%", 1), "accepted"),
        (writing("x-a", "1", 2), "accepted"),
        (writing("x-a", "1", 3), "accepted"),
        (remove("x-a"), "accepted"),
        (on_match(Some(exact("x-a"))), "accepted"),
        (writing("x-a", "1", 4), "append.append_action: 4 is unknown"),
        (
            writing(":path", "/", 2),
            "append.header.key: \":path\" is not a header name",
        ),
        (
            writing("x-a", "%NONSENSE%", 2),
            "append.header.value: %NONSENSE% is not supported",
        ),
        (remove("host"), "remove: `host` cannot be edited"),
        (
            remove("content-length"),
            "remove: `content-length` is about one connection",
        ),
        (on_match(None), "remove_on_match.key_matcher: missing"),
        (rules_proto::HeaderMutation::default(), "remove: missing"),
    ] {
        let config = mutation_proto::HeaderMutation {
            mutations: Some(mutations(vec![edit.clone()])),
            ..mutation_proto::HeaderMutation::default()
        };
        let found = refusal_of(any(MUTATION, &config));
        let found = found
            .strip_prefix("mutations.request_mutations[0].")
            .unwrap_or(&found);
        assert!(found.starts_with(expected), "{edit:?}: {found}");
    }
    let trailers = mutation_proto::HeaderMutation {
        mutations: Some(mutation_proto::Mutations {
            response_trailers_mutations: vec![remove("x-a")],
            ..mutation_proto::Mutations::default()
        }),
        ..mutation_proto::HeaderMutation::default()
    };
    assert_eq!(
        refusal_of(any(MUTATION, &trailers)),
        "mutations.response_trailers_mutations: not supported yet"
    );
}
