//! The way to the management server: the gRPC service of `ads_config`, and the cluster that it names.

use std::{fmt, path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderName};
use outrigger_core::{OutsideTls, UpstreamTls};
use outrigger_proto::envoy::config::{
    cluster::v3::{Cluster, cluster::ClusterDiscoveryType},
    core::v3::{
        DataSource, GrpcService, HeaderValue, address,
        data_source::Specifier,
        grpc_service::{
            GoogleGrpc, TargetSpecifier, google_grpc::SslCredentials,
            google_grpc::channel_credentials::CredentialSpecifier,
        },
    },
    endpoint::v3::lb_endpoint::HostIdentifier,
};
use tonic::metadata::MetadataMap;

use crate::xds::convert::{self, Converted, FieldError, cluster::EndpointSource, refuse};

/// Addresses of one management server that are tried.
const MAX_ADDRESSES: usize = 16;

/// The way to a management server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// The first that answers is used.
    pub(crate) addresses: Vec<Place>,
    /// None = plain text.
    pub(crate) tls: Option<UpstreamTls>,
    /// Goes with every stream.
    pub(crate) metadata: MetadataMap,
}

/// Where a management server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Host name or IP address, and port.
    Tcp(String, u16),
    /// A Unix socket.
    Pipe(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Pipe(path) => write!(f, "{}", path.display()),
        }
    }
}

/// From a service of `ads_config`.
pub(super) fn server(
    path: &str,
    from: &GrpcService,
    clusters: &[(String, Cluster)],
) -> Converted<Server> {
    if from.timeout.is_some() || from.retry_policy.is_some() {
        return refuse(path, "timeout and retry_policy are not supported yet");
    }
    let metadata = metadata(&from.initial_metadata)
        .map_err(|error| error.under(format!("{path}.initial_metadata")))?;
    let server = target(path, from, clusters)?;
    Ok(Server { metadata, ..server })
}

/// What is sent with every stream, e.g. a token that a server wants to see.
fn metadata(from: &[HeaderValue]) -> Converted<MetadataMap> {
    let mut headers = HeaderMap::with_capacity(from.len());
    for (index, header) in from.iter().enumerate() {
        let wrong =
            |field: &str, message: String| FieldError::new(format!("[{index}].{field}"), message);
        let name = HeaderName::try_from(&header.key)
            .map_err(|_error| wrong("key", format!("{:?} is not a header name", header.key)))?;
        if name.as_str().starts_with("grpc-") || name.as_str().ends_with("-bin") {
            let message = format!("{:?} is gRPC's own, or binary", header.key);
            return Err(wrong("key", message));
        }
        let (field, value) = match header.raw_value.as_slice() {
            [] => ("value", header.value.as_bytes()),
            raw => ("raw_value", raw),
        };
        if value.contains(&b'%') {
            // Envoy would put something in its place.
            return Err(wrong(
                field,
                "must not have a %: commands are not supported yet".to_owned(),
            ));
        }
        let value = http::HeaderValue::from_bytes(value)
            .map_err(|_error| wrong(field, "is not a header value".to_owned()))?;
        headers.append(name, value);
    }
    Ok(MetadataMap::from_headers(headers))
}

fn target(path: &str, from: &GrpcService, clusters: &[(String, Cluster)]) -> Converted<Server> {
    match &from.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(target)) => {
            let path = format!("{path}.envoy_grpc");
            let named = clusters.iter().find(|(_, c)| c.name == target.cluster_name);
            if let Some((other, _)) = clusters.iter().find(|(_, c)| c.name != target.cluster_name) {
                return refuse(
                    other,
                    "is not the cluster of ads_config; others come from the management server",
                );
            }
            let Some((place, cluster)) = named else {
                let message = format!("{:?} is not in static_resources", target.cluster_name);
                return refuse(format!("{path}.cluster_name"), message);
            };
            if !target.authority.is_empty() || target.retry_policy.is_some() {
                return refuse(path, "authority and retry_policy are not supported yet");
            }
            from_cluster(cluster).map_err(|error| error.under(place))
        }
        Some(TargetSpecifier::GoogleGrpc(target)) => {
            if let Some((other, _)) = clusters.first() {
                return refuse(
                    other,
                    "ads_config names no cluster, and others come from the server",
                );
            }
            from_uri(target).map_err(|error| error.under(format!("{path}.google_grpc")))
        }
        None => refuse(path, "has neither envoy_grpc nor google_grpc"),
    }
}

fn from_cluster(from: &Cluster) -> Converted<Server> {
    let mut from = from.clone();
    let pipes = pipes(&mut from)?;
    let parsed = convert::cluster::convert(&from)?;
    let addresses: Vec<Place> = match parsed.source {
        EndpointSource::Static(_) if !pipes.is_empty() => pipes,
        EndpointSource::Static(endpoints) => endpoints
            .iter()
            .map(|one| Place::Tcp(one.address.ip().to_string(), one.address.port()))
            .collect(),
        EndpointSource::Dns(source) => source
            .hosts
            .into_iter()
            .map(|host| {
                let ip = || host.config.address.ip().to_string();
                let port = host.config.address.port();
                Place::Tcp(host.name.clone().unwrap_or_else(ip), port)
            })
            .collect(),
        EndpointSource::Eds(_) => {
            return refuse("type", "EDS; must be STATIC, STRICT_DNS or LOGICAL_DNS");
        }
        EndpointSource::OriginalDst => {
            return refuse(
                "type",
                "ORIGINAL_DST; must be STATIC, STRICT_DNS or LOGICAL_DNS",
            );
        }
        EndpointSource::Aggregate(_) => {
            return refuse(
                "cluster_type",
                "must not be there; STATIC, STRICT_DNS or LOGICAL_DNS",
            );
        }
    };
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
        let message = format!("has {} endpoints; 1 to {MAX_ADDRESSES}", addresses.len());
        return refuse("load_assignment", message);
    }
    let tls = parsed.config.tls;
    if tls.as_ref().is_some_and(|tls| tls.outside.is_none()) || tls.is_some() && !parsed.always_tls
    {
        return refuse(
            "transport_socket",
            "must have validation_context and tls_certificates with filenames; nobody is there yet to ask for secrets",
        );
    }
    Ok(Server {
        addresses,
        tls,
        metadata: MetadataMap::new(),
    })
}

