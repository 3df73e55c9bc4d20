//! Which roots there are, which of them signs, and how far a rotation has got: as the store holds it, and as it is in
//! force.
//!
//! ```text
//! State (one record, keys sealed) ──open──► InForce (signers, bundle), immutable, replaced as a whole
//! ```
//! Whoever signs takes one [`InForce`] for the certificate and for the bundle that goes with it.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    pem_text,
    rotation::{Aborted, Act, Refused, Rotation, Step, Why},
    seal::{SealError, Sealed, SealingKeys},
    sha256,
    signer::{Material, Signer},
};

/// Changes of the bundle that are remembered for `outrigger certs`.
const MAX_PAST: usize = 10;

/// The store's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Rises with every change of the bundle.
    pub(crate) sequence: u64,
    /// What signs.
    pub(crate) active: Record,
    /// While a rotation is under way: the root that comes, then the one that goes.
    pub(crate) other: Option<Record>,
    pub(crate) rotation: Option<Rotation>,
    /// The last rotations, newest last.
    #[serde(default)]
    pub(crate) past: Vec<Past>,
}

/// One signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Base64 of DER: see [`Material`].
    chain: Vec<String>,
    roots: Vec<String>,
    key: Sealed,
    pub(crate) source: Source,
    /// No certificate that it signed ends later (milliseconds since 1970).
    pub(crate) until_ms: u64,
}

/// Where a signer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// Made here.
    Made,
    /// The operator's files.
    Given,
}

/// A rotation that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Past {
    pub(crate) why: Why,
    pub(crate) begun_ms: u64,
    pub(crate) ended_ms: u64,
    /// Hex SHA-256 of the roots.
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) aborted: bool,
}

/// A state that is used.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) state: State,
    /// Signs workloads.
    pub(crate) active: Arc<Signer>,
    /// The other one of a rotation.
    pub(crate) other: Option<Arc<Signer>>,
    pub(crate) bundle: Bundle,
}

/// What is trusted.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    pub(crate) ders: Vec<CertificateDer<'static>>,
    pub(crate) anchors: Arc<RootCertStore>,
    pub(crate) pem: Arc<str>,
}

impl Record {
    /// Seals the key.
    pub(crate) fn seal(
        material: &Material,
        source: Source,
        keys: &SealingKeys,
    ) -> Result<Self, SealError> {
        let encode = |ders: &[CertificateDer<'_>]| {
            ders.iter().map(|der| BASE64_STANDARD.encode(der)).collect()
        };
        let roots: Vec<String> = encode(&material.roots);
        Ok(Self {
            chain: encode(&material.chain),
            key: keys.seal(&purpose(&material.roots), &material.key_der)?,
            roots,
            source,
            until_ms: 0,
        })
    }

    fn material(&self, keys: &SealingKeys) -> Result<Material, SealError> {
        let decode = |texts: &[String]| {
            let ders = texts.iter().map(|text| BASE64_STANDARD.decode(text));
            ders.map(|der| der.map(CertificateDer::from))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| SealError::Envelope(format!("a certificate: {error}")))
        };
        let roots = decode(&self.roots)?;
        Ok(Material {
            chain: decode(&self.chain)?,
            key_der: keys.open(&purpose(&roots), &self.key)?,
            roots,
        })
    }

    /// Usable at `now`; one that is only trusted any more may have ended.
    fn open(
        &self,
        keys: &SealingKeys,
        trust_domain: &str,
        now: OffsetDateTime,
        must_sign: bool,
    ) -> Result<Signer, OpenError> {
        let material = self.material(keys)?;
        let at = if must_sign {
            now
        } else {
            let all = material.chain.iter().chain(&material.roots);
            let ends = all.filter_map(|certificate| super::signer::life(certificate).ok());
            let end = ends.map(|(_, end)| end).min().unwrap_or(now);
            now.min(end - time::Duration::seconds(1))
        };
        Signer::new(material, trust_domain, at).map_err(OpenError::Unfit)
    }

    /// Whether it is the same key with the same certificates.
    pub(crate) fn is(&self, material: &Material) -> bool {
        let same = |texts: &[String], ders: &[CertificateDer<'_>]| {
            texts.len() == ders.len()
                && ders
                    .iter()
                    .all(|der| texts.contains(&BASE64_STANDARD.encode(der)))
        };
        same(&self.chain, &material.chain) && same(&self.roots, &material.roots)
    }
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the root in the store: {0}")]
    Unfit(String),
}

