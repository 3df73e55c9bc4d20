//! `outrigger can CLIENT SERVER METHOD PATH`: whether a caller may do something with a service, and which line says so.
//!
//! Asks the control plane for what the sidecars of the service are told, as a client that only reads, and lets the
//! sidecar's own code decide. Instances with other labels may have other policies: each group is asked about.

mod ask;
mod show;

use std::net::IpAddr;

use clap::Args;
use outrigger_sidecar::explain::AccessVerdict;

use crate::{
    client::{self, ConnectArgs},
    failure::Failure,
    output::{Output, OutputArgs, print, print_json},
};

/// Show whether a caller may do something with a service, and which line of which document says so.
#[derive(Args, Debug)]
#[command(
    after_help = "Nothing is sent to any service. Exit status: 0 allowed, 1 denied (or some instances deny it, or another server is
asked, whose answer is not known), 2 misused.

Examples:
  outrigger can productpage reviews GET /reviews/1
  outrigger can bank/teller ledger POST /accounts -H 'x-team: red' --from-ip 10.0.0.7
  outrigger can - reviews GET / -o json"
)]
pub(crate) struct CanArgs {
    /// Who calls: a service, `namespace/service-account`, a SPIFFE id, or `-` for one without identity (plain text).
    client: String,
    /// Service that is called: `reviews`, `reviews.shop` or its full name.
    server: String,
    /// Method; of no matter to a service that is not HTTP.
    #[arg(default_value = "GET")]
    method: http::Method,
    /// Path, possibly with a query.
    #[arg(default_value = "/")]
    path: String,
    /// Header `name: value`; may be given several times. `Host:` in place of the service's name and port.
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Port of the service. Default: its only one, else its lowest.
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,
    /// Address that the caller comes from. Default: that of its first instance, else 127.0.0.1.
    #[arg(long, value_name = "IP")]
    from_ip: Option<IpAddr>,
    /// Server name that the caller's TLS asks for. Default: the one that sidecars send.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Namespace of short names.
    #[arg(short, long, default_value = "default", env = "OUTRIGGER_NAMESPACE")]
    namespace: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected `name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(crate) fn run(args: &CanArgs) -> Result<(), Failure> {
    if !args.path.starts_with('/') && args.path != "*" {
        return Err(Failure::Misused(format!(
            "{:?} is no path: it starts with /, as in `outrigger can web reviews GET /reviews/1`",
            args.path
        )));
    }
    let answer = client::block_on(async {
        let mut admin = args.connect.connect().await.map_err(Failure::from)?;
        let status = admin.status().await.map_err(Failure::from)?;
        ask::ask(args, &admin, &status).await
    })??;
    match args.output.output {
        Output::Text => print(&show::text(args, &answer))?,
        Output::Json => print_json(&show::json(args, &answer))?,
    }
    let mut groups = answer.groups.iter();
    if groups.all(|group| group.access.verdict == AccessVerdict::Allowed) {
        return Ok(());
    }
    Err(Failure::Reported)
}
