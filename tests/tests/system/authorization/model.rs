//! Policies and requests made at random, and what they mean: a small reading of the documents that shares no code with
//! what is judged.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Value, json};

/// A small generator of numbers (xorshift), so that a printed seed makes the same test again.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from((self.next() >> 11) % u64::try_from(end).unwrap()).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Namespace and service account of the callers; the last comes in plain text.
pub(super) const CALLERS: [Option<(&str, &str)>; 5] = [
    Some(("default", "web")),
    Some(("default", "batch")),
    Some(("bank", "teller")),
    Some(("bank-eu", "web")),
    None,
];
pub(super) const ADDRESSES: [&str; 3] = ["127.0.0.1", "127.0.0.2", "127.0.3.1"];
pub(super) const SERVER_NAMES: [&str; 3] = [
    "outbound_.9080_._.reviews.default.svc.cluster.local",
    "reviews.example.com",
    "other.example.org",
];
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
const PATHS: [&str; 10] = [
    "/",
    "/reviews",
    "/reviews/1",
    "/reviews/1/stars",
    "/admin",
    "/admin/users",
    "/users/ann/reviews/7",
    "/users/ann/orders",
    "/a/../admin",
    "/reviews?admin=1",
];
const HOSTS: [&str; 6] = [
    "reviews",
    "reviews:9080",
    "Reviews.default",
    "reviews.default.svc.cluster.local:9080",
    "api.example.com",
    "API.example.com:9080",
];
const TEAMS: [&str; 5] = ["red", "blue-1", "blue-2", "my-red", "re*d"];
const FORWARDED: [&str; 4] = ["10.1.2.3", "10.1.2.3, 192.0.2.7", "2001:db8::7", "nonsense"];

/// What is asked, and by whom.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) caller: usize,
    pub(super) address: IpAddr,
    pub(super) server_name: &'static str,
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) host: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Ask {
    pub(super) fn any(random: &mut Random) -> Self {
        let mut headers = Vec::new();
        if random.chance(60) {
            headers.push(("x-team", random.pick(&TEAMS).to_owned()));
        }
        if random.chance(50) {
            headers.push(("x-forwarded-for", random.pick(&FORWARDED).to_owned()));
        }
        Self {
            caller: random.below(CALLERS.len()),
            address: random.pick(&ADDRESSES).parse().unwrap(),
            server_name: random.pick(&SERVER_NAMES),
            method: random.pick(&METHODS),
            path: random.pick(&PATHS),
            host: random.pick(&HOSTS),
            headers,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find_map(|(found, value)| (*found == name).then_some(value.as_str()))
    }

    /// As it is judged: without the query, without dot segments.
    fn judged_path(&self) -> &str {
        match self.path {
            "/a/../admin" => "/admin",
            path => path.split('?').next().unwrap(),
        }
    }

    fn remote(&self) -> IpAddr {
        let said = self.header("x-forwarded-for");
        let last = said.and_then(|all| all.rsplit(',').next()?.trim().parse().ok());
        last.unwrap_or(self.address)
    }

    pub(super) fn identity(&self) -> Option<String> {
        let (namespace, account) = CALLERS[self.caller]?;
        Some(format!(
            "spiffe://cluster.local/ns/{namespace}/sa/{account}"
        ))
    }
}

/// What a clause looks at. Each has a name in documents, and one for its opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Principals,
    Namespaces,
    ServiceAccounts,
    IpBlocks,
    RemoteIpBlocks,
    Hosts,
    Ports,
    Methods,
    Paths,
    Header,
    SourceIp,
    RemoteIp,
    SourceNamespace,
    SourcePrincipal,
    DestinationIp,
    DestinationPort,
    Sni,
}

const OF_SOURCES: [Field; 4] = [
    Field::Principals,
    Field::Namespaces,
    Field::IpBlocks,
    Field::RemoteIpBlocks,
];
const OF_OPERATIONS: [Field; 4] = [Field::Hosts, Field::Ports, Field::Methods, Field::Paths];
const OF_CONDITIONS: [Field; 8] = [
    Field::Header,
    Field::SourceIp,
    Field::RemoteIp,
    Field::SourceNamespace,
    Field::SourcePrincipal,
    Field::DestinationIp,
    Field::DestinationPort,
    Field::Sni,
];

