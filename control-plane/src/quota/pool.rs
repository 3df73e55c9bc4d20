//! One limit: what each sidecar may believe it has of it, and how that changes.
//!
//! ```text
//!             wants more                     somebody else does
//!   share ──────────────────► more, as far as ─────────────────► less; free for others once it has confirmed
//!     ▲                       something is free                     │
//!     └─────────────────────────────────────────────────────────────┘
//!   lease over, not renewed: its share is free, and its fallback is kept for it instead
//! ```
//! `bound` is never less than what a sidecar may have in use: the sum of all bounds stays within the limit, except
//! while a lowered limit, or a fallback that has to be kept, waits for others to give up theirs.

use std::collections::BTreeMap;

use super::{
    allocate::SidecarId,
    division::{divide, fair, fill},
};

/// One sidecar's part of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Member {
    /// What it has been given, or will be with its next grant.
    pub(super) share: u32,
    /// What it has, or will have, without us.
    pub(super) fallback: u32,
    /// The most it may have in use while its lease lasts.
    bound: u32,
    /// The most it may fall back to.
    fallback_bound: u32,
    pub(super) wanted: u32,
    pub(super) in_use: u32,
    /// Lease over.
    pub(super) lost: bool,
    /// To be told of a new share or fallback.
    pub(super) changed: bool,
}

/// What a sidecar says of one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) in_use: u32,
    pub(crate) wanted: u32,
    pub(crate) held: u32,
    pub(crate) fallback: u32,
    /// No share was granted to it yet: what it holds is from a policy before.
    pub(crate) first: bool,
}

impl Report {
    /// The same of a sidecar that may have no more of it.
    pub(super) fn wanting_nothing(self) -> Self {
        Self { wanted: 0, ..self }
    }
}

/// All of one limit.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) limit: u32,
    pub(super) members: BTreeMap<SidecarId, Member>,
    /// It was in force before this process was: a predecessor may have leased it.
    pub(super) inherited: bool,
    /// Of an inherited one: what those who have come back had to fall back to; None = nobody has. What is missing to the
    /// limit may be what others fall back to who have not come back yet.
    returned: Option<u64>,
    /// A change had to wait for a sidecar to confirm what it was sent.
    pub(super) deferred: bool,
    /// Shares called back since start.
    pub(super) callbacks: u64,
}

impl Pool {
    pub(super) fn new(inherited: bool) -> Self {
        Self {
            inherited,
            ..Self::default()
        }
    }

    /// What `id` says of itself; `opening`: for the first time on its stream. True if that says something new.
    pub(super) fn report(
        &mut self,
        id: &SidecarId,
        report: Report,
        opening: bool,
        era: Era,
    ) -> bool {
        if self.inherited && !report.first && !self.members.contains_key(id) {
            let returned = self.returned.unwrap_or(0);
            self.returned = Some(returned + u64::from(report.fallback));
        }
        let known = self.members.get(id).filter(|member| !member.lost);
        let is_new = opening || known.is_none();
        if is_new {
            let share = self.taken_over(id, report, era);
            // Nothing that was sent before can arrive any more: it is what it says.
            let member = Member {
                share,
                fallback: report.fallback,
                changed: true,
                ..Member::default()
            };
            self.members.insert(id.clone(), member);
        }
        let Some(member) = self.members.get_mut(id) else {
            return false;
        };
        let before = *member;
        // It does not know of any share, as it has forgotten what it was granted: it is told again.
        member.changed |= report.first;
        member.wanted = report.wanted;
        member.in_use = report.in_use;
        // A share that is on its way counts as if it were there.
        member.bound = report.held.max(member.share);
        member.fallback_bound = report.fallback.max(member.fallback);
        is_new || *member != before
    }

    /// What is kept for those of an inherited limit who have not come back. If nobody has, there may be nobody who could.
    pub(super) fn absent(&self, era: Era) -> u64 {
        match self.returned {
            Some(returned) if self.inherited && era == Era::Between => {
                u64::from(self.limit).saturating_sub(returned)
            }
            _ => 0,
        }
    }

