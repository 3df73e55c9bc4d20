//! `outrigger.v1.Admin`: the operator's calls. Each is checked for who calls first, then does its work on a
//! thread that may block.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use outrigger_policy::ObjectKey;
use outrigger_proto::outrigger::v1::{self as api, admin_server::Admin};
use time::OffsetDateTime;
use tonic::{Code, Request, Response, Status};

use crate::{
    ca::{
        grpc::duration,
        keeper::{Keeper, Wish},
        service::IdentityService,
    },
    caller::Caller,
    clients::Clients,
    loads::Loads,
    metrics::Metrics,
    policies::{self, Outcome, Policies, What},
    quota::server::Leases,
    refusal::Refusal,
    registry::Registry,
    spiffe::check_label,
    store::{StoreError, from_unix_ms, policies as stored},
    vips::Addresses,
};

mod convert;
mod status;

/// Largest message of `Apply` and `Delete`: a text that is too long for a policy still gets the answer
/// that says so, with file, line and column, rather than one of the transport.
pub(crate) const MAX_REQUEST_BYTES: usize = 32 << 20;
/// Files of one call.
const MAX_FILES: usize = 1000;
/// Name of a file or author, in bytes.
const MAX_NAME_BYTES: usize = 1024;
/// Text that one answer of `Get` may carry.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// What the calls need; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct AdminService {
    pub(crate) policies: Arc<Policies>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) identity: IdentityService,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) loads: Arc<Loads>,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started: SystemTime,
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn apply(
        &self,
        request: Request<api::ApplyRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let caller = Self::operator(request.extensions())?;
        let request = request.into_inner();
        let change = policies::Request {
            what: What::Apply,
            files: files(request.files)?,
            default_namespace: namespace(request.default_namespace)?,
            dry_run: request.dry_run,
            author: author(request.author, &caller)?,
        };
        Ok(Response::new(self.change(change).await?))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let caller = Self::operator(request.extensions())?;
        let request = request.into_inner();
        let default_namespace = namespace(request.default_namespace)?;
        let keys = request
            .objects
            .into_iter()
            .map(|object| key(object, &default_namespace))
            .collect::<Result<_, _>>()?;
        let change = policies::Request {
            what: What::Delete(keys),
            files: files(request.files)?,
            default_namespace,
            dry_run: request.dry_run,
            author: author(request.author, &caller)?,
        };
        Ok(Response::new(self.change(change).await?))
    }

    async fn get(
        &self,
        request: Request<api::GetRequest>,
    ) -> Result<Response<api::GetResponse>, Status> {
        Self::operator(request.extensions())?;
        let request = request.into_inner();
        let wanted = Filter::new(request.object.unwrap_or_default())?;
        let in_force = self.policies.in_force();
        let mut objects = Vec::new();
        let mut bytes = 0;
        for held in in_force
            .objects
            .values()
            .filter(|held| wanted.takes_held(held))
        {
            bytes += held.object.yaml.len();
            if bytes > MAX_ANSWER_BYTES {
                return Err(too_much().into());
            }
            objects.push(convert::held(held));
        }
        let refused = in_force.refused.values().map(|refused| &refused.record);
        for record in refused.filter(|record| wanted.takes_record(record)) {
            bytes += record.yaml.len();
            if bytes > MAX_ANSWER_BYTES {
                return Err(too_much().into());
            }
            objects.push(convert::record(record.clone()));
        }
        if request.history {
            let policies = Arc::clone(&self.policies);
            let read = move || {
                let takes = |record: &stored::Record| wanted.takes_record(record);
                stored::history(policies.store(), takes, MAX_ANSWER_BYTES)
            };
            let history = blocking(read).await?.ok_or_else(too_much)?;
            objects = merge(objects, history);
        }
        Ok(Response::new(api::GetResponse {
            revision: in_force.revision,
            objects,
        }))
    }

    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        Self::operator(request.extensions())?;
        Ok(Response::new(self.report()))
    }

    async fn create_join_token(
        &self,
        request: Request<api::CreateJoinTokenRequest>,
    ) -> Result<Response<api::CreateJoinTokenResponse>, Status> {
        Self::operator(request.extensions())?;
        let request = request.into_inner();
        let ttl = request.ttl.map(duration).transpose()?;
        let token = self
            .identity
            .create_token(&request.namespace, &request.service_account, ttl)
            .await?;
        tracing::info!(id = %token.id, "join token created");
        Ok(Response::new(api::CreateJoinTokenResponse {
            token: token.text,
            spiffe_id: token.id.to_string(),
            expires: Some(token.expires.into()),
        }))
    }

    async fn certificates(
        &self,
        request: Request<api::CertificatesRequest>,
    ) -> Result<Response<api::CertificatesResponse>, Status> {
        Self::operator(request.extensions())?;
        let report = self.keeper.report(OffsetDateTime::now_utc()).await;
        Ok(Response::new(report))
    }

    async fn rotate_root(
        &self,
        request: Request<api::RotateRootRequest>,
    ) -> Result<Response<api::RotateRootResponse>, Status> {
        use api::rotate_root_request::Action;

        let caller = Self::operator(request.extensions())?;
        let wish = match Action::try_from(request.into_inner().action) {
            Ok(Action::Start) => Wish::Start,
            Ok(Action::Pause) => Wish::Pause,
            Ok(Action::Resume) => Wish::Resume,
            Ok(Action::Abort) => Wish::Abort,
            Ok(Action::SkipWait) => Wish::SkipWait,
            Err(unknown) => return Err(Refusal::invalid("action", unknown.to_string()).into()),
        };
        let now = OffsetDateTime::now_utc();
        self.keeper.wish(wish, now).await.map_err(Refusal::from)?;
        tracing::info!(?wish, author = caller.name(), "root rotation");
        let status = Some(self.keeper.report(now).await);
        Ok(Response::new(api::RotateRootResponse { status }))
    }
}

