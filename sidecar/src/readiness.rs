//! Is the application ready? Asked by HTTP or TCP, decided by counting.
//!
//! ```text
//! unknown --success--> healthy --(unhealthy_threshold failures | refused)--> unhealthy
//!    (every 250 ms)       ^---------(healthy_threshold successes)--------------'
//! ```
//! [`Judge`] knows no clock and no socket.

use std::{sync::Arc, time::Duration};

use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{App, Readiness, proxy_protocol::header, shared::Shared, vitals::Vitals};

/// Before the first success; applications take their time to start.
const STARTING: Duration = Duration::from_millis(250);
/// An application that has not answered by then is worth a warning.
const SLOW: Duration = Duration::from_secs(5);

/// What we tell others about the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppHealth {
    /// It never answered.
    Unknown,
    Healthy,
    Unhealthy,
}

impl AppHealth {
    /// The word of the registry.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Healthy => "HEALTHY",
            Self::Unknown | Self::Unhealthy => "UNHEALTHY",
        }
    }
}

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Success,
    /// No answer, or a wrong one.
    Failure,
    /// Nobody listens: the application is gone.
    Refused,
}

/// Counts checks and decides.
#[derive(Debug)]
pub(crate) struct Judge {
    rules: Readiness,
    health: AppHealth,
    successes: u32,
    failures: u32,
    /// Nobody listened at the last check that failed.
    was_gone: bool,
}

impl Judge {
    pub(crate) fn new(rules: Readiness) -> Self {
        Self {
            rules,
            health: AppHealth::Unknown,
            successes: 0,
            failures: 0,
            was_gone: false,
        }
    }

    /// The health after `check`.
    pub(crate) fn observe(&mut self, check: Check) -> AppHealth {
        if check == Check::Success {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            let enough = match self.health {
                AppHealth::Unknown => 1,
                AppHealth::Healthy | AppHealth::Unhealthy => self.rules.healthy_threshold,
            };
            if self.successes >= enough {
                self.health = AppHealth::Healthy;
            }
        } else {
            self.successes = 0;
            self.was_gone = check == Check::Refused;
            self.failures = self.failures.saturating_add(1);
            let is_over =
                check == Check::Refused || self.failures >= self.rules.unhealthy_threshold;
            if self.health == AppHealth::Healthy && is_over {
                self.health = AppHealth::Unhealthy;
            }
        }
        self.health
    }

    /// When to check next. An application that was started again is asked again soon, so that it does not wait for whole
    /// intervals; one that was there all the time, and did not answer well, has to do so for as long as was written.
    pub(crate) fn pause(&self) -> Duration {
        match self.health {
            AppHealth::Unknown => STARTING.min(self.rules.interval),
            AppHealth::Unhealthy if self.successes > 0 && self.was_gone => {
                STARTING.min(self.rules.interval)
            }
            AppHealth::Healthy | AppHealth::Unhealthy => self.rules.interval,
        }
    }
}

/// Checks for ever and publishes changes.
pub(crate) async fn watch(
    app: App,
    shared: Arc<Shared>,
    vitals: Arc<Vitals>,
    health: watch::Sender<AppHealth>,
) {
    let mut judge = Judge::new(app.readiness.clone());
    let mut is_said = false;
    let started = Instant::now();
    loop {
        // From begin to begin: a check that waits for its timeout does not delay the next.
        let began = Instant::now();
        let check = check(&app).await;
        let now = judge.observe(check);
        let was = health.send_replace(now);
        if was != now {
            vitals.set_app(now);
            if now == AppHealth::Unhealthy {
                tracing::warn!(app = %app.address, ?check, "application does not answer its readiness check");
            } else {
                tracing::info!(app = %app.address, health = ?now, "application's readiness changed");
            }
        } else if now == AppHealth::Unknown
            && started.elapsed() >= SLOW
            && !std::mem::replace(&mut is_said, true)
        {
            tracing::warn!(app = %app.address, ?check, "application has not answered yet");
        }
        tokio::select! {
            () = sleep_until(began + judge.pause()) => {}
            () = shared.app_unreachable.notified() => {}
        }
    }
}

async fn check(app: &App) -> Check {
    let attempt = async {
        let mut tcp = match TcpStream::connect(app.address).await {
            Ok(tcp) => tcp,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return Check::Refused;
            }
            Err(_error) => return Check::Failure,
        };
        if let Some(version) = app.proxy_protocol
            && tcp.write_all(&header::write(version, None)).await.is_err()
        {
            return Check::Failure;
        }
        match &app.readiness.http_path {
            None => Check::Success,
            Some(path) => match get(app, tcp, path).await {
                Ok(status) if status.is_success() => Check::Success,
                Ok(_) | Err(_) => Check::Failure,
            },
        }
    };
    tokio::time::timeout(app.readiness.timeout, attempt)
        .await
        .unwrap_or(Check::Failure)
}

/// The status that the application answers `GET path` with, in the protocol it speaks.
async fn get(app: &App, tcp: TcpStream, path: &str) -> Result<http::StatusCode, hyper::Error> {
    let io = TokioIo::new(tcp);
    let host = app.address.to_string();
    let is_http2 = matches!(app.protocol.as_str(), "http2" | "grpc");
    let target = if is_http2 {
        format!("http://{host}{path}")
    } else {
        path.to_owned()
    };
    let request = http::Request::get(target)
        .header(http::header::USER_AGENT, "outrigger-readiness")
        .body(Empty::<bytes::Bytes>::new());
    let Ok(mut request) = request else {
        return Ok(http::StatusCode::BAD_REQUEST);
    };
    if is_http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        let connection = tokio::spawn(connection);
        let status = sender
            .send_request(request)
            .await
            .map(|response| response.status());
        connection.abort();
        return status;
    }
    if let Ok(host) = http::HeaderValue::from_str(&host) {
        request.headers_mut().insert(http::header::HOST, host);
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let connection = tokio::spawn(connection);
    let status = sender
        .send_request(request)
        .await
        .map(|response| response.status());
    connection.abort();
    status
}

#[cfg(test)]
mod tests;
