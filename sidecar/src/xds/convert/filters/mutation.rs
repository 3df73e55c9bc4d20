//! Edits of headers by a filter → [`HeaderMutation`].

use outrigger_core::{HeaderMutation, Mutation, Put};
use outrigger_proto::envoy::{
    config::{
        common::mutation_rules::v3::{self as rules, header_mutation::Action},
        core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction},
    },
    extensions::filters::http::header_mutation::v3 as proto,
};

use super::super::{Converted, matches, refuse};

pub(super) fn convert(from: Option<&proto::Mutations>) -> Converted<HeaderMutation> {
    let Some(from) = from else {
        return Ok(HeaderMutation::default());
    };
    let all = |field: &str, from: &[rules::HeaderMutation]| -> Converted<Vec<Mutation>> {
        let each = from.iter().enumerate();
        each.map(|(index, one)| {
            mutation(one).map_err(|error| error.under(format!("mutations.{field}[{index}]")))
        })
        .collect()
    };
    Ok(HeaderMutation {
        request: all("request_mutations", &from.request_mutations)?,
        response: all("response_mutations", &from.response_mutations)?,
    })
}

fn mutation(from: &rules::HeaderMutation) -> Converted<Mutation> {
    match &from.action {
        Some(Action::Remove(name)) => matches::header_name("remove", name).map(Mutation::Remove),
        Some(Action::Append(option)) => put(option).map_err(|error| error.under("append")),
        Some(Action::RemoveOnMatch(found)) => match &found.key_matcher {
            Some(names) => matches::string_match(names)
                .map(|names| Mutation::RemoveMatching(names.whole()))
                .map_err(|error| error.under("remove_on_match.key_matcher")),
            None => refuse("remove_on_match.key_matcher", "missing"),
        },
        None => refuse(
            "remove",
            "missing; one of remove, append, remove_on_match must be set",
        ),
    }
}

fn put(from: &HeaderValueOption) -> Converted<Mutation> {
    let (name, value) = matches::header_value(from)?;
    let put = match HeaderAppendAction::try_from(from.append_action) {
        Ok(HeaderAppendAction::AppendIfExistsOrAdd) => Put::Append,
        Ok(HeaderAppendAction::AddIfAbsent) => Put::IfAbsent,
        Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => Put::Overwrite,
        Ok(HeaderAppendAction::OverwriteIfExists) => Put::OverwriteExisting,
        Err(_unknown) => {
            let message = format!("{} is unknown", from.append_action);
            return refuse("append_action", message);
        }
    };
    Ok(Mutation::Put(name, value, put))
}
