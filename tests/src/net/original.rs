//! A stand-in for a sidecar: takes what is redirected, and says where it was meant to go.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};

use super::Host;

const AT_MOST: Duration = Duration::from_secs(10);

/// Where a connection arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// At this listener, on its way to this address (as `SO_ORIGINAL_DST`, or the socket's own name, says), from this one.
    At(String, SocketAddr, SocketAddr),
    /// Refused at once.
    Refused,
    /// Something else.
    Failed(String),
}

impl Arrival {
    /// Where it arrived, and where it was meant to go.
    pub fn to(&self) -> Option<(&str, SocketAddr)> {
        match self {
            Self::At(name, to, _) => Some((name, *to)),
            Self::Refused | Self::Failed(_) => None,
        }
    }
}

/// Listeners in one host that answer each connection with their name, its original destination and its peer, and end it.
#[derive(Debug)]
pub struct OriginalDestinations {
    host: Host,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
    done: Arc<AtomicBool>,
}

impl OriginalDestinations {
    /// None yet.
    pub fn of(host: &Host) -> Self {
        Self {
            host: host.clone(),
            addresses: Vec::new(),
            threads: Vec::new(),
            done: Arc::default(),
        }
    }

    /// Listens on loopback of both families.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn on_loopback(self, name: &str, port: u16) -> Self {
        self.listen(name, (Ipv4Addr::LOCALHOST, port).into(), false)
            .listen(name, (Ipv6Addr::LOCALHOST, port).into(), false)
    }

    /// Listens on all addresses of both families.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn everywhere(self, name: &str, port: u16) -> Self {
        self.listen(name, (Ipv4Addr::UNSPECIFIED, port).into(), false)
            .listen(name, (Ipv6Addr::UNSPECIFIED, port).into(), false)
    }

    /// The same for TPROXY.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn transparently(self, name: &str, port: u16) -> Self {
        self.listen(name, (Ipv4Addr::UNSPECIFIED, port).into(), true)
            .listen(name, (Ipv6Addr::UNSPECIFIED, port).into(), true)
    }

    fn listen(mut self, name: &str, at: SocketAddr, transparent: bool) -> Self {
        let listener = self
            .host
            .within(|| bind(at, transparent))
            .expect("a socket");
        self.addresses.push(at);
        let (name, done) = (name.to_owned(), Arc::clone(&self.done));
        self.threads.push(thread::spawn(move || {
            for stream in listener.incoming() {
                if done.load(Ordering::SeqCst) {
                    return;
                }
                // Who looked and left has no need of an answer.
                stream.and_then(|stream| answer(&name, &stream)).ok();
            }
        }));
        self
    }
}

impl Drop for OriginalDestinations {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        for address in &self.addresses {
            let ip = match address.ip() {
                ip if !ip.is_unspecified() => ip,
                ip if ip.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
                _ => Ipv6Addr::LOCALHOST.into(),
            };
            // Wakes it up.
            self.host.connect(SocketAddr::new(ip, address.port())).ok();
        }
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn bind(at: SocketAddr, transparent: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if transparent {
        match at.is_ipv4() {
            true => socket.set_ip_transparent_v4(true)?,
            false => socket.set_ip_transparent_v6(true)?,
        }
    }
    socket.bind(&at.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn answer(name: &str, mut stream: &TcpStream) -> io::Result<()> {
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    let socket = SockRef::from(stream);
    let original = match local.is_ipv4() {
        true => socket.original_dst_v4(),
        false => socket.original_dst_v6(),
    };
    let original = original.ok().and_then(|address| address.as_socket());
    let to = original.unwrap_or(local);
    stream.write_all(format!("{name} {to} {peer}").as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(AT_MOST))?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}

impl Host {
    /// Connects, and hears where that arrived.
    pub fn arrives(&self, to: SocketAddr) -> Arrival {
        self.arrives_marked(to, 0)
    }

    /// The same with a mark on the socket.
    pub fn arrives_marked(&self, to: SocketAddr, mark: u32) -> Arrival {
        let heard = self.within(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            if mark != 0 {
                socket.set_mark(mark)?;
            }
            socket.connect_timeout(&to.into(), AT_MOST)?;
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(AT_MOST))?;
            let mut heard = String::new();
            stream.read_to_string(&mut heard)?;
            Ok::<_, io::Error>(heard)
        });
        match heard {
            Ok(heard) => {
                let words: Vec<&str> = heard.split(' ').collect();
                let [name, to, from] = words[..] else {
                    return Arrival::Failed(format!("heard {heard:?}"));
                };
                match (to.parse(), from.parse()) {
                    (Ok(to), Ok(from)) => Arrival::At(name.to_owned(), to, from),
                    _ => Arrival::Failed(format!("heard {heard:?}")),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Arrival::Refused,
            Err(error) => Arrival::Failed(error.to_string()),
        }
    }

    /// A UDP socket of this host.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn udp(&self, at: SocketAddr) -> UdpSocket {
        let socket = self.within(|| UdpSocket::bind(at)).expect("a socket");
        socket.set_read_timeout(Some(AT_MOST)).expect("a socket");
        socket
    }
}