impl Field {
    const fn name(self) -> &'static str {
        match self {
            Self::Principals => "principals",
            Self::Namespaces => "namespaces",
            Self::ServiceAccounts => "serviceAccounts",
            Self::IpBlocks => "ipBlocks",
            Self::RemoteIpBlocks => "remoteIpBlocks",
            Self::Hosts => "hosts",
            Self::Ports => "ports",
            Self::Methods => "methods",
            Self::Paths => "paths",
            Self::Header => "request.headers[x-team]",
            Self::SourceIp => "source.ip",
            Self::RemoteIp => "remote.ip",
            Self::SourceNamespace => "source.namespace",
            Self::SourcePrincipal => "source.principal",
            Self::DestinationIp => "destination.ip",
            Self::DestinationPort => "destination.port",
            Self::Sni => "connection.sni",
        }
    }

    const fn values(self) -> &'static [&'static str] {
        match self {
            Self::Principals | Self::SourcePrincipal => &[
                "cluster.local/ns/default/sa/web",
                "cluster.local/ns/default/sa/batch",
                "cluster.local/ns/bank*",
                "*/sa/web",
                "*",
                "other.example/ns/default/sa/web",
            ],
            Self::Namespaces | Self::SourceNamespace => {
                &["default", "bank", "bank*", "*-eu", "*", "nobody"]
            }
            Self::ServiceAccounts => &["web", "batch", "bank/teller", "bank-eu/web", "bank/web"],
            Self::IpBlocks | Self::SourceIp => &[
                "127.0.0.1",
                "127.0.0.2/32",
                "127.0.0.0/24",
                "127.0.3.0/24",
                "10.0.0.0/8",
            ],
            Self::RemoteIpBlocks | Self::RemoteIp => &[
                "10.0.0.0/8",
                "10.1.2.3",
                "192.0.2.0/24",
                "2001:db8::/32",
                "127.0.0.0/8",
                "127.0.0.2",
            ],
            Self::Hosts => &[
                "reviews",
                "reviews:*",
                "REVIEWS.default",
                "*.example.com",
                "api.*",
                "*:9080",
                "*",
            ],
            Self::Ports | Self::DestinationPort => &["9080", "9080", "80", "9081"],
            Self::Methods => &["GET", "POST", "PUT", "P*", "*ET", "*", "get"],
            Self::Paths => &[
                "/reviews",
                "/reviews/*",
                "*/stars",
                "/admin*",
                "/",
                "/users/{*}/reviews/{*}",
                "/users/{**}",
                "/{*}/{*}",
                "*",
            ],
            Self::Header => &["red", "blue-*", "*-red", "*", "re*d", "nobody"],
            Self::DestinationIp => &["127.0.0.0/8", "127.0.0.1", "10.0.0.0/8"],
            Self::Sni => &["reviews.example.com", "outbound_*", "*.example.org", "*"],
        }
    }
}

#[derive(Clone, Debug)]
struct Clause {
    field: Field,
    not: bool,
    values: Vec<&'static str>,
}

impl Clause {
    fn any(random: &mut Random, field: Field) -> Self {
        let count = 1 + random.below(3);
        let values: BTreeSet<_> = (0..count).map(|_| random.pick(field.values())).collect();
        Self {
            field,
            not: random.chance(30),
            values: values.into_iter().collect(),
        }
    }

    /// For the list of what has decided.
    fn label(&self) -> String {
        let template = self.values.iter().any(|value| value.contains('{'));
        let not = if self.not { "not " } else { "" };
        let template = if template { " {}" } else { "" };
        format!("{not}{}{template}", self.field.name())
    }

    fn holds(&self, ask: &Ask, home: &str) -> bool {
        let mut values = self.values.iter();
        values.any(|value| self.matches(value, ask, home)) != self.not
    }

