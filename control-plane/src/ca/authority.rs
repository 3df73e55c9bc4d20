//! The authority as all parts of the control plane have it: signs, says what is trusted, and changes step by step.
//!
//! ```text
//! issue ─► is the end of it on disk? ─(no)─► store ─► sign with what is in force
//! change ─► store ─► in force ─► root.pem ─► whoever watches (publisher, listeners, own certificate)
//! ```
//! A change is in the store before it is in force: after a crash at any instant the next process goes on from there.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};
use tonic::Code;

use super::{
    BACKDATED, checked_ttl, csr,
    given::Given,
    records::{Held, Records},
    root::{self, CERT_FILE, KEY_FILE, RootError, write_private},
    rotation::{Refused, Rotation, Why},
    seal::SealingKeys,
    signer::{Material, Signer},
    state::{InForce, Record, Source, State},
    unix_ms,
};
use crate::{
    config::{Config, RootEncryption},
    refusal::Refusal,
    server::tls::Client,
    spiffe::SpiffeId,
    store::{self, Store, StoreError, authorities, tokens},
};

/// Roots, keys, and what is in force of them.
#[derive(Debug)]
pub(crate) struct Authority {
    trust_domain: Arc<str>,
    in_force: ArcSwap<InForce>,
    /// The number of the change.
    changed: watch::Sender<u64>,
    /// One change at a time.
    writing: Mutex<()>,
    store: Store,
    keys: SealingKeys,
    given: Option<Given>,
    root_ttl: Duration,
    root_file: PathBuf,
    records: Records,
}

/// A certificate and what its holder wants to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    /// Leaf first, without the root.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// When it ends.
    pub(crate) not_after: OffsetDateTime,
    /// What goes with it.
    pub(crate) in_force: Arc<InForce>,
}

/// A change that was asked for and not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Root(#[from] RootError),
}

impl From<StoreError> for ChangeError {
    fn from(error: StoreError) -> Self {
        Self::Root(error.into())
    }
}

impl Authority {
    /// Takes up what the store has; else what an older version or the operator's files have; else makes a root.
    ///
    /// Nothing has changed after an error.
    pub(crate) async fn open(
        store: Store,
        config: &Config,
        now: OffsetDateTime,
    ) -> Result<Self, RootError> {
        let given = Given::of(config)?;
        let stored: Option<State> = authorities::load(&store)?;
        let keys = match &config.root_encryption {
            RootEncryption::Beside => {
                SealingKeys::beside_store(&config.data_dir, stored.is_none())?
            }
            RootEncryption::File(path) => SealingKeys::read(path)?,
            RootEncryption::Key(key) => SealingKeys::parse(key.expose(), "the environment")?,
        };
        let opening = Opening {
            config,
            keys: &keys,
            given: given.as_ref(),
            now,
        };
        // Bad files stop the start, whatever the store has.
        let wanted = given
            .as_ref()
            .map(|given| opening.given(given))
            .transpose()?;
        let is_new = stored.is_none();
        let in_force = match stored {
            Some(state) => {
                let state = state.sealed_anew(&keys)?.unwrap_or(state);
                state.open(&keys, &config.trust_domain, now)?
            }
            None => opening.first()?,
        };
        let authority = Self {
            trust_domain: config.trust_domain.as_str().into(),
            changed: watch::Sender::new(in_force.state.sequence),
            in_force: ArcSwap::from_pointee(in_force),
            writing: Mutex::new(()),
            store,
            given,
            root_ttl: config.root_ttl,
            root_file: config.data_dir.join(CERT_FILE),
            records: Records::default(),
            keys,
        };
        authority.keep(is_new).await?;
        authority.forget_key_file(config)?;
        if let Some((material, signer)) = wanted {
            authority.follow(material, signer, now).await?;
        }
        Ok(authority)
    }

    /// Writes what was opened, and the bundle.
    async fn keep(&self, is_new: bool) -> Result<(), RootError> {
        let in_force = self.in_force();
        let state = in_force.state.clone();
        let stored: Option<State> = if is_new {
            None
        } else {
            authorities::load(&self.store)?
        };
        if stored.as_ref() != Some(&state) {
            self.store
                .write(move |txn| authorities::put(txn, &state))
                .await?;
        }
        write_private(&self.root_file, in_force.bundle.pem.as_bytes())
    }

