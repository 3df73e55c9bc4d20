//! Which xDS clients are connected, and how far each has got: what `outrigger status` shows of them.
//!
//! The xDS streams write, `admin` reads. Nothing decides by what stands here. One entry a stream; it
//! goes away with the stream's [`ClientHandle`], however the stream ends.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use dashmap::DashMap;
use outrigger_proto::outrigger::v1 as api;
use tokio::sync::mpsc;

use crate::xds::holdings::Ask;

/// All connected clients. As large as the number of xDS streams, which the listener bounds.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    streams: DashMap<u64, Stream>,
    next: AtomicU64,
}

/// What is known when a stream's first request has been read.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// `node.id` as sent.
    pub(crate) node_id: String,
    /// `node.metadata` as sent, encoded.
    pub(crate) metadata: Box<[u8]>,
    /// SPIFFE id of the connection's certificate; None on the plain-text port.
    pub(crate) identity: Option<Arc<str>>,
    /// Where the connection comes from.
    pub(crate) peer: Option<SocketAddr>,
    /// Serial number of that certificate.
    pub(crate) serial: Option<Arc<str>>,
    /// `delta` or `sotw`.
    pub(crate) protocol: &'static str,
    /// `outrigger`, `envoy` or `grpc`.
    pub(crate) dialect: &'static str,
    /// Where to ask what it holds.
    pub(crate) ask: Option<mpsc::Sender<Ask>>,
}

/// A stream, to be asked what its client holds.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) node_id: String,
    pub(crate) metadata: Box<[u8]>,
    pub(crate) ask: mpsc::Sender<Ask>,
}

/// What is not done of a resource, or why it is withheld.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// Type URL.
    pub(crate) type_url: &'static str,
    /// The resource.
    pub(crate) name: Arc<str>,
    /// In words.
    pub(crate) note: String,
}

/// Last words of a client that did not take a resource are cut to this many bytes.
const LAST_NACK_BYTES: usize = 4096;

#[derive(Debug)]
struct Stream {
    client: Client,
    connected: SystemTime,
    types: BTreeMap<&'static str, TypeStatus>,
    revision: u64,
    notes: Vec<Note>,
    /// The version of the trust bundle that it accepted, if it asked for it.
    bundle: Option<Option<Arc<str>>>,
}

/// A connected client, as a rotation of the root sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trusting {
    pub(crate) node_id: String,
    pub(crate) identity: Option<Arc<str>>,
    /// Serial number of its certificate.
    pub(crate) serial: Option<Arc<str>>,
    /// None: it has not asked for the bundle. Then: the version that it accepted.
    pub(crate) bundle: Option<Option<Arc<str>>>,
}

#[derive(Debug, Default)]
struct TypeStatus {
    held: u32,
    nonce_sent: String,
    nonce_acked: String,
    nacks: u64,
    last_nack: String,
}

/// One stream's entry. Dropping it is the disconnect.
#[derive(Debug)]
pub(crate) struct ClientHandle {
    clients: Arc<Clients>,
    id: u64,
}

impl Clients {
    /// Enters a stream.
    pub(crate) fn connected(self: &Arc<Self>, client: Client) -> ClientHandle {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.streams.insert(
            id,
            Stream {
                client,
                connected: SystemTime::now(),
                types: BTreeMap::new(),
                revision: 0,
                notes: Vec::new(),
                bundle: None,
            },
        );
        ClientHandle {
            clients: Arc::clone(self),
            id,
        }
    }

    /// How many streams there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    /// The ids of all nodes.
    pub(crate) fn node_ids(&self) -> Vec<String> {
        let ids = self.streams.iter();
        ids.map(|stream| stream.client.node_id.clone()).collect()
    }

