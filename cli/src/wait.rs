//! `outrigger wait`: until the sidecar beside us can be used. For applications that somebody else starts.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use outrigger_sidecar::CommandError;

use crate::{duration, failure::Failure, sidecar::command_failure};

/// Between two looks; also as long as one look may take to connect.
const LOOK: Duration = Duration::from_millis(50);
/// As long as one look may take.
const ANSWER: Duration = Duration::from_secs(2);
/// More of an answer is not read.
const MOST: u64 = 16 * 1024;

/// Wait until the sidecar beside us can be used, and then start a command in our place, if one is given.
///
/// For an application that is started separately: a sidecar that is not there yet refuses its first calls. Does not wait for
/// the application of that sidecar, as that may be who waits.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger wait --timeout 30s && ./reviews
  outrigger wait -- ./reviews --listen 127.0.0.1:9080")]
pub(crate) struct WaitArgs {
    /// Readiness port of the sidecar.
    #[arg(
        long,
        default_value = "127.0.0.1:15021",
        value_name = "ADDR",
        env = "OUTRIGGER_READINESS"
    )]
    readiness: SocketAddr,
    /// How long to wait; 0 is for ever.
    #[arg(long, default_value = "60s", value_parser = duration::parse_or_zero, env = "OUTRIGGER_START_TIMEOUT")]
    timeout: Duration,
    /// Wait until the application of the sidecar answers as well.
    #[arg(long)]
    app: bool,
    /// A program and its arguments that take our place then.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn run(args: &WaitArgs) -> Result<(), Failure> {
    let address = reachable(args.readiness);
    let path = if args.app {
        "/healthz/ready"
    } else {
        "/healthz/started"
    };
    wait(address, path, args.timeout)?;
    let Some((program, arguments)) = args.command.split_first() else {
        return Ok(());
    };
    let source = Command::new(program).args(arguments).exec();
    Err(command_failure(CommandError::Start {
        program: program.clone(),
        source,
    }))
}

/// A sidecar that listens everywhere says so in its own settings.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is one thread and nothing else to do"
)]
fn wait(address: SocketAddr, path: &str, limit: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let Err(why) = look(address, path) else {
            return Ok(());
        };
        if !limit.is_zero() && begun.elapsed() >= limit {
            return Err(anyhow!(
                "the sidecar at http://{address}{path} is not ready after {limit:?}: {why:#}"
            ));
        }
        thread::sleep(LOOK);
    }
}

fn look(address: SocketAddr, path: &str) -> anyhow::Result<()> {
    match ask(address, "GET", path)? {
        (200, _) => Ok(()),
        (503, body) => bail!("{}", body.trim()),
        (other, _) => bail!("it answers {other}; is that the readiness port of a sidecar?"),
    }
}

/// One request to a port of a sidecar beside us: status and body.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let talk = || {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: outrigger\r\ncontent-length: 0\r\n\
             connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MOST).read_to_end(&mut answer)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = talk().with_context(|| format!("asking the sidecar at {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.with_context(|| {
        format!("{address} does not answer in HTTP; is that a port of a sidecar?")
    })?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        net::TcpListener,
    };

    use super::*;

    /// Answers one connection after another with these.
    fn sidecar(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
                while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    const NO: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 32\r\n\r\nNOT READY: no configuration yet\n";
    const YES: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nLIVE\n";

    #[test]
    fn it_ends_when_the_sidecar_is_ready() {
        let address = sidecar(&[NO, NO, YES]);
        wait(address, "/healthz/started", Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn what_was_missing_is_said_when_the_time_is_over() {
        let address = sidecar(&[NO; 100]);
        let error = wait(address, "/healthz/started", Duration::from_millis(1)).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("no configuration yet"), "{text}");
    }

    #[test]
    fn another_program_on_the_port_is_named_as_such() {
        let address = sidecar(&["HTTP/1.1 404 Not Found\r\n\r\n"]);
        let error = look(address, "/healthz/started").unwrap_err();
        assert!(error.to_string().contains("readiness port"), "{error}");
    }
}
