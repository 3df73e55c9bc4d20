//! Bytes without any protocol: one connection's worth of them, and connections that are opened and closed.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Duration, Instant, timeout_at},
};

use super::{PATIENCE, Seen, Window, connect};

/// Asked for at a time: so much that asking does not show.
const BLOCK: u64 = 64 << 20; // bytes
const BUFFER: usize = 256 * 1024; // bytes
const MIB: f64 = (1 << 20) as f64;

/// Blocks, one after the other, each as long as it was asked for.
pub(super) async fn bulk(address: SocketAddr, window: Window) -> Seen {
    let mut seen = Seen::default();
    if let Err(error) = blocks(address, window, &mut seen).await {
        seen.failed(&error);
    }
    seen
}

async fn blocks(address: SocketAddr, window: Window, seen: &mut Seen) -> anyhow::Result<()> {
    let mut stream = connect(address).await?;
    let mut buffer = vec![0; BUFFER];
    loop {
        stream.write_all(&BLOCK.to_be_bytes()).await?;
        let mut left = BLOCK;
        while left > 0 {
            let read = timeout_at(window.end, stream.read(&mut buffer)).await;
            let Ok(read) = read else {
                // Nothing arrived in time: over if something has before, else the subject hangs.
                anyhow::ensure!(seen.amount > 0.0, "no bytes at all");
                return Ok(());
            };
            let read = read?;
            anyhow::ensure!(read > 0, "connection closed in the middle of a block");
            let now = Instant::now();
            if now >= window.start {
                seen.amount += read as f64 / MIB;
            }
            if now >= window.end {
                return Ok(());
            }
            let rest = left.checked_sub(read as u64);
            left = rest.ok_or_else(|| anyhow::anyhow!("more bytes than were asked for"))?;
        }
    }
}

/// Opens, gets a byte, closes, again and again.
pub(super) async fn connections(address: SocketAddr, window: Window) -> Seen {
    let mut seen = Seen::default();
    while !window.over() {
        let began = Instant::now();
        match timeout_at(began + PATIENCE, one(address)).await {
            Ok(Ok(())) => seen.done(began, window),
            Ok(Err(error)) => {
                seen.failed(&error);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(_) => seen.failed(&anyhow::anyhow!("a connection hangs")),
        }
    }
    seen
}

pub(super) async fn one(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = connect(address).await?;
    stream.write_all(&1_u64.to_be_bytes()).await?;
    let mut byte = [0; 1];
    stream.read_exact(&mut byte).await?;
    anyhow::ensure!(byte == *b"x", "another byte");
    Ok(())
}