    /// Where to ask each stream what its client holds, by node id.
    pub(crate) fn streams(&self) -> Vec<Asked> {
        let all = self.streams.iter().filter_map(|stream| {
            let client = &stream.client;
            Some(Asked {
                node_id: client.node_id.clone(),
                metadata: client.metadata.clone(),
                ask: client.ask.clone()?,
            })
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        all
    }

    /// What each stream's client trusts, by node id.
    pub(crate) fn trusting(&self) -> Vec<Trusting> {
        let all = self.streams.iter().map(|stream| Trusting {
            node_id: stream.client.node_id.clone(),
            identity: stream.client.identity.clone(),
            serial: stream.client.serial.clone(),
            bundle: stream.bundle.clone(),
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        all
    }

    /// All streams, by node id.
    pub(crate) fn status(&self) -> Vec<api::ClientStatus> {
        let mut all: Vec<_> = self.streams.iter().map(|stream| stream.status()).collect();
        all.sort_by(|a, b| (&a.node_id, &a.peer).cmp(&(&b.node_id, &b.peer)));
        all
    }
}

impl ClientHandle {
    /// A response with `nonce` went out; afterwards the client holds `held` resources of the type.
    pub(crate) fn sent(&self, type_url: &'static str, nonce: &str, held: usize) {
        self.change(type_url, |status| {
            nonce.clone_into(&mut status.nonce_sent);
            status.held = u32::try_from(held).unwrap_or(u32::MAX);
        });
    }

    /// The client took the response with `nonce`.
    pub(crate) fn acked(&self, type_url: &'static str, nonce: &str) {
        self.change(type_url, |status| nonce.clone_into(&mut status.nonce_acked));
    }

    /// The client refused a response, in its own words.
    pub(crate) fn nacked(&self, type_url: &'static str, words: &str) {
        self.change(type_url, |status| {
            status.nacks += 1;
            status.last_nack = words
                .char_indices()
                .take_while(|(at, c)| at + c.len_utf8() <= LAST_NACK_BYTES)
                .map(|(_, c)| c)
                .collect();
        });
    }

    /// The client was sent everything of these policies, and has answered.
    pub(crate) fn settled(&self, revision: u64) {
        if let Some(mut stream) = self.clients.streams.get_mut(&self.id) {
            stream.revision = revision;
        }
    }

    /// The version of the trust bundle that the client accepted, if it asked for it.
    pub(crate) fn trusts(&self, bundle: Option<Option<Arc<str>>>) {
        if let Some(mut stream) = self.clients.streams.get_mut(&self.id) {
            stream.bundle = bundle;
        }
    }

    /// What the client does not do of what it asks for.
    pub(crate) fn noted(&self, notes: Vec<Note>) {
        if let Some(mut stream) = self.clients.streams.get_mut(&self.id) {
            stream.notes = notes;
        }
    }

    fn change(&self, type_url: &'static str, change: impl FnOnce(&mut TypeStatus)) {
        if let Some(mut stream) = self.clients.streams.get_mut(&self.id) {
            change(stream.types.entry(type_url).or_default());
        }
    }
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        self.clients.streams.remove(&self.id);
    }
}

impl Stream {
    fn status(&self) -> api::ClientStatus {
        api::ClientStatus {
            node_id: self.client.node_id.clone(),
            identity: self
                .client
                .identity
                .as_deref()
                .unwrap_or_default()
                .to_owned(),
            peer: self
                .client
                .peer
                .map(|peer| peer.to_string())
                .unwrap_or_default(),
            protocol: self.client.protocol.to_owned(),
            connected: Some(self.connected.into()),
            revision: self.revision,
            dialect: self.client.dialect.to_owned(),
            notes: self.notes.iter().map(note).collect(),
            types: self
                .types
                .iter()
                .map(|(type_url, status)| api::ResourceTypeStatus {
                    type_url: (*type_url).to_owned(),
                    sent: status.held,
                    nonce_sent: status.nonce_sent.clone(),
                    nonce_acked: status.nonce_acked.clone(),
                    nacks: status.nacks,
                    last_nack: status.last_nack.clone(),
                })
                .collect(),
        }
    }
}

fn note(of: &Note) -> api::ResourceNote {
    api::ResourceNote {
        type_url: of.type_url.to_owned(),
        name: of.name.to_string(),
        note: of.note.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(node_id: &str) -> Client {
        Client {
            node_id: node_id.into(),
            metadata: Box::default(),
            identity: None,
            peer: None,
            serial: None,
            protocol: "delta",
            dialect: "outrigger",
            ask: None,
        }
    }

    #[test]
    fn the_policies_that_a_client_has_answered_are_shown() {
        let clients = Arc::new(Clients::default());
        let stream = clients.connected(client("a"));
        assert_eq!(clients.status()[0].revision, 0);
        stream.settled(42);
        assert_eq!(clients.status()[0].revision, 42);
    }

    #[test]
    fn a_refusal_is_shown_in_the_clients_words() {
        let clients = Arc::new(Clients::default());
        let stream = clients.connected(client("a"));
        stream.sent("type/cluster", "7", 3);
        stream.nacked("type/cluster", "no such thing");
        let status = &clients.status()[0].types[0];
        assert_eq!((status.sent, status.nacks), (3, 1));
        assert_eq!(
            (status.nonce_sent.as_str(), status.nonce_acked.as_str()),
            ("7", "")
        );
        assert_eq!(status.last_nack, "no such thing");
    }

    #[test]
    fn a_dropped_stream_is_gone() {
        let clients = Arc::new(Clients::default());
        let stream = clients.connected(client("a"));
        let other = clients.connected(client("b"));
        drop(stream);
        assert_eq!(clients.status().len(), 1);
        drop(other);
        assert_eq!(clients.status().len(), 0);
    }
}
