//! Who is asked about what, and their sidecars' configuration.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use outrigger_proto::outrigger::v1::{InstanceStatus, ServiceStatus, StatusResponse};
use outrigger_sidecar::{
    App, Readiness, Workload,
    explain::{Access, AccessQuestion, Reader},
};

use super::CanArgs;
use crate::{client::Admin, configuration, failure::Failure};

/// Sets of labels that are asked about.
const MAX_GROUPS: usize = 64;

/// The whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Full name of the service.
    pub(super) host: String,
    pub(super) port: u16,
    /// SPIFFE id of the caller.
    pub(super) identity: Option<String>,
    pub(super) from: IpAddr,
    /// What was taken for granted.
    pub(super) assumed: Vec<String>,
    /// Instances that answer alike.
    pub(super) groups: Vec<Group>,
}

/// Instances that answer alike.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) labels: Vec<BTreeMap<String, String>>,
    pub(super) instances: Vec<String>,
    pub(super) access: Access,
}

pub(super) async fn ask(
    args: &CanArgs,
    admin: &Admin,
    status: &StatusResponse,
) -> Result<Answer, Failure> {
    let service = service(status, &args.server, &args.namespace).ok_or_else(|| {
        anyhow::anyhow!(
            "no instance of {} is registered; `outrigger status` lists the services",
            args.server
        )
    })?;
    let port = port(args, service)?;
    let mut assumed = Vec::new();
    let caller = caller(args, status, &mut assumed);
    let mut by_labels: BTreeMap<Vec<(String, String)>, Vec<&InstanceStatus>> = BTreeMap::new();
    for instance in &service.instances {
        let labels = instance.labels.iter();
        let mut labels: Vec<_> = labels.map(|(k, v)| (k.clone(), v.clone())).collect();
        labels.sort_unstable();
        by_labels.entry(labels).or_default().push(instance);
    }
    if by_labels.is_empty() {
        assumed.push("no instance runs: one without labels is asked about".to_owned());
        by_labels.insert(Vec::new(), Vec::new());
    }
    if let more @ 1.. = by_labels.len().saturating_sub(MAX_GROUPS) {
        assumed.push(format!("{more} more sets of labels are not asked about"));
    }
    let mut groups: Vec<Group> = Vec::new();
    for (labels, instances) in by_labels.into_iter().take(MAX_GROUPS) {
        let labels: BTreeMap<String, String> = labels.into_iter().collect();
        let reader = read(
            admin,
            &workload(service, &labels, &instances),
            &app(service, port),
        )
        .await
        .map_err(Failure::from)?;
        let addresses = instances.iter().map(|one| {
            let address = one.address.parse::<SocketAddr>().ok();
            (one.id.clone(), address)
        });
        let nowhere = instances.is_empty().then(|| (String::new(), None));
        for (id, address) in addresses.chain(nowhere) {
            let question = question(args, service, port, &caller, address);
            let access = reader.access(&question).map_err(anyhow::Error::msg)?;
            let same = groups
                .iter_mut()
                .find(|group| alike(&group.access, &access));
            let group = match same {
                Some(group) => group,
                None => {
                    groups.push(Group {
                        labels: Vec::new(),
                        instances: Vec::new(),
                        access,
                    });
                    let Some(last) = groups.last_mut() else {
                        continue;
                    };
                    last
                }
            };
            if !group.labels.contains(&labels) {
                group.labels.push(labels.clone());
            }
            if !id.is_empty() {
                group.instances.push(id);
            }
        }
    }
    Ok(Answer {
        host: service.host.clone(),
        port,
        identity: caller.identity,
        from: caller.from,
        assumed,
        groups,
    })
}

fn alike(a: &Access, b: &Access) -> bool {
    (
        &a.mode,
        &a.tried_mode,
        &a.verdict,
        &a.why,
        &a.policy,
        &a.steps,
        &a.refused,
    ) == (
        &b.mode,
        &b.tried_mode,
        &b.verdict,
        &b.why,
        &b.policy,
        &b.steps,
        &b.refused,
    )
}

/// Who calls.
struct Client {
    identity: Option<String>,
    from: IpAddr,
}

