//! systemd's notifications (`Type=notify`, `WatchdogSec=`): one datagram for each change, to the socket that the
//! environment names. Without one nothing is sent.
//!
//! Source: sd_notify(3).

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Arc,
};

use outrigger_control_plane::Life as ControlPlaneLife;
use outrigger_sidecar::Life as SidecarLife;

/// What a supervisor is told.
#[derive(Debug)]
struct Supervisor {
    socket: UnixDatagram,
    /// It ends us when it hears nothing.
    watches: bool,
}

/// From now on our supervisor is told how we are, if it asks for it.
pub(crate) fn start() {
    let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return;
    };
    let watches =
        env::var("WATCHDOG_USEC").is_ok_and(|time| time.parse().is_ok_and(|us: u64| us > 0));
    // Of a process that has become us, or of one that has started us?
    let is_ours =
        env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    let supervisor = match Supervisor::at(&path, watches && is_ours) {
        Ok(supervisor) => Arc::new(supervisor),
        Err(error) => {
            tracing::warn!(socket = ?path, %error, "NOTIFY_SOCKET cannot be used, nobody is told that we are ready");
            return;
        }
    };
    let other = Arc::clone(&supervisor);
    outrigger_sidecar::set_life_listener(Box::new(move |life| match life {
        SidecarLife::Ready => supervisor.tell("READY=1\nSTATUS=serving"),
        SidecarLife::Draining => supervisor.tell("STOPPING=1\nSTATUS=draining"),
        SidecarLife::Alive => supervisor.lives(),
    }));
    outrigger_control_plane::set_life_listener(Box::new(move |life| match life {
        ControlPlaneLife::Ready => other.tell("READY=1\nSTATUS=serving"),
        ControlPlaneLife::Stopping => other.tell("STOPPING=1\nSTATUS=stopping"),
        ControlPlaneLife::Alive => other.lives(),
    }));
}

impl Supervisor {
    fn at(path: &OsStr, watches: bool) -> io::Result<Self> {
        let address = match path.as_bytes() {
            // An abstract name.
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(path)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is neither a path nor begins with @",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A supervisor that does not read must not hold us up.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, watches })
    }

    fn lives(&self) {
        if self.watches {
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, what: &str) {
        if let Err(error) = self.socket.send(what.as_bytes()) {
            tracing::warn!(what, %error, "our supervisor was not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_supervisor_hears_us_on_a_path_and_on_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor::at(path.as_os_str(), true).unwrap();
        supervisor.tell("READY=1");
        supervisor.lives();
        assert_eq!(heard(&socket), "READY=1");
        assert_eq!(heard(&socket), "WATCHDOG=1");

        let name = format!("outrigger-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let supervisor = Supervisor::at(OsStr::new(&format!("@{name}")), false).unwrap();
        supervisor.lives();
        supervisor.tell("STOPPING=1");
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[test]
    fn what_is_no_socket_is_refused() {
        assert!(Supervisor::at(OsStr::new("relative"), false).is_err());
        assert!(Supervisor::at(OsStr::new("/nowhere/notify"), false).is_err());
    }
}