impl AdminService {
    /// The routes have refused others already; this holds without them, too.
    fn operator(extensions: &http::Extensions) -> Result<Caller, Status> {
        let caller = Caller::of(extensions);
        caller.may_administer()?;
        Ok(caller)
    }

    async fn change(&self, change: policies::Request) -> Result<api::ApplyResponse, Refusal> {
        let (policies, registry) = (Arc::clone(&self.policies), Arc::clone(&self.registry));
        let (author, dry_run) = (change.author.clone(), change.dry_run);
        let nodes = self.clients.node_ids();
        let change = move || {
            let who = policies::inventory(&registry.services(), &nodes);
            policies.change(&change, &who)
        };
        let outcome = blocking(change).await?;
        let result = match &outcome {
            Outcome { refused: true, .. } => "refused",
            _ if dry_run => "dry_run",
            Outcome { applied, .. }
                if applied
                    .iter()
                    .all(|(.., change)| *change == policies::Change::Unchanged) =>
            {
                "unchanged"
            }
            Outcome { .. } => "applied",
        };
        self.metrics.applies.with_label_values(&[result]).inc();
        self.metrics
            .policies_refused
            .set(i64::try_from(self.policies.in_force().refused.len()).unwrap_or(i64::MAX));
        tracing::info!(result, revision = outcome.revision, author, "policy");
        Ok(convert::outcome(outcome))
    }
}

/// What `Get` is asked for; empty takes everything.
#[derive(Clone, Debug)]
struct Filter {
    object: api::ObjectRef,
}

impl Filter {
    fn new(object: api::ObjectRef) -> Result<Self, Refusal> {
        if !object.kind.is_empty() {
            policies::kind(&object.kind).map_err(|message| Refusal::invalid("object", message))?;
        }
        Ok(Self { object })
    }

