//! The incremental view of a [`Subscription`]. Subscription changes count whatever the nonce; a nonce only
//! tells which answer was taken or refused.

use std::{sync::Arc, time::Instant};

use outrigger_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};

use super::subscription::{
    Answer, Known, MAX_ANSWER_BYTES, Stage, Subscription, Verdict, Work, cost,
};
use crate::snapshot::{ResourceType, Resources};

impl Subscription {
    /// Reads a request.
    pub(crate) fn delta_request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        now: Instant,
    ) -> Option<Verdict> {
        let error = request
            .error_detail
            .as_ref()
            .map(|error| error.message.as_str());
        let verdict = self.verdict(&request.response_nonce, error, now);
        let first = !self.started;
        self.started = true;
        if first {
            self.begin(request);
        }
        for name in &request.resource_names_subscribe {
            if name == "*" {
                self.subscribe_all(first);
            } else {
                self.subscribe(name, first);
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == "*" {
                self.end_wildcard();
            } else {
                self.unsubscribe(name);
            }
        }
        if first {
            // What the client holds but does not ask for is no business of ours.
            let (wildcard, names) = (self.wildcard, &self.names);
            self.known
                .retain(|name, _| wildcard || names.contains(name));
        }
        verdict
    }

    fn begin(&mut self, request: &DeltaDiscoveryRequest) {
        for (name, version) in &request.initial_resource_versions {
            let held = Known::Held {
                version: version.as_str().into(),
                resource: None,
                sent: None,
            };
            self.known.insert(name.as_str().into(), held);
        }
        let all_by_silence = self.kind.is_some_and(ResourceType::all_by_silence)
            && request.resource_names_subscribe.is_empty();
        if all_by_silence {
            self.subscribe_all(true);
        }
    }

    fn subscribe_all(&mut self, first: bool) {
        if !first && self.wildcard {
            // Asked for again: it has lost them.
            self.forced.extend(self.known.keys().cloned());
        }
        self.wildcard = true;
        // Also when there is nothing: the client waits for it before it starts.
        self.owes_answer = true;
        self.look_at_all();
    }

    fn subscribe(&mut self, name: &str, first: bool) {
        let name = Arc::<str>::from(name);
        // On the first request the client says itself what it holds; later, asking again means having lost it.
        if !first && self.known.contains_key(&name) {
            self.forced.insert(Arc::clone(&name));
        }
        self.dirty.insert(Arc::clone(&name));
        self.names.insert(name);
    }

    fn unsubscribe(&mut self, name: &str) {
        let Some(name) = self.names.take(name) else {
            return;
        };
        if self.wildcard {
            // The client cannot know whether the wildcard still covers it, so it is told.
            self.force(&name);
        } else {
            self.forget(&name);
        }
    }

    /// The next answer, if one is due and none is outstanding.
    pub(crate) fn delta_next(
        &mut self,
        resources: Option<&Resources>,
        stage: Stage,
        now: Instant,
    ) -> Option<Answer> {
        if !self.is_free(now) {
            return None;
        }
        let (mut set, mut removed, mut clean) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        for name in &self.dirty {
            match (self.work(name, resources), stage) {
                (Work::Clean, _) => clean.push(Arc::clone(name)),
                (Work::Send(resource), Stage::Updates) => {
                    bytes += cost(&resource);
                    if bytes > MAX_ANSWER_BYTES && !set.is_empty() {
                        break; // The rest follows the ACK.
                    }
                    set.push(resource);
                }
                (Work::TellAbsent, Stage::Updates) | (Work::Remove, Stage::Removals) => {
                    removed.push(Arc::clone(name));
                }
                (Work::Send(_) | Work::TellAbsent, Stage::Removals)
                | (Work::Remove, Stage::Updates) => {}
            }
        }
        for name in &clean {
            self.dirty.remove(name);
            self.forced.remove(name);
        }
        let due = self.owes_answer && stage == Stage::Updates;
        if set.is_empty() && removed.is_empty() && !due {
            return None;
        }
        set.iter().for_each(|resource| self.hold(resource, now));
        removed.iter().for_each(|name| self.drop_held(name));
        Some(self.answer(String::new(), set, removed, (stage, now)))
    }
}

/// An answer as it goes over the wire.
pub(crate) fn response(answer: Answer) -> DeltaDiscoveryResponse {
    let virtual_hosts = &*answer.type_url == ResourceType::VirtualHost.url();
    let resources = answer.resources.iter().map(|resource| Resource {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        resource: Some(resource.any.clone()),
        // A request waits for the name that it asked for among these.
        aliases: if virtual_hosts {
            vec![resource.name.to_string()]
        } else {
            Vec::new()
        },
        ..Resource::default()
    });
    let mut resources: Vec<_> = resources.collect();
    let mut removed: Vec<_> = answer.removed.iter().map(ToString::to_string).collect();
    if virtual_hosts && answer.stage == Stage::Updates {
        // "There is none" is a resource without a body: Envoy's request would wait on after a removal.
        resources.extend(removed.drain(..).map(|name| Resource {
            aliases: vec![name.clone()],
            name,
            ..Resource::default()
        }));
    }
    DeltaDiscoveryResponse {
        resources,
        removed_resources: removed,
        type_url: answer.type_url.to_string(),
        nonce: answer.nonce,
        ..DeltaDiscoveryResponse::default()
    }
}

#[cfg(test)]
mod tests;
