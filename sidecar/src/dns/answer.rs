//! What a query is answered with.
//!
//! ```text
//! not a query ──► FORMERR | nothing          not IN, no host's name ──► forward
//! PTR of an address of the mesh ──► its host
//! a host ──known──► its addresses, or nothing of this type
//!        ──the control plane says that it is none of ours──► forward
//!        ──it is silent or away──► below the mesh's domain: SERVFAIL, else forward
//! ```

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    book::Record,
    forward::{Failure, Forwarder},
    message::{self, A, AAAA, ANY, Code, IN, NoQuery, PTR, Query, Records, Reply, SRV, Srv},
    metrics::{Counters, Outcome, Over},
    names::{Names, Scope},
};
use crate::{demand::Denied, listen::caps::Seldom};

/// Of the mesh's names.
const TTL: u32 = 30;
/// Queries that wait for an answer.
const MAX_QUERIES: usize = 1_024;
/// How long the first configuration may keep a query waiting.
const CONFIGURED_WITHIN: Duration = Duration::from_secs(2);
/// How long the control plane may keep a query waiting for a name that can be nobody else's, and for any other.
const NAMED_WITHIN: Duration = Duration::from_secs(3);
const OTHER_WITHIN: Duration = Duration::from_secs(1);

/// Extended errors (RFC 8914): what a person who looks for the reason is told.
const OTHER_ERROR: u16 = 0;
const NOT_READY: u16 = 14;
const NO_REACHABLE: u16 = 22;

/// Answers queries.
#[derive(Debug)]
pub(crate) struct Resolver {
    pub(super) names: Arc<Names>,
    pub(super) forwarder: Arc<Forwarder>,
    pub(super) counters: Arc<Counters>,
    slots: Arc<Semaphore>,
    warned: Seldom,
}

/// What a query is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About<'a> {
    /// Nothing that the mesh could know.
    Elsewhere,
    Address(IpAddr),
    Host(&'a str),
    /// A port of a host, by its name or number.
    Service(&'a str, &'a str),
}

/// What is known of a host.
enum Found {
    Known(Arc<Record>),
    Nothing,
    /// Nobody could say.
    Unknown(&'static str),
}

/// An answer, and what it counts as.
pub(super) type Answered = (Vec<u8>, Outcome);

impl Resolver {
    pub(super) fn new(
        names: Arc<Names>,
        forwarder: Arc<Forwarder>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            names,
            forwarder,
            counters,
            slots: Arc::new(Semaphore::new(MAX_QUERIES)),
            warned: Seldom::default(),
        }
    }