    /// How much of what a sidecar says it has it may keep. What it says may be old: its lease may have ended since,
    /// and others may have what it had.
    fn taken_over(&self, id: &SidecarId, report: Report, era: Era) -> u32 {
        let others = self.members.iter().filter(|(other, _)| *other != id);
        let kept: u64 = others.map(|(_, member)| member.kept()).sum();
        let room = u64::from(self.limit).saturating_sub(kept + self.absent(era));
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let share = report.held.min(room);
        if self.inherited && era == Era::Theirs {
            // What it has borrowed may be due to somebody who has not come back yet.
            return share.min(report.fallback);
        }
        if report.first {
            // It has no lease that could have ended.
            let count = self.members.len() + 1;
            return share.max(report.held.min(fair(self.limit, count, count)));
        }
        share
    }

    /// The lease of `id` is over: what it has left is its fallback.
    pub(super) fn lose(&mut self, id: &SidecarId) {
        if let Some(member) = self.members.get_mut(id) {
            member.lost = true;
            member.changed = false;
            member.bound = 0;
            member.in_use = 0;
        }
    }

    /// The sum of the shares under lease, and what is in use of them.
    pub(super) fn leased(&self) -> (u32, u32) {
        let leased = self.members.values().filter(|member| !member.lost);
        leased.fold((0, 0), |(shares, used), member| {
            (
                shares.saturating_add(member.share),
                used.saturating_add(member.in_use),
            )
        })
    }

    /// Decides about new shares and fallbacks. `free_to_hear`: who can be told now.
    pub(super) fn plan(&mut self, era: Era, turn: u64, free_to_hear: impl Fn(&SidecarId) -> Hears) {
        let hears: Vec<Hears> = self.members.keys().map(free_to_hear).collect();
        let fallbacks = self.plan_fallbacks(&hears, era);
        let shares = self.plan_shares(&hears, era, turn);
        self.deferred = fallbacks || shares;
    }

    /// True if something has to wait for a sidecar that hears later.
    fn plan_fallbacks(&mut self, hears: &[Hears], era: Era) -> bool {
        let (limit, count) = (self.limit, self.members.len());
        let absent = self.absent(era);
        let total: u64 = self
            .members
            .values()
            .map(|m| u64::from(m.fallback_bound))
            .sum();
        let taken = u32::try_from(total + absent).unwrap_or(u32::MAX);
        let mut free = limit.saturating_sub(taken);
        let mut deferred = false;
        for (place, (member, hears)) in self.members.values_mut().zip(hears).enumerate() {
            let due = fair(limit, count, place);
            if *hears != Hears::Now {
                deferred |= *hears == Hears::Later && due != member.fallback;
                continue;
            }
            // Only what is free already: who is new counts for others once they have been told.
            let more = due.saturating_sub(member.fallback_bound).min(free);
            free -= more;
            let next = due.min(member.fallback_bound + more);
            member.changed |= next != member.fallback;
            member.fallback = next;
            member.fallback_bound = member.fallback_bound.max(next);
        }
        deferred
    }

    /// True if something has to wait for a sidecar that hears later.
    fn plan_shares(&mut self, hears: &[Hears], era: Era, turn: u64) -> bool {
        let absent = self.absent(era);
        let members = self.members.values_mut().zip(hears.iter().copied());
        let (mut members, silent): (Vec<_>, Vec<_>) =
            members.partition(|(member, hears)| *hears != Hears::Never && !member.lost);
        // Who does not hear keeps what it may have.
        let kept: u64 = silent.iter().map(|(member, _)| member.kept()).sum();
        let available = u64::from(self.limit).saturating_sub(kept + absent);
        let available = u32::try_from(available).unwrap_or(u32::MAX);
        let wanted: Vec<u32> = members.iter().map(|(m, _)| m.wanted).collect();
        let targets = divide(available, &wanted, turn);

        let needs = members.iter().zip(&targets).map(|((member, _), target)| {
            // In advance only if it is worth it: else every request would move shares about.
            let short = u64::from(member.share) * 4 < u64::from(target.spare) * 3;
            if short { target.spare } else { target.due }
        });
        let goals: Vec<u32> = needs.collect();
        // What is nobody's due first; then, for what is, also what others have in advance.
        let spare: Vec<u32> = targets.iter().map(|target| target.spare).collect();
        let due: Vec<u32> = targets.iter().map(|target| target.due).collect();
        let asked = call_back(&mut members, &goals, &spare, available)
            + call_back(&mut members, &due, &due, available);
        self.callbacks += u64::from(asked);

        let later = || {
            let members = members.iter().zip(&targets);
            members.filter(|((_, hears), _)| *hears == Hears::Later)
        };
        let somebody_waits = members
            .iter()
            .zip(&due)
            .any(|((member, _), due)| member.share < *due);
        let deferred = later().any(|((member, _), target)| {
            member.share < target.spare || somebody_waits && member.share > target.due
        });

        let bound: u64 = members.iter().map(|(m, _)| u64::from(m.bound)).sum();
        let Some(free) = u64::from(available).checked_sub(bound) else {
            return deferred;
        };
        let mut free = u32::try_from(free).unwrap_or(u32::MAX);
        // Up to the fair share first, so that nobody waits for what is his behind somebody who borrows.
        let fair = targets.iter().map(|target| target.due.min(target.fair));
        let fair: Vec<u32> = fair.collect();
        for goals in [&fair, &due] {
            grow(&mut members, goals, &mut free);
        }
        // In advance only what nobody waits for: it would be called back at once.
        let mut waiting = members.iter().zip(&due);
        if waiting.all(|((member, _), due)| member.share >= *due) {
            grow(&mut members, &spare, &mut free);
        }
        deferred
    }
}

