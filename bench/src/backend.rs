//! The application that every subject proxies to: one thread, answers any request at once.
//!
//! `GET /bytes/N` gets N bytes, anything else 100. Lean on purpose, because what it costs is taken
//! from the proxies it shares the machine with. Understands requests without a body only.

use std::io::Write as _;

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const SMALL: usize = 100; // bytes, a short JSON answer
const LARGEST: usize = 16 * 1024 * 1024; // bytes
const LARGEST_REQUEST: usize = 64 * 1024; // bytes

/// Serves until standard input ends, after one line `ready {"address": …}`.
pub(crate) async fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    writeln!(
        std::io::stdout(),
        "ready {}",
        serde_json::json!({ "address": address })
    )?;
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async {
                // A connection that breaks is the load generator's to count.
                drop(connection(stream).await);
            });
        }
    };
    tokio::select! {
        result = serve => result,
        () = crate::process::parent_gone() => Ok(()),
    }
}

async fn connection(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::with_capacity(4096);
    let mut prepared = (SMALL, answer(SMALL));
    loop {
        while let Some(end) = head_end(&input) {
            let wanted = wanted_bytes(input.get(..end).unwrap_or_default());
            if wanted != prepared.0 {
                prepared = (wanted, answer(wanted));
            }
            input.drain(..end);
            stream.write_all(&prepared.1).await?;
        }
        anyhow::ensure!(input.len() < LARGEST_REQUEST, "request head too large");
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

fn wanted_bytes(head: &[u8]) -> usize {
    let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    path.strip_prefix(b"/bytes/")
        .and_then(|number| std::str::from_utf8(number).ok()?.parse().ok())
        .unwrap_or(SMALL)
        .min(LARGEST)
}

fn answer(bytes: usize) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {bytes}\r\n\r\n")
            .into_bytes();
    answer.resize(answer.len() + bytes, b'x');
    answer
}

/// Where the head that `input` starts with ends, blank line included.
pub(crate) fn head_end(input: &[u8]) -> Option<usize> {
    Some(input.windows(4).position(|four| four == b"\r\n\r\n")? + 4)
}

/// Starts it as a process of its own.
pub(crate) async fn start() -> anyhow::Result<(crate::process::Process, std::net::SocketAddr)> {
    let mut command = crate::process::this_program()?;
    command.arg("backend");
    let (process, ready) = crate::process::Process::start_ready("backend", command).await?;
    let address = ready["address"].as_str().context("no address")?.parse()?;
    Ok((process, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_says_how_many_bytes() {
        assert_eq!(wanted_bytes(b"GET /bytes/65536 HTTP/1.1\r\n\r\n"), 65_536);
        assert_eq!(wanted_bytes(b"GET / HTTP/1.1\r\n\r\n"), SMALL);
        assert_eq!(wanted_bytes(b"GET /bytes/x HTTP/1.1\r\n\r\n"), SMALL);
        assert_eq!(wanted_bytes(b""), SMALL);
    }
}