    fn takes(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> bool {
        let object = &self.object;
        let same = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        // Versions of one group are one kind of object.
        same(group(&object.api_version), group(api_version))
            && same(&object.kind, kind)
            && same(&object.namespace, namespace)
            && same(&object.name, name)
    }

    fn takes_held(&self, held: &policies::Held) -> bool {
        let object = &held.object;
        let key = &object.key;
        self.takes(
            &object.api_version,
            key.kind.as_str(),
            &key.namespace,
            &key.name,
        )
    }

    fn takes_record(&self, record: &stored::Record) -> bool {
        self.takes(
            &record.api_version,
            &record.kind,
            &record.namespace,
            &record.name,
        )
    }
}

/// Current objects first, each followed by its earlier revisions; then what is deleted.
fn merge(current: Vec<api::StoredObject>, history: Vec<stored::Record>) -> Vec<api::StoredObject> {
    let mut earlier: BTreeMap<String, Vec<stored::Record>> = BTreeMap::new();
    for record in history {
        earlier.entry(record.id()).or_default().push(record);
    }
    let mut all = Vec::new();
    for object in current {
        let id = object
            .object
            .as_ref()
            .map(|key| format!("{}/{}/{}", key.kind, key.namespace, key.name))
            .unwrap_or_default();
        let revision = object.revision;
        all.push(object);
        let older = earlier.remove(&id).unwrap_or_default();
        all.extend(
            older
                .into_iter()
                .filter(|old| old.revision != revision)
                .map(convert::record),
        );
    }
    all.extend(earlier.into_values().flatten().map(convert::record));
    all
}

fn files(files: Vec<api::SourceFile>) -> Result<Vec<(String, String)>, Refusal> {
    if files.len() > MAX_FILES {
        return Err(Refusal::invalid(
            "files",
            format!(
                "{} files are too many; at most {MAX_FILES} in one call",
                files.len()
            ),
        ));
    }
    files
        .into_iter()
        .map(|file| match name(file.name) {
            Ok(name) => Ok((name, file.text)),
            Err(message) => Err(Refusal::invalid("files", message)),
        })
        .collect()
}

fn author(author: String, caller: &Caller) -> Result<String, Refusal> {
    if author.is_empty() {
        return Ok(caller.name());
    }
    name(author).map_err(|message| Refusal::invalid("author", message))
}

fn name(name: String) -> Result<String, String> {
    if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(format!(
            "{name:?}: use at most {MAX_NAME_BYTES} bytes without control characters"
        ));
    }
    Ok(name)
}

fn namespace(namespace: String) -> Result<String, Refusal> {
    if namespace.is_empty() {
        return Ok("default".to_owned());
    }
    check_label("namespace", &namespace)
        .map_err(|message| Refusal::invalid("default_namespace", message))?;
    Ok(namespace)
}

fn key(object: api::ObjectRef, default_namespace: &str) -> Result<ObjectKey, Refusal> {
    let kind =
        policies::kind(&object.kind).map_err(|message| Refusal::invalid("objects", message))?;
    if object.name.is_empty() {
        return Err(Refusal::invalid(
            "objects",
            format!("a {} without a name", object.kind),
        ));
    }
    let namespace = match object.namespace {
        namespace if namespace.is_empty() => default_namespace.to_owned(),
        namespace => namespace,
    };
    Ok(ObjectKey {
        kind,
        namespace,
        name: object.name,
    })
}

fn group(api_version: &str) -> &str {
    api_version
        .split_once('/')
        .map_or(api_version, |(group, _)| group)
}

fn too_much() -> Refusal {
    Refusal::new(
        Code::ResourceExhausted,
        format!(
            "the answer has more than {MAX_ANSWER_BYTES} bytes; name kind, namespace or object"
        ),
    )
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Refusal::new(
            Code::Internal,
            format!("the work ended early: {error}"),
        )),
    }
}

/// For answers.
fn time(ms: u64) -> Option<prost_types::Timestamp> {
    Some(from_unix_ms(ms).into())
}