/// Of the cluster of an agent with secrets: keys go over nothing but a socket of this machine.
pub(super) fn socket(from: &Cluster) -> Converted<PathBuf> {
    let server = from_cluster(from)?;
    match server.addresses.into_iter().next() {
        Some(Place::Pipe(path)) if server.tls.is_none() => Ok(path),
        _ => refuse(
            "load_assignment",
            "must have a Unix socket (pipe) without TLS: keys come from this machine only",
        ),
    }
}

/// Takes the Unix sockets out of a cluster: nobody but a management server is called at one.
fn pipes(from: &mut Cluster) -> Converted<Vec<Place>> {
    let mut pipes = Vec::new();
    let mut others = 0;
    for locality in from.load_assignment.iter().flat_map(|all| &all.endpoints) {
        for endpoint in &locality.lb_endpoints {
            let address = match &endpoint.host_identifier {
                Some(HostIdentifier::Endpoint(endpoint)) => endpoint.address.as_ref(),
                _ => None,
            };
            match address.and_then(|address| address.address.as_ref()) {
                Some(address::Address::Pipe(pipe)) => pipes.push(Place::Pipe((&pipe.path).into())),
                _ => others += 1,
            }
        }
    }
    if !pipes.is_empty() && others > 0 {
        return refuse(
            "load_assignment.endpoints",
            "has Unix sockets and other addresses; must be of one kind",
        );
    }
    let is_static = matches!(
        from.cluster_discovery_type,
        None | Some(ClusterDiscoveryType::Type(0))
    );
    if !pipes.is_empty() && is_static {
        from.load_assignment = None;
    }
    Ok(pipes)
}

fn from_uri(from: &GoogleGrpc) -> Converted<Server> {
    let uri = from.target_uri.strip_prefix("dns:///");
    let uri = uri.unwrap_or(&from.target_uri);
    let address = uri.rsplit_once(':').and_then(|(host, port)| {
        let host = host.trim_matches(['[', ']']);
        let is_host = !host.is_empty() && !host.contains('/');
        is_host.then_some((host.to_owned(), port.parse().ok()?))
    });
    let Some((host, port)) = address else {
        let message = format!(
            "{:?}; must be host:port or dns:///host:port",
            from.target_uri
        );
        return refuse("target_uri", message);
    };
    let known = GoogleGrpc {
        target_uri: from.target_uri.clone(),
        stat_prefix: from.stat_prefix.clone(),
        channel_credentials: from.channel_credentials.clone(),
        ..GoogleGrpc::default()
    };
    if *from != known {
        return refuse(
            "",
            "has fields that are not supported yet (supported: target_uri, stat_prefix, channel_credentials)",
        );
    }
    let credentials = from.channel_credentials.as_ref();
    let tls = match credentials.map(|credentials| &credentials.credential_specifier) {
        None => None,
        Some(Some(CredentialSpecifier::SslCredentials(ssl))) => {
            let path = "channel_credentials.ssl_credentials";
            Some(ssl_credentials(ssl, &host).map_err(|error| error.under(path))?)
        }
        Some(_) => {
            return refuse(
                "channel_credentials",
                "must be ssl_credentials, or left out",
            );
        }
    };
    Ok(Server {
        addresses: vec![Place::Tcp(host, port)],
        tls,
        metadata: MetadataMap::new(),
    })
}

fn ssl_credentials(from: &SslCredentials, host: &str) -> Converted<UpstreamTls> {
    let client = match (
        file("cert_chain", from.cert_chain.as_ref())?,
        file("private_key", from.private_key.as_ref())?,
    ) {
        (Some(chain), Some(key)) => Some((chain, key)),
        (None, None) => None,
        (None, Some(_)) => return refuse("cert_chain", "missing beside private_key"),
        (Some(_), None) => return refuse("private_key", "missing beside cert_chain"),
    };
    let outside = OutsideTls {
        roots: file("root_certs", from.root_certs.as_ref())?,
        client,
        tls12: true,
        ..OutsideTls::default()
    };
    Ok(UpstreamTls {
        sni: host.to_owned(),
        outside: Some(Arc::new(outside)),
        ..UpstreamTls::default()
    })
}

fn file(path: &str, from: Option<&DataSource>) -> Converted<Option<PathBuf>> {
    match from.and_then(|source| source.specifier.as_ref()) {
        None => Ok(None),
        Some(Specifier::Filename(name)) if !name.is_empty() => Ok(Some(name.into())),
        Some(_) => refuse(path, "must be a filename"),
    }
}
