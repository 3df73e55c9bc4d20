//! `/dns`: what the DNS server knows and has done, for people.

use super::Running;

/// Names shown.
const MAX_NAMES: usize = 1_000;

/// `part`: of the names that are shown.
pub(crate) fn show(running: &Running, part: &str) -> String {
    let mut text = String::new();
    let join = |all: &[std::net::SocketAddr]| {
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        match all.is_empty() {
            true => "none".to_owned(),
            false => all.join(", "),
        }
    };
    let resolver = &running.resolver;
    text.push_str(&format!("listens on: {}\n", join(&running.addresses)));
    let servers = resolver.forwarder.servers.now();
    text.push_str(&format!("forwards to: {}\n", join(&servers)));
    if let Some(scope) = resolver.names.scope() {
        let how = match scope.on_demand {
            true => "as they are looked up",
            false => "all at once",
        };
        text.push_str(&format!(
            "names come: {how}\nnamespace: {}\ndomain: {}\n",
            scope.namespace, scope.domain
        ));
    }
    text.push_str("queries:");
    for (outcome, count) in resolver.counters.outcomes() {
        text.push_str(&format!(" {outcome}={count}"));
    }
    let book = resolver.names.book();
    text.push_str(&format!("\n\n{} names\n", book.len()));
    let fitting = book.all().filter(|(name, _)| name.contains(part));
    for (index, (name, record)) in fitting.enumerate() {
        if index == MAX_NAMES {
            text.push_str("... and more; ?name=PART shows others\n");
            break;
        }
        let addresses: Vec<String> = record.addresses().map(|ip| ip.to_string()).collect();
        let ports = record.ports.iter().flatten();
        let ports: Vec<String> = ports.map(|(name, port)| format!("{name}:{port}")).collect();
        let parts = [name.to_owned(), addresses.join(" "), ports.join(" ")];
        let said: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        text.push_str(&said.join("  "));
        if record.host != name {
            text.push_str(&format!("  ({})", record.host));
        }
        text.push('\n');
    }
    text
}
