//! Holds the tables of `docs/XDS.md` to the list of fields that are read: each field of these messages has its row, and
//! the row of one that is not read begins with "refused".

use std::collections::BTreeMap;

use super::{BY_MESSAGE, POOL};

const SHOWN: [&str; 9] = [
    "envoy.config.listener.v3.Listener",
    "envoy.config.listener.v3.FilterChain",
    "envoy.config.listener.v3.FilterChainMatch",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.config.route.v3.VirtualHost",
    "envoy.config.route.v3.Route",
    "envoy.config.route.v3.RouteAction",
    "envoy.config.cluster.v3.Cluster",
];

/// Whether each field is refused, as the table under `#### \`name\`` says it.
fn documented(name: &str) -> BTreeMap<String, bool> {
    let page = include_str!("../../../../../docs/XDS.md");
    let title = format!("\n#### `{name}`\n");
    let table = page.split(&title).nth(1).unwrap_or_default();
    let table = table.split("\n#").next().unwrap_or_default();
    let mut fields = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, status] = cells.as_slice() else {
            panic!("{name}: {row:?} has no two cells");
        };
        for field in names.split(", ") {
            let field = field.trim_matches('`').to_owned();
            let refused = status.starts_with("refused");
            assert!(fields.insert(field, refused).is_none(), "{name}: {row}");
        }
    }
    fields
}

#[test]
fn every_field_of_the_messages_that_servers_send_is_in_the_docs_and_refused_if_it_says_so() {
    for name in SHOWN {
        let descriptor = POOL.get_message_by_name(name).unwrap();
        let read = BY_MESSAGE[name];
        let expected: BTreeMap<String, bool> = descriptor
            .fields()
            .map(|field| (field.name().to_owned(), !read.contains(&field.name())))
            .collect();
        assert_eq!(documented(name), expected, "{name}: is refused");
    }
}