    /// Reads a query. None = it is not answered; Some(Err) = it is answered with this.
    pub(super) fn read<'a>(
        &self,
        bytes: &'a [u8],
        over: Over,
    ) -> Option<Result<Query<'a>, Vec<u8>>> {
        let query = match Query::read(bytes) {
            Ok(query) => query,
            Err(NoQuery::Ignore) => {
                self.counters.query(over, Outcome::Refused);
                return None;
            }
            Err(NoQuery::Answer(code, answer)) => {
                self.counters.query(over, Outcome::Refused);
                tracing::debug!(?code, bytes = bytes.len(), "refused what is no query");
                return Some(Err(answer));
            }
        };
        match query.unserved() {
            None => Some(Ok(query)),
            Some(code) => {
                self.counters.query(over, Outcome::Refused);
                let answer = reply(&query, code, Records::default(), None);
                Some(Err(answer.write(limit(&query, over))))
            }
        }
    }

    /// A place among the queries that wait. Err = what the query is answered with instead.
    pub(super) fn place(
        &self,
        query: &Query<'_>,
        over: Over,
    ) -> Result<OwnedSemaphorePermit, Vec<u8>> {
        Arc::clone(&self.slots)
            .try_acquire_owned()
            .map_err(|_full| {
                self.counters.query(over, Outcome::Overflow);
                if self.warned.now() {
                    tracing::warn!(
                        most = MAX_QUERIES,
                        "as many DNS queries as may be wait for an answer: refusing new ones"
                    );
                }
                let why = Some((OTHER_ERROR, "as many queries as may be are waiting"));
                let answer = reply(query, Code::ServFail, Records::default(), why);
                answer.write(limit(query, over))
            })
    }

    /// The answer, if nobody has to be asked for it.
    pub(super) fn at_once(&self, query: &Query<'_>, over: Over) -> Option<Answered> {
        if !*self.names.configured().borrow() {
            return None;
        }
        let limit = limit(query, over);
        match about(query) {
            About::Elsewhere => None,
            About::Address(ip) => self.pointer(query, ip, limit),
            About::Host(host) => {
                let record = self.names.book().find(host)?;
                Some(of_host(query, &record, limit))
            }
            About::Service(service, host) => {
                let record = self.names.book().find(host)?;
                of_service(query, &record, service, limit)
            }
        }
    }

    /// The answer, whatever it takes.
    pub(super) async fn answer(&self, query: &Query<'_>, over: Over) -> Answered {
        if let Some(answered) = self.at_once(query, over) {
            return answered;
        }
        let limit = limit(query, over);
        let failed = |outcome, why| {
            let answer = reply(query, Code::ServFail, Records::default(), Some(why));
            (answer.write(limit), outcome)
        };
        let mut configured = self.names.configured();
        let first = configured.wait_for(|configured| *configured);
        if timeout(CONFIGURED_WITHIN, first).await.is_err() {
            let why = (NOT_READY, "the sidecar has no configuration yet");
            return failed(Outcome::NotReady, why);
        }
        let (host, service) = match about(query) {
            About::Host(host) => (host, None),
            About::Service(service, host) => (host, Some(service)),
            About::Elsewhere | About::Address(_) => return self.forward(query, over, limit).await,
        };
        match self.find(host).await {
            Found::Known(record) => match service {
                None => of_host(query, &record, limit),
                Some(service) => match of_service(query, &record, service, limit) {
                    Some(answered) => answered,
                    None => self.forward(query, over, limit).await,
                },
            },
            Found::Unknown(why) if self.owns(host) => {
                failed(Outcome::NotKnown, (NO_REACHABLE, why))
            }
            Found::Nothing | Found::Unknown(_) => self.forward(query, over, limit).await,
        }
    }

    fn owns(&self, host: &str) -> bool {
        self.names.scope().is_some_and(|scope| scope.owns(host))
    }

    async fn find(&self, host: &str) -> Found {
        let known = || self.names.book().find(host);
        if let Some(record) = known() {
            return Found::Known(record);
        }
        if !self
            .names
            .scope()
            .is_some_and(|Scope { on_demand, .. }| *on_demand)
        {
            return Found::Nothing;
        }
        let within = match self.owns(host) || !host.contains('.') {
            true => NAMED_WITHIN,
            false => OTHER_WITHIN,
        };
        match self.names.demand.come(host, within).await {
            Ok(()) => known().map_or(Found::Nothing, Found::Known),
            Err(Denied::Absent) => Found::Nothing,
            Err(Denied::Refused(_)) => {
                Found::Unknown("what the control plane sent of it is refused")
            }
            Err(Denied::Late(_)) => Found::Unknown("the control plane does not answer"),
            Err(Denied::Away) => Found::Unknown("the control plane is away"),
            Err(Denied::Overflow(_)) => {
                Found::Unknown("as many names as may be are being asked for")
            }
        }
    }

    fn pointer(&self, query: &Query<'_>, ip: IpAddr, limit: usize) -> Option<Answered> {
        let record = self.names.book().host_of(ip)?;
        let records = Records {
            ptr: Some(&record.host),
            ..Records::default()
        };
        let reply = reply(query, Code::NoError, records, None);
        Some((reply.write(limit), Outcome::Mesh))
    }

    async fn forward(&self, query: &Query<'_>, over: Over, limit: usize) -> Answered {
        let began = tokio::time::Instant::now();
        // What may be longer than a client of old takes is fetched as a whole.
        let whole = over == Over::Tcp || limit > message::PLAIN_UDP;
        let result = self.forwarder.ask(query, whole).await;
        self.counters.took(began.elapsed());
        let why = match result {
            Ok(answer) => {
                let mut answer = match answer.len() > limit {
                    true => message::truncated(query, &answer),
                    false => answer.to_vec(),
                };
                let id = query.bytes.first_chunk().copied().unwrap_or_default();
                message::set_id(&mut answer, id);
                return (answer, Outcome::Forwarded);
            }
            Err(Failure::NoServers) => "this machine has no DNS server",
            Err(Failure::NoAnswer) => "no DNS server of this machine answers",
            Err(Failure::Often) => {
                "the same is being asked too often: do the DNS servers of this machine ask this sidecar?"
            }
        };
        let answer = reply(
            query,
            Code::ServFail,
            Records::default(),
            Some((NO_REACHABLE, why)),
        );
        (answer.write(limit), Outcome::Unanswered)
    }
}

fn limit(query: &Query<'_>, over: Over) -> usize {
    match over {
        Over::Udp => query.udp_limit(),
        Over::Tcp => usize::from(u16::MAX),
    }
}

fn about<'a>(query: &'a Query<'_>) -> About<'a> {
    let Some(name) = query.name.as_deref().filter(|name| !name.is_empty()) else {
        return About::Elsewhere;
    };
    if query.class != IN || name == "localhost" || name.ends_with(".localhost") {
        return About::Elsewhere;
    }
    if name.ends_with(".arpa") {
        let asked = matches!(query.kind, PTR | ANY);
        let ip = message::reverse(name).filter(|_| asked);
        return ip.map_or(About::Elsewhere, About::Address);
    }
    let Some(rest) = name.strip_prefix('_') else {
        return About::Host(name);
    };
    let service = rest.split_once("._tcp.");
    match service.filter(|(service, _)| query.kind == SRV && !service.contains('.')) {
        Some((service, host)) => About::Service(service, host),
        None => About::Elsewhere,
    }
}

fn reply<'a>(
    query: &'a Query<'a>,
    code: Code,
    records: Records<'a>,
    why: Option<(u16, &'a str)>,
) -> Reply<'a> {
    Reply {
        query,
        code,
        records,
        ttl: TTL,
        why,
    }
}

fn of_host(query: &Query<'_>, record: &Record, limit: usize) -> Answered {
    let records = Records {
        v4: match query.kind {
            A | ANY => &record.v4,
            _ => &[],
        },
        v6: match query.kind {
            AAAA | ANY => &record.v6,
            _ => &[],
        },
        ..Records::default()
    };
    let outcome = match records.v4.is_empty() && records.v6.is_empty() {
        true => Outcome::MeshEmpty,
        false => Outcome::Mesh,
    };
    (
        reply(query, Code::NoError, records, None).write(limit),
        outcome,
    )
}

/// None = nobody said what ports the host has.
fn of_service(query: &Query<'_>, record: &Record, service: &str, limit: usize) -> Option<Answered> {
    record.ports.as_ref()?;
    let Some(port) = record.port(service) else {
        let reply = reply(query, Code::NxDomain, Records::default(), None);
        return Some((reply.write(limit), Outcome::MeshEmpty));
    };
    let records = Records {
        v4: &record.v4,
        v6: &record.v6,
        srv: vec![Srv { port }],
        ptr: None,
    };
    let reply = reply(query, Code::NoError, records, None);
    Some((reply.write(limit), Outcome::Mesh))
}
