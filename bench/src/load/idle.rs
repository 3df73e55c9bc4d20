//! Connections that do nothing: each has been answered once, and at the end must still answer.

use std::{path::Path, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{Figures, Options, PATIENCE, connect, grpc, http, say};
use crate::{handshakes, pki::Pair, process};

/// Opened before the other side is given a moment: its queue of connections to accept is not what is measured.
const AT_A_TIME: usize = 200;

/// Says `held N` after each step and waits for a line.
pub(super) async fn run(options: &Options) -> anyhow::Result<Figures> {
    let mut parent = process::lines_of_parent();
    let tls = options.tls.as_deref();
    let tls = tls.map(|dir| connector(dir, options.h2)).transpose()?;
    let mut held: Vec<Held> = Vec::new();
    for step in &options.steps {
        while held.len() < *step {
            held.push(Held::open(options, tls.as_ref()).await?);
            if held.len().is_multiple_of(AT_A_TIME) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        say(&format!("held {step}"))?;
        parent.recv().await;
    }
    let mut figures = Figures {
        done: held.len() as f64,
        ..Figures::default()
    };
    for connection in &mut held {
        if let Err(error) = connection.ask().await {
            figures.errors += 1;
            let first = || format!("an idle connection: {error:#}");
            figures.first_error.get_or_insert_with(first);
        }
    }
    Ok(figures)
}

fn connector(dir: &Path, h2: bool) -> anyhow::Result<TlsConnector> {
    let client = Pair::read(dir, "client")?;
    let protocol = if h2 { "h2" } else { "http/1.1" };
    let config = handshakes::client_config(&client, protocol)?;
    Ok(TlsConnector::from(Arc::new(config)))
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

enum Held {
    Http1(http::Connection<Box<dyn Stream>>),
    Http2(Box<grpc::Connection<Box<dyn Stream>>>),
}

impl Held {
    async fn open(options: &Options, tls: Option<&TlsConnector>) -> anyhow::Result<Self> {
        let stream = connect(options.address).await?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from("server")?;
                Box::new(timeout(PATIENCE, tls.connect(name, stream)).await??)
            }
        };
        let mut held = if options.h2 {
            let connection = grpc::Connection::new(stream, options);
            Self::Http2(Box::new(timeout(PATIENCE, connection).await??))
        } else {
            let request = http::request(options);
            Self::Http1(http::Connection::new(stream, &request, options.bytes))
        };
        held.ask().await?;
        Ok(held)
    }

    async fn ask(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Http1(connection) => timeout(PATIENCE, connection.exchange()).await?,
            Self::Http2(connection) => timeout(PATIENCE, connection.call()).await?,
        }
    }
}