    /// `home` = the document's namespace.
    fn matches(&self, value: &str, ask: &Ask, home: &str) -> bool {
        let caller = CALLERS[ask.caller];
        match self.field {
            Field::Principals | Field::SourcePrincipal => {
                caller.is_some_and(|(namespace, account)| {
                    text(value, &format!("cluster.local/ns/{namespace}/sa/{account}"))
                })
            }
            Field::Namespaces | Field::SourceNamespace => {
                caller.is_some_and(|(namespace, _)| text(value, namespace))
            }
            Field::ServiceAccounts => {
                let (namespace, name) = value.split_once('/').unwrap_or((home, value));
                caller == Some((namespace, name))
            }
            Field::IpBlocks | Field::SourceIp => within(value, ask.address),
            Field::RemoteIpBlocks | Field::RemoteIp => within(value, ask.remote()),
            Field::Hosts => text(&value.to_ascii_lowercase(), &ask.host.to_ascii_lowercase()),
            Field::Ports | Field::DestinationPort => value == "9080",
            Field::Methods => text(value, ask.method),
            Field::Paths if value.contains('{') => template(value, ask.judged_path()),
            Field::Paths => text(value, ask.judged_path()),
            Field::Header => ask.header("x-team").is_some_and(|found| text(value, found)),
            Field::DestinationIp => within(value, "127.0.0.1".parse().unwrap()),
            // In plain text nobody says one.
            Field::Sni => caller.is_some() && text(value, ask.server_name),
        }
    }
}

fn text(value: &str, found: &str) -> bool {
    if value == "*" {
        return !found.is_empty();
    }
    match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(end), _) => found.ends_with(end),
        (None, Some(start)) => found.starts_with(start),
        (None, None) => found == value,
    }
}

fn within(network: &str, address: IpAddr) -> bool {
    let (base, bits) = network.split_once('/').unwrap_or((network, ""));
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (base, address) = (octets(base.parse().unwrap()), octets(address));
    let bits = bits.parse().unwrap_or(base.len() * 8);
    base.len() == address.len()
        && (0..bits).all(|bit| {
            let mask = 0x80 >> (bit % 8);
            base[bit / 8] & mask == address[bit / 8] & mask
        })
}

fn template(value: &str, path: &str) -> bool {
    let (wanted, found): (Vec<_>, Vec<_>) = (value.split('/').collect(), path.split('/').collect());
    for (index, segment) in wanted.iter().enumerate() {
        match (*segment, found.get(index)) {
            // Nothing stands behind it here.
            ("{**}", Some(_)) => return true,
            ("{*}", Some(found)) if !found.is_empty() => {}
            (literal, Some(found)) if literal == *found => {}
            _ => return false,
        }
    }
    wanted.len() == found.len()
}

#[derive(Clone, Debug, Default)]
struct Rule {
    from: Vec<Vec<Clause>>,
    to: Vec<Vec<Clause>>,
    when: Vec<Clause>,
}

impl Rule {
    fn any(random: &mut Random) -> Self {
        let from = (0..random.below(3)).map(|_| {
            if random.chance(20) {
                vec![Clause::any(random, Field::ServiceAccounts)]
            } else {
                group(random, &OF_SOURCES)
            }
        });
        let from = from.collect();
        let to = (0..random.below(3))
            .map(|_| group(random, &OF_OPERATIONS))
            .collect();
        let when = match random.chance(55) {
            true => group(random, &OF_CONDITIONS),
            false => Vec::new(),
        };
        Self { from, to, when }
    }

    fn holds(&self, ask: &Ask, home: &str) -> bool {
        let one = |groups: &[Vec<Clause>]| {
            groups.is_empty()
                || groups
                    .iter()
                    .any(|group| group.iter().all(|clause| clause.holds(ask, home)))
        };
        one(&self.from) && one(&self.to) && self.when.iter().all(|clause| clause.holds(ask, home))
    }

    fn clauses_mut(&mut self) -> impl Iterator<Item = &mut Vec<Clause>> {
        let groups = self.from.iter_mut().chain(&mut self.to);
        groups.chain(std::iter::once(&mut self.when))
    }

    fn json(&self) -> Value {
        let group = |group: &[Clause]| {
            let fields = group.iter().map(|clause| {
                let name = clause.field.name();
                let name = match clause.not {
                    true => format!("not{}{}", name[..1].to_uppercase(), &name[1..]),
                    false => name.to_owned(),
                };
                (name, json!(clause.values))
            });
            Value::Object(fields.collect())
        };
        let mut rule = serde_json::Map::new();
        if !self.from.is_empty() {
            let all = self.from.iter().map(|one| json!({ "source": group(one) }));
            rule.insert("from".to_owned(), all.collect());
        }
        if !self.to.is_empty() {
            let all = self.to.iter().map(|one| json!({ "operation": group(one) }));
            rule.insert("to".to_owned(), all.collect());
        }
        if !self.when.is_empty() {
            let all = self.when.iter().map(|clause| {
                let values = if clause.not { "notValues" } else { "values" };
                json!({ "key": clause.field.name(), values: clause.values })
            });
            rule.insert("when".to_owned(), all.collect());
        }
        Value::Object(rule)
    }
}

