//! The application that a sidecar starts once it is ready (`outrigger run`), and what it is told in its environment.

use std::{
    env,
    ffi::OsString,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::sockets::Addresses;
use crate::command::Environment;

/// What never goes through a proxy, beside what the user said.
const NOT_PROXIED: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Which calls of the application go through the sidecar because its environment says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyEnv {
    /// `http://`: `http_proxy`. What is no host of the mesh is refused.
    #[default]
    Http,
    /// `https://` as well, by CONNECT: `https_proxy`.
    All,
    /// None: the application is told where the ports are, and no more.
    Off,
}

/// The application that is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Default [`ProxyEnv::Http`].
    pub proxy_env: ProxyEnv,
    /// How long the sidecar may take to be ready. Default 60 s; zero = for ever.
    pub ready_timeout: Duration,
    /// Where the object of the ready line is written, as standard output is the application's. Default: nowhere.
    pub ready_file: Option<PathBuf>,
    /// Open files that the application may have, if that is less than we may.
    pub open_files: Option<u64>,
    /// The application is told its port as `PORT`.
    pub tells_port: bool,
}

/// What the application is told: `found` is what stands in our own environment.
pub(super) fn environment(
    proxies: ProxyEnv,
    addresses: &Addresses,
    ready: &serde_json::Value,
    found: impl Fn(&str) -> Option<OsString>,
) -> Environment {
    let mut told = Environment::without_ours();
    let mut address = |name: &str, address: SocketAddr| {
        told.set
            .push((format!("OUTRIGGER_{name}"), address.to_string().into()));
    };
    address("OUTBOUND", addresses.outbound);
    address("ADMIN", addresses.admin);
    address("METRICS", addresses.metrics);
    address("READINESS", addresses.readiness);
    if let Some(inbound) = addresses.inbound {
        address("INBOUND", inbound);
    }
    let listeners = ready.get("listeners").map(ToString::to_string);
    told = told.with("OUTRIGGER_LISTENERS", listeners.unwrap_or_default());
    if proxies == ProxyEnv::Off {
        return told;
    }
    let proxy = format!("http://{}", addresses.outbound);
    told = told.with("http_proxy", &proxy).with("HTTP_PROXY", &proxy);
    if proxies == ProxyEnv::All {
        told = told.with("https_proxy", &proxy).with("HTTPS_PROXY", &proxy);
    }
    let not_proxied = found("no_proxy").or_else(|| found("NO_PROXY"));
    let not_proxied = not_proxied.map(|text| text.to_string_lossy().into_owned());
    let not_proxied = without_proxy(not_proxied.as_deref().unwrap_or_default());
    told.with("no_proxy", &not_proxied)
        .with("NO_PROXY", not_proxied)
}

/// As [`environment`], with what we found.
pub(super) fn environment_here(
    launch: &Launch,
    addresses: &Addresses,
    ready: &serde_json::Value,
    port: Option<u16>,
) -> Environment {
    let mut told = environment(launch.proxy_env, addresses, ready, |name| env::var_os(name));
    told.open_files = launch.open_files;
    match port.filter(|_| launch.tells_port) {
        Some(port) => told.with("PORT", port.to_string()),
        None => told,
    }
}

/// A list of hosts with ours at its end, each once.
fn without_proxy(said: &str) -> String {
    let said = said.split(',').map(str::trim);
    let mut hosts: Vec<&str> = said.filter(|host| !host.is_empty()).collect();
    for host in NOT_PROXIED {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts.join(",")
}

/// Writes the object of the ready line; whoever reads the file reads all of it.
pub(super) fn write_ready(path: &Path, ready: &serde_json::Value) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let mut file = std::fs::File::create(&beside)?;
    writeln!(file, "{ready}")?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(proxies: ProxyEnv, found: &[(&str, &str)]) -> Environment {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses {
            outbound: at(15080),
            inbound: None,
            captured: None,
            ipv6: false,
            dns: None,
            admin: at(15000),
            metrics: at(15020),
            readiness: at(15021),
        };
        let ready = addresses.ready(&[("127.0.0.1_9080".to_owned(), at(9080))]);
        environment(proxies, &addresses, &ready, |name| {
            let (_, value) = found.iter().find(|(found, _)| *found == name)?;
            Some(OsString::from(value))
        })
    }

    fn value(told: &Environment, name: &str) -> Option<String> {
        let (_, value) = told.set.iter().find(|(set, _)| set == name)?;
        Some(value.to_string_lossy().into_owned())
    }

    #[test]
    fn plain_http_goes_through_the_sidecar_and_localhost_does_not() {
        let told = told(ProxyEnv::Http, &[]);
        for name in ["http_proxy", "HTTP_PROXY"] {
            let proxy = value(&told, name);
            assert_eq!(proxy.as_deref(), Some("http://127.0.0.1:15080"), "{name}");
        }
        for name in ["no_proxy", "NO_PROXY"] {
            let hosts = value(&told, name);
            assert_eq!(hosts.as_deref(), Some("localhost,127.0.0.1,::1"), "{name}");
        }
        assert_eq!(value(&told, "https_proxy"), None);
    }

    #[test]
    fn what_the_user_does_not_proxy_stays_so() {
        let both = [("no_proxy", ".corp, 127.0.0.1"), ("NO_PROXY", "not.seen")];
        let both = told(ProxyEnv::Http, &both);
        let hosts = value(&both, "no_proxy");
        assert_eq!(hosts.as_deref(), Some(".corp,127.0.0.1,localhost,::1"));
        let upper = told(ProxyEnv::Http, &[("NO_PROXY", "a.b")]);
        let hosts = value(&upper, "no_proxy");
        assert_eq!(hosts.as_deref(), Some("a.b,localhost,127.0.0.1,::1"));
    }

    #[test]
    fn https_goes_through_it_where_that_is_asked_for_and_nothing_where_it_is_off() {
        let all = told(ProxyEnv::All, &[]);
        let proxy = value(&all, "https_proxy");
        assert_eq!(proxy.as_deref(), Some("http://127.0.0.1:15080"));
        let off = told(ProxyEnv::Off, &[]);
        assert!(!off.set.iter().any(|(name, _)| name.ends_with("proxy")));
        let outbound = value(&off, "OUTRIGGER_OUTBOUND");
        assert_eq!(outbound.as_deref(), Some("127.0.0.1:15080"));
        let listeners = value(&off, "OUTRIGGER_LISTENERS");
        let expected = r#"{"127.0.0.1_9080":"127.0.0.1:9080"}"#;
        assert_eq!(listeners.as_deref(), Some(expected));
    }

    #[test]
    fn credentials_are_not_handed_on() {
        let told = told(ProxyEnv::Off, &[]);
        assert!(told.unset.iter().any(|name| name == "OUTRIGGER_JOIN_TOKEN"));
    }

    #[test]
    fn the_ready_file_is_written_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready.json");
        write_ready(&path, &serde_json::json!({"admin": "127.0.0.1:1"})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"admin\":\"127.0.0.1:1\"}\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