fn caller(args: &CanArgs, status: &StatusResponse, assumed: &mut Vec<String>) -> Client {
    let registered = service(status, &args.client, &args.namespace);
    let first = registered.and_then(|service| service.instances.first());
    let domain = &status.trust_domain;
    let identity = match args.client.as_str() {
        "-" => None,
        id if id.starts_with("spiffe://") => Some(id.to_owned()),
        name => Some(match name.split_once('/') {
            Some((namespace, account)) => format!("spiffe://{domain}/ns/{namespace}/sa/{account}"),
            None => match first.map(|first| first.identity.clone()) {
                Some(known) if !known.is_empty() => known,
                _ => {
                    // What a sidecar of that name has unless it is told otherwise.
                    let mut parts = name.split('.');
                    let account = parts.next().unwrap_or(name);
                    let namespace = parts.next().unwrap_or(&args.namespace);
                    let id = format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
                    assumed.push(format!("{name} is not registered: it is taken for {id}"));
                    id
                }
            },
        }),
    };
    let address = first.and_then(|first| first.address.parse::<SocketAddr>().ok());
    let from = args.from_ip.or_else(|| address.map(|address| address.ip()));
    if from.is_none() {
        assumed.push("it comes from 127.0.0.1 (--from-ip)".to_owned());
    }
    Client {
        identity,
        from: from.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    }
}

/// By a name of any length.
fn service<'s>(
    status: &'s StatusResponse,
    name: &str,
    namespace: &str,
) -> Option<&'s ServiceStatus> {
    let short = match name.contains('.') {
        true => format!("{name}."),
        false => format!("{name}.{namespace}."),
    };
    let mut all = status.services.iter();
    all.find(|known| known.host == name || known.host.starts_with(&short))
}

fn port(args: &CanArgs, service: &ServiceStatus) -> Result<u16, Failure> {
    let known: Vec<u16> = service
        .ports
        .iter()
        .filter_map(|port| u16::try_from(*port).ok())
        .collect();
    match args.port {
        Some(port) if known.contains(&port) => Ok(port),
        Some(port) => Err(Failure::Misused(format!(
            "{} has no port {port}; it has {known:?}",
            service.host
        ))),
        None => known
            .iter()
            .min()
            .copied()
            .ok_or_else(|| Failure::Misused(format!("{} has no port", service.host))),
    }
}

fn workload(
    service: &ServiceStatus,
    labels: &BTreeMap<String, String>,
    instances: &[&InstanceStatus],
) -> Workload {
    let mut parts = service.host.split('.');
    let name = parts.next().unwrap_or_default().to_owned();
    let namespace = parts.next().unwrap_or("default").to_owned();
    let account = instances.first().and_then(|first| {
        let (_, account) = first.identity.rsplit_once("/sa/")?;
        Some(account.to_owned())
    });
    Workload {
        service_account: account.unwrap_or_else(|| name.clone()),
        service: service.host.clone(),
        namespace,
        labels: labels.clone(),
        locality: Default::default(),
        weight: 1,
    }
}

fn app(service: &ServiceStatus, port: u16) -> App {
    let protocol = service.protocols.get(&u32::from(port));
    let protocol = match protocol.map(String::as_str) {
        Some("HTTP2") => "http2",
        Some("GRPC") => "grpc",
        Some("TCP" | "TLS") => "tcp",
        Some("AUTO") => "auto",
        _ => "http",
    };
    App {
        proxy_protocol: None,
        address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        port,
        protocol: protocol.to_owned(),
        readiness: Readiness::default(),
    }
}

fn question(
    args: &CanArgs,
    service: &ServiceStatus,
    port: u16,
    caller: &Client,
    to: Option<SocketAddr>,
) -> AccessQuestion {
    let mut headers = args.headers.iter();
    let host = headers.find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = host.map_or_else(
        || {
            let name = service.host.split('.').next().unwrap_or_default();
            match port {
                80 => name.to_owned(),
                port => format!("{name}:{port}"),
            }
        },
        |(_, value)| value.clone(),
    );
    let others = args.headers.iter();
    let others = others.filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
    AccessQuestion {
        identity: caller.identity.clone(),
        from: caller.from,
        to: to.unwrap_or_else(|| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
        server_name: args
            .server_name
            .clone()
            .unwrap_or_else(|| format!("outbound_.{port}_._.{}", service.host)),
        method: args.method.clone(),
        path: args.path.clone(),
        host,
        headers: others.cloned().collect(),
    }
}

/// What the control plane tells the sidecar of `workload`.
async fn read(admin: &Admin, workload: &Workload, app: &App) -> anyhow::Result<Reader> {
    let mut reader = Reader::of_server(workload, app);
    let what = format!("the configuration of {}", workload.service);
    configuration::read(admin, &mut reader, &what).await?;
    Ok(reader)
}