/// One or two of these fields, each once.
fn group(random: &mut Random, fields: &[Field]) -> Vec<Clause> {
    let mut group: Vec<Clause> = Vec::new();
    for _ in 0..=random.below(2) {
        let field = random.pick(fields);
        if group.iter().all(|clause| clause.field != field) {
            group.push(Clause::any(random, field));
        }
    }
    group
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
    Audit,
}

/// One document.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    action: Action,
    rules: Vec<Rule>,
    /// It selects the workload that is asked about.
    pub(super) selects: bool,
    /// By a label, in the namespace, or from the root namespace.
    place: usize,
}

impl Policy {
    pub(super) fn any(random: &mut Random) -> Self {
        let action = match random.below(10) {
            0..=5 => Action::Allow,
            6..=8 => Action::Deny,
            _ => Action::Audit,
        };
        // One that denies has to be narrower, or everything is denied.
        let rules = match action {
            Action::Allow => random.below(12).min(3),
            Action::Deny | Action::Audit => 1,
        };
        Self {
            action,
            rules: (0..rules).map(|_| Rule::any(random)).collect(),
            selects: random.chance(85),
            place: random.below(3),
        }
    }

    const fn namespace(&self) -> &'static str {
        if self.place == 2 {
            "istio-system"
        } else {
            "default"
        }
    }

    /// The document in this place of the round.
    pub(super) fn yaml(&self, slot: usize) -> String {
        let namespace = self.namespace();
        let mut spec = json!({
            "action": format!("{:?}", self.action).to_uppercase(),
            "rules": self.rules.iter().map(Rule::json).collect::<Vec<_>>(),
        });
        let labels = match (self.selects, self.place) {
            (true, 0) => Some("reviews"),
            (true, _) => None,
            (false, _) => Some("nobody"),
        };
        if let Some(label) = labels {
            spec["selector"] = json!({ "matchLabels": { "app": label } });
        }
        // The namespace is part of what a document is called: the one of the other place would stay.
        let idle = if self.place == 2 {
            "default"
        } else {
            "istio-system"
        };
        let idle = json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": { "name": format!("p{slot}"), "namespace": idle },
            "spec": { "selector": { "matchLabels": { "app": "nobody" } } },
        });
        let own = json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": { "name": format!("p{slot}"), "namespace": namespace },
            "spec": spec,
        });
        format!("{own}\n---\n{idle}\n")
    }
}

/// Whether the documents let it through.
pub(super) fn allows(policies: &[Policy], ask: &Ask) -> bool {
    let of = |action: Action| {
        policies
            .iter()
            .filter(move |policy| policy.selects && policy.action == action)
    };
    let holds = |policy: &Policy| {
        let mut rules = policy.rules.iter();
        rules.any(|rule| rule.holds(ask, policy.namespace()))
    };
    if of(Action::Deny).any(holds) {
        return false;
    }
    of(Action::Allow).next().is_none() || of(Action::Allow).any(holds)
}

/// Fields without which the answer would be another.
pub(super) fn decisive(policies: &[Policy], ask: &Ask) -> BTreeSet<String> {
    let answer = allows(policies, ask);
    let mut found = BTreeSet::new();
    for policy in 0..policies.len() {
        for rule in 0..policies[policy].rules.len() {
            let groups = policies[policy].rules[rule].clone().clauses_mut().count();
            for group in 0..groups {
                let mut clause = 0;
                loop {
                    let mut without = policies.to_vec();
                    let Some(group) = without[policy].rules[rule].clauses_mut().nth(group) else {
                        break;
                    };
                    if clause >= group.len() {
                        break;
                    }
                    let removed = group.remove(clause);
                    clause += 1;
                    if allows(&without, ask) != answer {
                        found.insert(removed.label());
                    }
                }
            }
        }
    }
    found
}

/// Every label that has to have been decisive.
pub(super) fn labels() -> BTreeSet<String> {
    let all = OF_SOURCES
        .iter()
        .chain(&OF_OPERATIONS)
        .chain(&OF_CONDITIONS);
    let all = all.chain(&[Field::ServiceAccounts]);
    let mut labels: BTreeSet<String> = all
        .flat_map(|field| [field.name().to_owned(), format!("not {}", field.name())])
        .collect();
    labels.insert("paths {}".to_owned());
    labels
}