/// How much this process may know of limits that were in force before it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// Leases of its predecessor may still hold: nobody may get more than he has.
    Theirs,
    /// Those leases are over, but who has not come back may have his fallback in use.
    Between,
    /// Whoever was there has come back, or is forgotten.
    Ours,
}

/// Whether a sidecar can be told of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hears {
    /// Yes.
    Now,
    /// After it has confirmed what it was sent last.
    Later,
    /// Not on this connection.
    Never,
}

impl Member {
    /// What has to be kept for it.
    fn kept(&self) -> u64 {
        u64::from(if self.lost {
            self.fallback_bound
        } else {
            self.bound
        })
    }

    fn set_share(&mut self, share: u32) {
        self.changed |= share != self.share;
        self.share = share;
        self.bound = self.bound.max(share);
    }
}

/// Asks those who have more than `keep` for what others need to reach their goals and nobody has. Gives back how many
/// were asked.
fn call_back(
    members: &mut [(&mut Member, Hears)],
    goals: &[u32],
    keep: &[u32],
    available: u32,
) -> u32 {
    // Shares, not what is in use above them: that is on its way back already.
    let shares: u64 = members.iter().map(|(m, _)| u64::from(m.share)).sum();
    let needed = members.iter().zip(goals);
    let needed = needed.map(|((member, _), goal)| u64::from(goal.saturating_sub(member.share)));
    let missing = (shares + needed.sum::<u64>()).saturating_sub(u64::from(available));
    if missing == 0 {
        return 0;
    }
    let rooms = members.iter().zip(keep).map(|((member, hears), keep)| {
        if *hears == Hears::Now {
            member.share.saturating_sub(*keep)
        } else {
            0
        }
    });
    let rooms: Vec<u32> = rooms.collect();
    // Who has most above what it keeps gives most.
    let total: u64 = rooms.iter().map(|room| u64::from(*room)).sum();
    let left = total.saturating_sub(missing);
    let mut left = u32::try_from(left).unwrap_or(u32::MAX);
    let left = fill(&mut left, &rooms);
    let mut asked = 0;
    for ((member, _), (room, left)) in members.iter_mut().zip(rooms.iter().zip(left)) {
        if left < *room {
            member.set_share(member.share - (room - left));
            asked += 1;
        }
    }
    asked
}

/// Raises shares towards their goals, at the cost of what is free.
fn grow(members: &mut [(&mut Member, Hears)], goals: &[u32], free: &mut u32) {
    let rooms = members
        .iter_mut()
        .zip(goals)
        .map(|((member, hears), goal)| {
            if *hears != Hears::Now {
                return 0;
            }
            // What is in use above the share costs nothing: it is kept for it, and within the limit.
            let known = (*goal).min(member.bound);
            if known > member.share {
                member.set_share(known);
            }
            goal.saturating_sub(member.share)
        });
    let rooms: Vec<u32> = rooms.collect();
    for ((member, _), more) in members.iter_mut().zip(fill(free, &rooms)) {
        if more > 0 {
            member.set_share(member.share + more);
        }
    }
}
