//! All clients of one protocol: they come, and go, together.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Bench,
    board::Board,
    client::{Client, Protocol},
    connect::Door,
};

/// Clients that come at the same time when nothing is measured by it.
pub(super) const GENTLE: usize = 64;
/// What is sent although nobody waits for it arrives within this time.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// What all clients were sent since they connected.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) answers: AtomicU64,
    pub(super) resources: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// How it was to connect all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connected {
    /// Until the last one had what it asked for.
    pub(super) last: Duration,
    pub(super) answers: u64,
    pub(super) resources: u64,
    pub(super) bytes: u64,
}

pub(super) struct Fleet {
    used: Vec<u32>,
    resting: Vec<Client>,
    living: JoinSet<(Client, anyhow::Result<()>)>,
    ends: Vec<oneshot::Sender<()>>,
}

impl Fleet {
    /// Each uses the first service, and others at random.
    pub(super) fn new(protocol: Protocol, clients: u32, bench: &mut Bench, board: &Board) -> Self {
        let (services, uses) = (bench.options.services, bench.options.uses as usize);
        let namespaces = bench.options.namespaces;
        let all = (0..clients).map(|number| {
            let mut chosen = BTreeSet::from([0]);
            while chosen.len() < uses {
                chosen.insert(bench.random.u32(..services));
            }
            chosen.iter().for_each(|service| board.uses(*service));
            Client::new(number, namespaces, protocol, chosen)
        });
        let resting: Vec<Client> = all.collect();
        let used: BTreeSet<u32> = resting.iter().flat_map(Client::uses).collect();
        let mut used: Vec<u32> = used.into_iter().collect();
        if used.len() > 1 {
            used.retain(|service| *service != 0);
        }
        Self {
            used,
            resting,
            living: JoinSet::new(),
            ends: Vec::new(),
        }
    }

    /// Services that some client uses, without the one that all do (unless there is no other).
    pub(super) fn used(&self) -> &[u32] {
        &self.used
    }

    /// Connects all that are not, so many at a time, and waits until each has what it asks for.
    pub(super) async fn connect(
        &mut self,
        door: &Arc<Door>,
        board: &Arc<Board>,
        at_a_time: usize,
    ) -> anyhow::Result<Connected> {
        let (places, tally) = (Arc::new(Semaphore::new(at_a_time)), Arc::default());
        let begun = Instant::now();
        let mut waiting = Vec::new();
        for mut client in self.resting.drain(..) {
            let (door, board, places) = (Arc::clone(door), Arc::clone(board), Arc::clone(&places));
            let tally: Arc<Tally> = Arc::clone(&tally);
            let (ready, is_ready) = oneshot::channel();
            let (end, ends) = oneshot::channel();
            waiting.push(is_ready);
            self.ends.push(end);
            self.living.spawn(async move {
                let life = async {
                    let place = places.acquire().await?;
                    let channel = door.open(client.number, client.namespace).await?;
                    let ready = (place, ready);
                    client.live(channel, &board, &tally, ready, ends).await
                };
                let ended = life.await;
                (client, ended)
            });
        }
        for is_ready in waiting {
            tokio::select! {
                ready = is_ready => if ready.is_err() {
                    return Err(self.failure().await);
                },
                Some(ended) = self.living.join_next() => {
                    let (_, ended) = ended?;
                    ended?;
                    anyhow::bail!("a client ended early");
                }
            }
        }
        let last = begun.elapsed();
        sleep(AFTERWARDS).await;
        Ok(Connected {
            last,
            answers: tally.answers.load(Ordering::Relaxed),
            resources: tally.resources.load(Ordering::Relaxed),
            bytes: tally.bytes.load(Ordering::Relaxed),
        })
    }

    /// Ends all connections at the same moment.
    pub(super) async fn hang_up(&mut self) -> anyhow::Result<()> {
        for end in self.ends.drain(..) {
            // One that is gone already says why below.
            end.send(()).unwrap_or_default();
        }
        while let Some(ended) = self.living.join_next().await {
            let (client, ended) = ended?;
            ended?;
            self.resting.push(client);
        }
        Ok(())
    }

    async fn failure(&mut self) -> anyhow::Error {
        while let Some(ended) = self.living.join_next().await {
            if let Ok((_, Err(error))) = ended {
                return error.context("connecting");
            }
        }
        anyhow::anyhow!("a client ended without a word")
    }
}
