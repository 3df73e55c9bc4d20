//! An application that writes down what it is sent, byte by byte, and judges it as the strictest reader of RFC 9112
//! would: whatever two readers could take for two different things is a violation.
//!
//! It answers 200 to everything, with a body that says what it has understood.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Heads longer than this are a violation: nobody promises an application that it has to take them.
const MOST_HEAD: usize = 80 * 1024;
/// Bytes of a body that are kept.
const MOST_BODY: usize = 1024 * 1024;

/// A running application.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    heard: Vec<HeardRequest>,
    violations: Vec<String>,
}

/// A request as the application read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeardRequest {
    /// Method.
    pub method: String,
    /// Target, as it stood in the line.
    pub target: String,
    /// Fields in order, as written.
    pub fields: Vec<(String, String)>,
    /// Body without its framing.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl HeardRequest {
    /// Method, target and body: what cases compare.
    pub fn summary(&self) -> String {
        let mut summary = format!("{} {}", self.method, self.target);
        if !self.body.is_empty() {
            // Writing to a string cannot fail.
            write!(summary, " {}", String::from_utf8_lossy(&self.body)).ok();
        }
        summary
    }

    /// Values of a field, whatever its case.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

impl Recorder {
    /// Starts it on a free port of localhost.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port has an address");
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                tokio::spawn(converse(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            state,
            server,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was sent since the last time that this was asked, and what was wrong with it.
    pub fn take(&self) -> (Vec<HeardRequest>, Vec<String>) {
        let mut state = lock(&self.state);
        (
            std::mem::take(&mut state.heard),
            std::mem::take(&mut state.violations),
        )
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn converse(stream: TcpStream, state: Arc<Mutex<State>>) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        match request(&mut read).await {
            Ok(None) => return,
            Ok(Some(heard)) => {
                let body = heard.summary();
                if heard.target != "/healthz" {
                    lock(&state).heard.push(heard.clone());
                }
                let mut answer =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                if heard.method != "HEAD" {
                    answer.push_str(&body);
                }
                if write.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Err(Unread::Broken) => return,
            Err(Unread::Violation(what)) => {
                lock(&state).violations.push(what);
                return;
            }
        }
    }
}

enum Unread {
    /// The connection ended within a message: what a proxy does whose caller has left.
    Broken,
    /// No proxy may send this.
    Violation(String),
}

fn violation<T>(what: impl Into<String>) -> Result<T, Unread> {
    Err(Unread::Violation(what.into()))
}

async fn line(
    read: &mut (impl AsyncRead + Unpin),
    left: &mut usize,
) -> Result<Option<Vec<u8>>, Unread> {
    let mut line = Vec::new();
    loop {
        let byte = match read.read_u8().await {
            Ok(byte) => byte,
            Err(_) if line.is_empty() => return Ok(None),
            Err(_) => return Err(Unread::Broken),
        };
        *left = match left.checked_sub(1) {
            Some(left) => left,
            None => return violation(format!("a head of more than {MOST_HEAD} bytes")),
        };
        match byte {
            b'\n' if line.last() == Some(&b'\r') => {
                line.pop();
                return match line.contains(&b'\r') {
                    true => violation(format!("a bare CR in {}", shown(&line))),
                    false => Ok(Some(line)),
                };
            }
            b'\n' => return violation(format!("a bare LF after {}", shown(&line))),
            byte => line.push(byte),
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

async fn request(read: &mut (impl AsyncRead + Unpin)) -> Result<Option<HeardRequest>, Unread> {
    let mut left = MOST_HEAD;
    let Some(first) = line(read, &mut left).await? else {
        return Ok(None);
    };
    let mut heard = request_line(&first)?;
    heard.fields = fields(read, &mut left).await?;
    let one = |name: &str| match heard.values(name)[..] {
        [] => Ok(None),
        [value] => Ok(Some(value.to_owned())),
        _ => violation(format!("more than one {name} in {}", heard.summary())),
    };
    match one("host")? {
        None => return violation(format!("no host in {}", heard.summary())),
        Some(host) if host.is_empty() || host.contains([' ', '/', '@', '?', '#', ',']) => {
            return violation(format!("host {host:?}"));
        }
        Some(_) => {}
    }
    match (one("content-length")?, one("transfer-encoding")?) {
        (None, None) => {}
        (Some(_), Some(_)) => {
            return violation(format!("two framings in {}", heard.summary()));
        }
        (Some(length), None) => {
            let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
            let Some(length) = length.parse::<usize>().ok().filter(|_| digits) else {
                return violation(format!("content-length {length:?}"));
            };
            heard.body = exactly(read, length).await?;
        }
        (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => {
            (heard.body, heard.trailers) = chunked(read).await?;
        }
        (None, Some(coding)) => return violation(format!("transfer-encoding {coding:?}")),
    }
    Ok(Some(heard))
}

fn request_line(line: &[u8]) -> Result<HeardRequest, Unread> {
    let text = String::from_utf8_lossy(line).into_owned();
    let parts: Vec<&str> = text.split(' ').collect();
    let [method, target, version] = parts[..] else {
        return violation(format!("the line {}", shown(line)));
    };
    let odd = |b: u8| !b.is_ascii_graphic();
    if method.is_empty() || !method.bytes().all(is_token) || target.bytes().any(odd) {
        return violation(format!("the line {}", shown(line)));
    }
    if version != "HTTP/1.1" || !(target.starts_with('/') || target == "*") {
        return violation(format!("the line {}", shown(line)));
    }
    Ok(HeardRequest {
        method: method.to_owned(),
        target: target.to_owned(),
        ..HeardRequest::default()
    })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

async fn fields(
    read: &mut (impl AsyncRead + Unpin),
    left: &mut usize,
) -> Result<Vec<(String, String)>, Unread> {
    let mut all = Vec::new();
    loop {
        let Some(line) = line(read, left).await? else {
            return Err(Unread::Broken);
        };
        if line.is_empty() {
            return Ok(all);
        }
        let at = line.iter().position(|b| *b == b':');
        let Some((name, value)) = at.and_then(|at| Some((line.get(..at)?, line.get(at + 1..)?)))
        else {
            return violation(format!("the field {}", shown(&line)));
        };
        let forbidden = |b: &u8| (*b < 0x20 && *b != b'\t') || *b == 0x7f;
        if name.is_empty() || !name.iter().copied().all(is_token) || value.iter().any(forbidden) {
            return violation(format!("the field {}", shown(&line)));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.trim_ascii()).into_owned();
        all.push((text(name), text(value)));
    }
}

async fn exactly(read: &mut (impl AsyncRead + Unpin), length: usize) -> Result<Vec<u8>, Unread> {
    if length > MOST_BODY {
        // Not kept; counted by what comes after it.
        let mut left = length;
        let mut buffer = vec![0; 16 * 1024];
        while left > 0 {
            let most = left.min(buffer.len());
            let Some(part) = buffer.get_mut(..most) else {
                return Err(Unread::Broken);
            };
            match read.read(part).await {
                Ok(0) | Err(_) => return Err(Unread::Broken),
                Ok(read) => left = left.saturating_sub(read),
            }
        }
        return Ok(Vec::new());
    }
    let mut body = vec![0; length];
    match read.read_exact(&mut body).await {
        Ok(_) => Ok(body),
        Err(_) => Err(Unread::Broken),
    }
}

type Chunked = (Vec<u8>, Vec<(String, String)>);

async fn chunked(read: &mut (impl AsyncRead + Unpin)) -> Result<Chunked, Unread> {
    let mut body = Vec::new();
    loop {
        let mut left = 64;
        let Some(size) = line(read, &mut left).await? else {
            return Err(Unread::Broken);
        };
        let hexadecimal = !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
        let text = String::from_utf8_lossy(&size).into_owned();
        let Some(size) = usize::from_str_radix(&text, 16)
            .ok()
            .filter(|_| hexadecimal)
        else {
            return violation(format!("the chunk size {text:?}"));
        };
        if size == 0 {
            let mut left = MOST_HEAD;
            return Ok((body, fields(read, &mut left).await?));
        }
        body.extend(exactly(read, size).await?);
        body.truncate(MOST_BODY);
        let mut left = 2;
        match line(read, &mut left).await? {
            Some(rest) if rest.is_empty() => {}
            Some(rest) => return violation(format!("{} after a chunk", shown(&rest))),
            None => return Err(Unread::Broken),
        }
    }
}
