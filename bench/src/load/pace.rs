//! Moments at which requests are due, at a fixed rate, connection after connection in turn.
//!
//! A request's latency counts from when it was due, not from when its connection was free or this process had time: a
//! stall is seen by every request that fell due in it (no coordinated omission). The kernel's timer ticks once a
//! request; the runtime's own are a millisecond coarse.

use std::time::Duration;

use anyhow::Context as _;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe::Receiver, sync::mpsc, time::Instant};

/// A connection's requests that wait for it. More than that, and the subject is far too slow for the rate.
const BEHIND: usize = 4096;

/// Sends each of `connections` receivers the moments of its requests, until `end`.
pub(super) fn start(
    rate: u32,
    connections: usize,
    end: Instant,
) -> anyhow::Result<Vec<mpsc::Receiver<Instant>>> {
    let gap = Duration::from_secs(1) / rate;
    let period = Timespec {
        tv_sec: i64::try_from(gap.as_secs())?,
        tv_nsec: gap.subsec_nanos().into(),
    };
    let timer = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
    )?;
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..connections).map(|_| mpsc::channel(BEHIND)).unzip();
    let spec = Itimerspec {
        it_interval: period,
        it_value: period,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec)?;
    let begun = Instant::now();
    // Not a pipe, but read like one: eight bytes at a time, once there are some.
    let mut ticks = Receiver::from_owned_fd_unchecked(timer)?;
    tokio::spawn(async move {
        let mut due = begun;
        let mut turns = senders.iter().cycle();
        loop {
            let mut count = [0; 8];
            ticks.read_exact(&mut count).await?;
            for _ in 0..u64::from_ne_bytes(count) {
                due += gap;
                if due >= end {
                    return Ok(());
                }
                let turn = turns.next().context("no connection")?;
                // A connection that has given up has said why; one that is full makes the run fail.
                if let Err(mpsc::error::TrySendError::Full(_)) = turn.try_send(due) {
                    anyhow::bail!("{BEHIND} requests behind");
                }
            }
        }
    });
    Ok(receivers)
}
