//! Looks up the names of clusters with the system's resolver, whether the management server is there or not.

use std::{net::IpAddr, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{Client, Wakes, lock, until};

/// Names that are looked up at the same time. A resolver that hangs holds a thread for each.
const IN_FLIGHT: usize = 8;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

impl Client {
    /// For ever.
    pub(super) async fn look_up(&self, wakes: &Wakes) {
        let mut flights = JoinSet::new();
        loop {
            let free = IN_FLIGHT.saturating_sub(flights.len());
            let now = Instant::now();
            let (due, next) = {
                let mut engine = lock(&self.engine);
                (engine.due_names(now, free), engine.next_name_due(now))
            };
            let is_full = due.len() == free;
            for name in due {
                flights.spawn(look_up(name));
            }
            tokio::select! {
                Some(found) = flights.join_next() => {
                    let Ok((name, result)) = found else { continue };
                    let now = Instant::now();
                    self.vitals.count_lookup(result.is_ok());
                    lock(&self.engine).name_found(&name, result, now);
                    self.publish(now, wakes);
                    // Listeners are asked for once every cluster is complete.
                    wakes.stream.notify_one();
                }
                () = until(next), if !is_full => {}
                () = wakes.names.notified() => {}
            }
        }
    }
}

async fn look_up(name: String) -> (String, Result<Vec<IpAddr>, String>) {
    let result = match timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name.as_str(), 0))).await {
        Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {LOOKUP_TIMEOUT:?}")),
    };
    (name, result)
}
