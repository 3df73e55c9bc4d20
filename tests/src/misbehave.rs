//! Servers that do one thing wrong, on a free port of localhost, until they are dropped.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::WorkloadIdentity;

/// What is wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Nobody listens.
    Refuses,
    /// The kernel's queue is full and nobody takes from it: connecting takes for ever.
    NeverAccepts,
    /// Closes a connection before a byte of the request is read.
    ClosesAtOnce,
    /// Closes after the request.
    ClosesAfterRequest,
    /// Resets after the request.
    ResetsAfterRequest,
    /// Answers, and closes a connection on which no request has come for so long.
    ClosesIdleAfter(Duration),
    /// Reads, and says nothing.
    Silent,
    /// Closes within the head of its answer.
    ClosesInHead,
    /// Resets within the head of its answer.
    ResetsInHead,
    /// Closes within the body of its answer.
    ClosesInBody,
    /// Answers with something that is not HTTP.
    Garbage,
}

/// A running server.
#[derive(Debug)]
pub struct Misbehaving {
    address: SocketAddr,
    _task: Option<Task>,
    _held: Vec<TcpStream>,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Misbehaving {
    /// Starts it.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start(fault: Fault) -> Self {
        if matches!(fault, Fault::NeverAccepts) {
            return Self::never_accepts().await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let task = match fault {
            // The port was free a moment ago, and nobody is told of it.
            Fault::Refuses => None,
            _ => Some(Task(tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(misbehave(stream, fault));
                }
            }))),
        };
        Self {
            address,
            _task: task,
            _held: Vec::new(),
        }
    }

    /// Speaks TLS 1.3 with this identity, whoever asks.
    ///
    /// # Panics
    /// When no port can be bound, or the identity's files cannot be read.
    pub async fn tls(identity: &WorkloadIdentity) -> Self {
        let chain: Vec<_> = CertificateDer::pem_file_iter(&identity.certificate)
            .expect("a file")
            .collect::<Result<_, _>>()
            .expect("certificates");
        let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3 is there")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they belong together");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        stream.read_u8().await.ok();
                    }
                });
            }
        });
        Self {
            address,
            _task: Some(Task(task)),
            _held: Vec::new(),
        }
    }

    async fn never_accepts() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(any).expect("a free port");
        let listener = socket.listen(1).expect("it listens");
        let address = listener.local_addr().expect("an address");
        let mut held = Vec::new();
        // Whatever the kernel makes of a queue of one: until a connection is not answered any more.
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            held.push(stream);
        }
        let task = tokio::spawn(async move {
            let _listener = listener;
            std::future::pending::<()>().await;
        });
        Self {
            address,
            _task: Some(Task(task)),
            _held: held,
        }
    }

    /// Where it listens, or does not.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn misbehave(mut stream: TcpStream, fault: Fault) {
    if matches!(fault, Fault::ClosesAtOnce) {
        return;
    }
    if let Fault::ClosesIdleAfter(idle) = fault {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
        while tokio::time::timeout(idle, read_head(&mut stream)).await == Ok(true) {
            stream.write_all(answer).await.ok();
        }
        return;
    }
    read_head(&mut stream).await;
    let answer: &[u8] = match fault {
        Fault::ClosesInHead | Fault::ResetsInHead => b"HTTP/1.1 200 OK\r\ncontent-le",
        Fault::ClosesInBody => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        Fault::Garbage => b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        Fault::Silent => {
            stream.read_u8().await.ok();
            return;
        }
        _ => b"",
    };
    stream.write_all(answer).await.ok();
    if matches!(fault, Fault::ResetsAfterRequest | Fault::ResetsInHead) {
        stream.set_zero_linger().ok();
    }
}

/// False if there is none.
async fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return false,
        }
    }
    true
}