    /// An older version's key file goes when the store holds the key.
    fn forget_key_file(&self, config: &Config) -> Result<(), RootError> {
        let path = config.data_dir.join(KEY_FILE);
        if !path.exists() {
            return Ok(());
        }
        let key = root::private_key(&path)?;
        let in_force = self.in_force();
        let signers = std::iter::once(&in_force.active).chain(&in_force.other);
        if signers
            .into_iter()
            .any(|signer| signer.material().key_der == key)
        {
            std::fs::remove_file(&path).map_err(|source| RootError::File {
                doing: "removing",
                path: path.clone(),
                source,
            })?;
            tracing::info!(path = %path.display(), "the root's key is in the store now, encrypted; its file was removed");
        } else {
            tracing::warn!(path = %path.display(), "this key is not of the root in the store, and not used; move it away");
        }
        Ok(())
    }

    /// What signs and what is trusted, now.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    /// Changes of what is in force.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// e.g. `cluster.local`
    pub(crate) const fn trust_domain(&self) -> &Arc<str> {
        &self.trust_domain
    }

    #[cfg(test)]
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Who holds what.
    pub(crate) const fn records(&self) -> &Records {
        &self.records
    }

    /// A workload has shown this certificate, whose chain was verified.
    pub(crate) fn saw(&self, client: &Client, intermediates: &[CertificateDer<'_>]) {
        let ms = |time| store::unix_ms(time);
        let held = Held {
            id: client.id.clone(),
            root: self.root_of(client, intermediates),
            issued_ms: ms(client.not_before + BACKDATED),
            not_after_ms: ms(client.not_after),
            renewed_ms: None,
            renews: None,
        };
        self.records.seen(&client.serial, held);
    }

    /// By the key that signed it.
    fn root_of(&self, client: &Client, intermediates: &[CertificateDer<'_>]) -> Arc<str> {
        let in_force = self.in_force();
        let mut signers = std::iter::once(&in_force.active).chain(&in_force.other);
        let found = signers.find(|signer| {
            let chain = &signer.material().chain;
            intermediates.len() == chain.len()
                && intermediates
                    .iter()
                    .zip(chain)
                    .all(|(a, b)| a.as_ref() == b.as_ref())
                && (in_force.other.is_none() || client.issuer == signer.subject())
        });
        found.map_or_else(Arc::default, |signer| signer.root_sha256().into())
    }

    /// What comes after the secret of a join token: hex SHA-256 of each root that the control plane may show.
    pub(crate) fn pins(&self) -> String {
        self.in_force().pins().join(".")
    }

    /// Signs an X.509-SVID for `id` and the key of `csr_der`. `renews` is the serial number of the one before.
    pub(crate) async fn issue(
        &self,
        id: &SpiffeId,
        csr_der: &[u8],
        ttl: Option<Duration>,
        renews: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Issued, Refusal> {
        let key = csr::public_key(csr_der)?;
        self.issue_key(id, &key, ttl, renews, now).await
    }

    /// As [`Self::issue`], for a key that [`csr::public_key`] has already accepted.
    pub(crate) async fn issue_key(
        &self,
        id: &SpiffeId,
        key: &SubjectPublicKeyInfo,
        ttl: Option<Duration>,
        renews: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Issued, Refusal> {
        let ttl = checked_ttl(ttl)?;
        let in_force = self.promising(ttl, now).await;
        let signer = &in_force.active;
        let leaf = signer
            .sign(key, id, Vec::new(), ttl, now)
            .map_err(|error| Refusal::new(Code::Internal, format!("signing failed: {error}")))?;
        let held = Held {
            id: id.clone(),
            root: signer.root_sha256().into(),
            issued_ms: unix_ms(now),
            not_after_ms: unix_ms(leaf.not_after),
            renewed_ms: None,
            renews: renews.map(Into::into),
        };
        self.records.issued(&leaf.serial, held);
        Ok(Issued {
            chain: signer.chain_of(&leaf),
            not_after: leaf.not_after,
            in_force,
        })
    }

    /// What is in force once the store knows that certificates of this life may be about: a rotation waits for their
    /// end, also after a crash. Written for half a life in advance, so that few issues wait for the disk.
    async fn promising(&self, ttl: Duration, now: OffsetDateTime) -> Arc<InForce> {
        let until_ms = unix_ms(now + ttl);
        let covers = |in_force: &InForce| in_force.state.active.until_ms >= until_ms;
        let in_force = self.in_force();
        if covers(&in_force) {
            return in_force;
        }
        let _writing = self.writing.lock().await;
        let in_force = self.in_force();
        if covers(&in_force) {
            return in_force;
        }
        let next = Arc::new(in_force.until(unix_ms(now + ttl + ttl / 2)));
        if let Err(error) = self.write(&next.state).await {
            // A disk that fails must not end the mesh within an hour. It is written with the next change.
            tracing::error!(%error, "the end of the last certificate is not in the store; it is remembered in memory");
        }
        self.in_force.store(Arc::clone(&next));
        next
    }

    async fn write(&self, state: &State) -> Result<(), StoreError> {
        let state = state.clone();
        self.store
            .write(move |txn| authorities::put(txn, &state))
            .await
    }

    /// Writes what `next` makes of what is in force, and puts it into force. None from it: nothing is to be changed.
    pub(crate) async fn change(
        &self,
        next: impl FnOnce(&InForce) -> Result<Option<InForce>, ChangeError>,
    ) -> Result<Arc<InForce>, ChangeError> {
        let _writing = self.writing.lock().await;
        let before = self.in_force();
        let Some(next) = next(&before)? else {
            return Ok(before);
        };
        self.write(&next.state).await?;
        let next = Arc::new(next);
        self.in_force.store(Arc::clone(&next));
        let (path, pem) = (self.root_file.clone(), Arc::clone(&next.bundle.pem));
        if next.bundle.pem != before.bundle.pem {
            // For people and for who starts later; nobody who is connected reads it.
            let written = tokio::task::spawn_blocking(move || write_private(&path, pem.as_bytes()));
            if let Ok(Err(error)) = written.await {
                tracing::error!(%error, path = %self.root_file.display(), "trust bundle not written");
            }
        }
        // Who is behind, or that it is paused, is nobody else's business.
        let step = |of: &InForce| of.state.rotation.as_ref().map(|rotation| rotation.step);
        if next.state.sequence != before.state.sequence || step(&next) != step(&before) {
            self.changed.send_modify(|number| *number += 1);
        }
        Ok(next)
    }

    /// Begins a rotation to a root that is made now.
    pub(crate) async fn rotate(
        &self,
        why: Why,
        now: OffsetDateTime,
    ) -> Result<Arc<InForce>, ChangeError> {
        if self.in_force().state.rotation.is_some() {
            return Err(Refused::UnderWay.into());
        }
        let material = root::make(&self.trust_domain, self.root_ttl, now)?;
        let signer = Signer::new(material, &self.trust_domain, now)
            .map_err(|problem| root::unfit(&self.root_file, problem))?;
        self.begin(why, signer, Source::Made, now).await
    }

    async fn begin(
        &self,
        why: Why,
        signer: Signer,
        source: Source,
        now: OffsetDateTime,
    ) -> Result<Arc<InForce>, ChangeError> {
        let record =
            Record::seal(signer.material(), source, &self.keys).map_err(RootError::from)?;
        let tokens_ms = self.last_token_ms(now)?;
        let signer = Arc::new(signer);
        self.change(|in_force| {
            if in_force.state.rotation.is_some() {
                return Err(Refused::UnderWay.into());
            }
            let horizon = in_force.state.horizon_ms();
            let rotation = Rotation::begin(why, unix_ms(now), horizon, tokens_ms);
            let (from, to) = (in_force.active.root_sha256(), signer.root_sha256());
            tracing::info!(
                from,
                to,
                ?why,
                "root rotation begins: both roots are trusted"
            );
            Ok(Some(in_force.began(rotation, (record, signer))))
        })
        .await
    }

    /// End of the last join token that can be used still.
    fn last_token_ms(&self, now: OffsetDateTime) -> Result<u64, RootError> {
        Ok(tokens::last_expiry(&self.store, unix_ms(now))?.unwrap_or(0))
    }

    /// Takes up files that have changed. Other certificates under the same root sign at once; another root comes by a
    /// rotation.
    async fn follow(
        &self,
        material: Material,
        signer: Signer,
        now: OffsetDateTime,
    ) -> Result<(), RootError> {
        let in_force = self.in_force();
        let flatten = |error| match error {
            ChangeError::Root(error) => error,
            // Somebody else began one in between: the files are looked at again.
            ChangeError::Refused(refused) => root::unfit(&self.root_file, refused.to_string()),
        };
        if in_force.state.active.is(&material) || in_force.state.rotation.is_some() {
            return Ok(());
        }
        if in_force.active.root_sha256() != signer.root_sha256() {
            let begun = self.begin(Why::Files, signer, Source::Given, now).await;
            return begun.map(drop).map_err(flatten);
        }
        let record = Record::seal(signer.material(), Source::Given, &self.keys)?;
        let changed = self.change(|in_force| {
            tracing::info!(not_after = %signer.not_after(), "signing with the files' new certificate");
            Ok(Some(in_force.reloaded((record, Arc::new(signer)))))
        });
        changed.await.map(drop).map_err(flatten)
    }

    /// Looks at the operator's files, if there are any. Blocks on the disk.
    pub(crate) fn look_at_files(
        &self,
        now: OffsetDateTime,
    ) -> Option<Result<(Material, Signer), RootError>> {
        let given = self.given.as_ref()?;
        let read = || {
            let material = given.read()?;
            let signer = Signer::new(material.clone(), &self.trust_domain, now)
                .map_err(|problem| root::unfit(&given.path(), problem))?;
            Ok((material, signer))
        };
        Some(read())
    }

    /// [`Self::follow`] for who looked.
    pub(crate) async fn take_files(
        &self,
        (material, signer): (Material, Signer),
        now: OffsetDateTime,
    ) -> Result<(), RootError> {
        self.follow(material, signer, now).await
    }

    /// Whether the operator's files say what signs.
    pub(crate) const fn is_given(&self) -> bool {
        self.given.is_some()
    }
}

/// What the first state is made from.
struct Opening<'a> {
    config: &'a Config,
    keys: &'a SealingKeys,
    given: Option<&'a Given>,
    now: OffsetDateTime,
}

impl Opening<'_> {
    fn given(&self, given: &Given) -> Result<(Material, Signer), RootError> {
        let material = given.read()?;
        let signer = self.signer(material.clone(), || given.path())?;
        Ok((material, signer))
    }

    fn signer(
        &self,
        material: Material,
        path: impl FnOnce() -> PathBuf,
    ) -> Result<Signer, RootError> {
        Signer::new(material, &self.config.trust_domain, self.now)
            .map_err(|problem| root::unfit(&path(), problem))
    }

    /// Of a store that holds no root.
    fn first(&self) -> Result<InForce, RootError> {
        let cert = self.config.data_dir.join(CERT_FILE);
        let key = self.config.data_dir.join(KEY_FILE);
        let (signer, source) = match (cert.exists(), key.exists(), self.given) {
            (true, true, _) => {
                let mut roots = root::certificates(&cert)?;
                roots.truncate(1);
                let material = Material {
                    chain: Vec::new(),
                    roots,
                    key_der: root::private_key(&key)?,
                };
                (self.signer(material, || cert)?, Source::Made)
            }
            (_, false, Some(given)) => (self.given(given)?.1, Source::Given),
            (false, false, None) => {
                let (domain, life) = (&self.config.trust_domain, self.config.root_ttl);
                let material = root::make(domain, life, self.now)?;
                (self.signer(material, || cert)?, Source::Made)
            }
            (true, false, None) => {
                return Err(RootError::Half {
                    found: cert,
                    missing: key,
                });
            }
            (false, true, _) => {
                return Err(RootError::Half {
                    found: key,
                    missing: cert,
                });
            }
        };
        let record = Record::seal(signer.material(), source, self.keys)?;
        Ok(InForce::new(State::first(record), Arc::new(signer), None))
    }
}
