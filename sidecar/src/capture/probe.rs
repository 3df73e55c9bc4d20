//! Whether connections are really redirected: this process dials an address that leads nowhere, and that rules redirect
//! even for itself, and looks whether the connection comes to its own port.
//!
//! ```text
//! dial 240.240.255.254:15001 ──rule──► virtualOutbound: going to 240.240.255.254:15001 ──► it works
//!          └── anything else ──► not ready, and says what to do
//! ```
//! Asked for ever: rules may be taken away.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{config::CaptureCheck, shared::Shared};

/// The addresses, which no service is ever given.
const ADDRESSES: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(240, 240, 255, 254)), 15001),
    SocketAddr::new(
        IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0xffff)),
        15001,
    ),
];
/// For a connection on the same host.
const WITHIN: Duration = Duration::from_secs(2);
/// While it does not work, and afterwards.
const AGAIN: Duration = Duration::from_millis(500);
const STILL: Duration = Duration::from_secs(10);

/// What the last probes said.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    arrivals: [AtomicU64; ADDRESSES.len()],
    arrived: Notify,
    /// None = not tried yet. Empty = it works.
    problem: Mutex<Option<String>>,
}

impl Probe {
    /// True if `destination` is the probe's, whose arrival is noted.
    pub(crate) fn notes(&self, destination: SocketAddr) -> bool {
        let mut all = ADDRESSES.iter().zip(&self.arrivals);
        let Some((_, count)) = all.find(|(address, _)| **address == destination) else {
            return false;
        };
        count.fetch_add(1, Relaxed);
        self.arrived.notify_waiters();
        true
    }

    /// What is wrong, for people; None = nothing.
    pub(crate) fn problem(&self) -> Option<String> {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match &*problem {
            None => Some("the redirection was not tried yet".to_owned()),
            Some(problem) if problem.is_empty() => None,
            Some(problem) => Some(problem.clone()),
        }
    }

    fn says(&self, problem: String) {
        let mut known = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != Some(&problem) {
            if problem.is_empty() {
                tracing::info!("connections are redirected to this sidecar");
            } else {
                tracing::warn!(%problem, "connections are not redirected to this sidecar");
            }
        }
        *known = Some(problem);
    }

    async fn look(&self, index: usize) -> Result<(), String> {
        let (Some(to), Some(count)) = (ADDRESSES.get(index), self.arrivals.get(index)) else {
            return Ok(());
        };
        let before = count.load(Relaxed);
        let came = async {
            loop {
                let next = self.arrived.notified();
                tokio::pin!(next);
                // From here on no word is missed.
                next.as_mut().enable();
                if count.load(Relaxed) != before {
                    return;
                }
                next.await;
            }
        };
        let dialled = timeout(WITHIN, async {
            let stream = TcpStream::connect(to).await;
            match stream {
                // It is reset once it has been noted.
                Ok(_stream) => {
                    came.await;
                    Ok(())
                }
                Err(_) if count.load(Relaxed) != before => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        let why = match dialled {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_elapsed) => format!("nothing came within {WITHIN:?}"),
        };
        Err(format!(
            "connections are not redirected: one to {to} did not come back to this sidecar ({why}). \
             Run `outrigger redirect apply` as root, and `outrigger redirect check` to see what is missing; \
             or start with --capture-check warn"
        ))
    }
}

/// Looks for ever.
pub(crate) async fn run(shared: Arc<Shared>, ipv6: bool) {
    let probe = &shared.capture.probe;
    loop {
        let problem = if shared.own_ports.captures_outbound() {
            let families = if ipv6 { 2 } else { 1 };
            let mut problems = Vec::new();
            for index in 0..families {
                problems.extend(probe.look(index).await.err());
            }
            problems.join("; ")
        } else {
            "the control plane has sent no listener for redirected connections (virtualOutbound)"
                .to_owned()
        };
        let works = problem.is_empty();
        probe.says(problem);
        sleep(if works { STILL } else { AGAIN }).await;
    }
}

/// What readiness says: what is missing, and what an operator should look at.
pub(crate) fn verdict(shared: &Shared) -> [Option<String>; 2] {
    let check = shared
        .capture
        .setup()
        .map_or(CaptureCheck::Off, |setup| setup.check);
    match check {
        CaptureCheck::Off => [None, None],
        CaptureCheck::Required => [shared.capture.probe.problem(), None],
        CaptureCheck::Warn => [None, shared.capture.probe.problem()],
    }
}
