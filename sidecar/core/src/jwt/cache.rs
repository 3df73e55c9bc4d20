//! Tokens whose signature was verified, remembered by a worker, so that a caller that sends the same token with each
//! request costs one verification.
//!
//! ```text
//! looked up ─► young ─(full: becomes old, what was old is forgotten)─► old ─(looked up again: young)
//! ```
//! Only the signature is remembered: time and audience are looked at each time. A change of the keys forgets all. Of one
//! worker; the whole token is the key, so that nothing else can be taken for it.

use std::{collections::BTreeMap, sync::Arc};

use super::{KeySet, Provider, Verified};

/// What a worker remembers.
#[derive(Debug, Default)]
pub struct TokenCaches(Vec<OfProvider>);

#[derive(Debug)]
struct OfProvider {
    provider: Arc<Provider>,
    keys: Arc<KeySet>,
    young: Tokens,
    old: Tokens,
}

type Tokens = BTreeMap<Box<[u8]>, Arc<Verified>>;

impl TokenCaches {
    pub(super) fn find(
        &mut self,
        provider: &Arc<Provider>,
        keys: &Arc<KeySet>,
        token: &[u8],
    ) -> Option<Arc<Verified>> {
        let own = self.of(provider, keys)?;
        if let Some(found) = own.young.get(token) {
            return Some(Arc::clone(found));
        }
        let (token, found) = own.old.remove_entry(token)?;
        own.put(token, Arc::clone(&found));
        Some(found)
    }

    pub(super) fn remember(
        &mut self,
        provider: &Arc<Provider>,
        keys: &Arc<KeySet>,
        token: &[u8],
        verified: &Arc<Verified>,
    ) {
        if provider.cache_size == 0 || token.len() > provider.cache_token_size {
            return;
        }
        if self.of(provider, keys).is_none() {
            self.0.push(OfProvider {
                provider: Arc::clone(provider),
                keys: Arc::clone(keys),
                young: BTreeMap::new(),
                old: BTreeMap::new(),
            });
        }
        if let Some(own) = self.of(provider, keys) {
            own.put(token.into(), Arc::clone(verified));
        }
    }

    fn of(&mut self, provider: &Arc<Provider>, keys: &Arc<KeySet>) -> Option<&mut OfProvider> {
        let mut all = self.0.iter_mut();
        let own = all.find(|own| Arc::ptr_eq(&own.provider, provider))?;
        if !Arc::ptr_eq(&own.keys, keys) {
            own.keys = Arc::clone(keys);
            own.young.clear();
            own.old.clear();
        }
        Some(own)
    }

    /// Forgets what belongs to providers that nobody else has any more. To be called now and then.
    pub fn sweep(&mut self) {
        self.0.retain(|own| Arc::strong_count(&own.provider) > 1);
    }

    /// Tokens that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0
            .iter()
            .map(|own| own.young.len() + own.old.len())
            .sum()
    }

    /// None is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl OfProvider {
    /// Both together hold what the provider may.
    fn put(&mut self, token: Box<[u8]>, verified: Arc<Verified>) {
        let half = self.provider.cache_size.div_ceil(2);
        if self.young.len() >= half {
            self.old = std::mem::take(&mut self.young);
        }
        if self.young.len() + self.old.len() >= self.provider.cache_size {
            self.old.pop_first();
        }
        self.young.insert(token, verified);
    }
}