/// An envelope is of one root.
fn purpose(roots: &[CertificateDer<'_>]) -> String {
    let root = roots.first().map(|root| super::hex(&sha256(root)));
    format!("outrigger root key of {}", root.unwrap_or_default())
}

impl State {
    /// The first root.
    pub(crate) const fn first(active: Record) -> Self {
        Self {
            sequence: 1,
            active,
            other: None,
            rotation: None,
            past: Vec::new(),
        }
    }

    /// Opens the keys.
    pub(crate) fn open(
        self,
        keys: &SealingKeys,
        trust_domain: &str,
        now: OffsetDateTime,
    ) -> Result<InForce, OpenError> {
        let active = self.active.open(keys, trust_domain, now, true)?;
        let other = self
            .other
            .as_ref()
            .map(|other| other.open(keys, trust_domain, now, false))
            .transpose()?;
        Ok(InForce::new(self, Arc::new(active), other.map(Arc::new)))
    }

    /// Seals every key with the first of `keys`. None: they are already.
    pub(crate) fn sealed_anew(&self, keys: &SealingKeys) -> Result<Option<Self>, SealError> {
        let mut state = self.clone();
        let mut changed = false;
        for record in std::iter::once(&mut state.active).chain(&mut state.other) {
            if !keys.is_current(&record.key) {
                let material = record.material(keys)?;
                record.key = keys.seal(&purpose(&material.roots), &material.key_der)?;
                changed = true;
            }
        }
        Ok(changed.then_some(state))
    }

    /// End of the last certificate that anybody signed.
    pub(crate) fn horizon_ms(&self) -> u64 {
        let other = self.other.as_ref().map_or(0, |other| other.until_ms);
        self.active.until_ms.max(other)
    }
}

impl InForce {
    pub(crate) fn new(state: State, active: Arc<Signer>, other: Option<Arc<Signer>>) -> Self {
        let bundle = Bundle::of(std::iter::once(&*active).chain(other.as_deref()));
        Self {
            state,
            active,
            other,
            bundle,
        }
    }

    /// What signs the control plane's own certificate: the root that has been there all the time, which is what join
    /// tokens pin and operators have copied, unless it has ended.
    pub(crate) fn own(&self, now: OffsetDateTime) -> &Arc<Signer> {
        let first = match (&self.state.rotation, &self.other) {
            (Some(rotation), Some(other)) if rotation.step == Step::Sign && !rotation.undoing => {
                other
            }
            _ => &self.active,
        };
        if first.not_after() <= now {
            &self.active
        } else {
            first
        }
    }

    /// What a new join token pins: a control plane that leads to any of these.
    pub(crate) fn pins(&self) -> Vec<&str> {
        let mut pins = vec![self.active.root_sha256()];
        pins.extend(self.other.iter().map(|other| other.root_sha256()));
        pins
    }

    /// The root that leaves at the end of the rotation, or that the new one comes beside.
    pub(crate) fn going(&self) -> Option<&Arc<Signer>> {
        match self.state.rotation.as_ref()?.step {
            Step::Publish => Some(&self.active),
            Step::Sign => self.other.as_ref(),
        }
    }

    /// With the beginning of a rotation to `next`.
    pub(crate) fn began(&self, rotation: Rotation, next: (Record, Arc<Signer>)) -> Self {
        let state = State {
            sequence: self.state.sequence + 1,
            other: Some(next.0),
            rotation: Some(rotation),
            ..self.state.clone()
        };
        Self::new(state, Arc::clone(&self.active), Some(next.1))
    }

    /// With the same root's next intermediate, or the same signer with other roots beside it.
    pub(crate) fn reloaded(&self, next: (Record, Arc<Signer>)) -> Self {
        let mut record = next.0;
        record.until_ms = self.state.active.until_ms;
        let state = State {
            sequence: self.state.sequence + 1,
            active: record,
            ..self.state.clone()
        };
        Self::new(state, next.1, self.other.clone())
    }

    /// With another rotation record (paused, resumed, hurried); the same otherwise.
    pub(crate) fn with_rotation(&self, rotation: Rotation) -> Self {
        let state = State {
            rotation: Some(rotation),
            ..self.state.clone()
        };
        Self::new(state, Arc::clone(&self.active), self.other.clone())
    }

    /// With certificates that end later.
    pub(crate) fn until(&self, until_ms: u64) -> Self {
        let mut state = self.state.clone();
        state.active.until_ms = state.active.until_ms.max(until_ms);
        Self::new(state, Arc::clone(&self.active), self.other.clone())
    }

    /// After `act`. None: there is no rotation.
    pub(crate) fn acted(&self, act: Act, now_ms: u64) -> Option<Self> {
        let rotation = self.state.rotation.as_ref()?;
        match act {
            Act::Switch => self.turned(rotation.switched(now_ms)),
            Act::Finish => Some(self.over(rotation, now_ms)),
        }
    }

    /// After the operator's abort.
    pub(crate) fn aborted(&self, now_ms: u64) -> Result<Self, Refused> {
        let rotation = self.state.rotation.as_ref().ok_or(Refused::None)?;
        match rotation.abort(now_ms)? {
            Aborted::Over => Ok(self.over(
                &Rotation {
                    undoing: true,
                    ..rotation.clone()
                },
                now_ms,
            )),
            Aborted::Back(rotation) => self.turned(rotation).ok_or(Refused::None),
        }
    }

    /// The other one signs.
    fn turned(&self, rotation: Rotation) -> Option<Self> {
        let state = State {
            active: self.state.other.clone()?,
            other: Some(self.state.active.clone()),
            rotation: Some(rotation),
            ..self.state.clone()
        };
        let other = Arc::clone(self.other.as_ref()?);
        Some(Self::new(state, other, Some(Arc::clone(&self.active))))
    }

    /// Without the one that does not sign.
    fn over(&self, rotation: &Rotation, now_ms: u64) -> Self {
        let mut state = State {
            sequence: self.state.sequence + 1,
            other: None,
            rotation: None,
            ..self.state.clone()
        };
        let active = self.active.root_sha256().to_owned();
        let other = self.other.as_ref().map(|other| other.root_sha256());
        let other = other.unwrap_or_default().to_owned();
        let (from, to) = if rotation.undoing {
            (active, other)
        } else {
            (other, active)
        };
        state.past.push(Past {
            why: rotation.why,
            begun_ms: rotation.begun_ms,
            ended_ms: now_ms,
            from,
            to,
            aborted: rotation.undoing,
        });
        let surplus = state.past.len().saturating_sub(MAX_PAST);
        state.past.drain(..surplus);
        Self::new(state, Arc::clone(&self.active), None)
    }
}

impl Bundle {
    fn of<'a>(signers: impl Iterator<Item = &'a Signer>) -> Self {
        let mut ders: Vec<CertificateDer<'static>> = Vec::new();
        for root in signers.flat_map(|signer| &signer.material().roots) {
            if !ders.contains(root) {
                ders.push(root.clone());
            }
        }
        // In one order, whichever signs: turning round is no change for those who trust both.
        ders.sort_by_key(|root| sha256(root));
        let mut anchors = RootCertStore::empty();
        anchors.add_parsable_certificates(ders.iter().cloned());
        let pem: String = ders.iter().map(pem_text).collect();
        Self {
            pem: pem.into(),
            anchors: Arc::new(anchors),
            ders,
        }
    }
}
