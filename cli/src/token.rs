//! `outrigger token create SERVICE`: a one-time credential for a sidecar's first certificate.

use std::time::Duration;

use clap::{Args, Subcommand};
use outrigger_proto::outrigger::v1::{CreateJoinTokenRequest, CreateJoinTokenResponse};
use serde_json::json;

use crate::{
    client::{self, Admin, ConnectArgs},
    duration,
    failure::Failure,
    output::{Output, OutputArgs, note, print, print_json},
};

/// Make credentials with which sidecars join.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger token create reviews
  OUTRIGGER_JOIN_TOKEN=$(outrigger token create reviews -n shop --ttl 1h) outrigger sidecar --service reviews -n shop")]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    Create(CreateArgs),
}

/// Make a token for one sidecar of a service: one use, one identity.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger token create reviews
  outrigger token create reviews -n shop --ttl 1h -o json")]
struct CreateArgs {
    /// The service, whose name is also its service account.
    service: String,
    /// The service's namespace.
    #[arg(short, long, default_value = "default", env = "OUTRIGGER_NAMESPACE")]
    namespace: String,
    /// How long the token can be used, e.g. 10m; at most 24h.
    #[arg(long, default_value = "10m", value_parser = duration::parse)]
    ttl: Duration,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) fn run(args: &TokenArgs) -> Result<(), Failure> {
    let TokenCommand::Create(args) = &args.command;
    let token = client::block_on(async {
        let mut admin = args.connect.connect().await?;
        create(&mut admin, &args.namespace, &args.service, args.ttl).await
    })??;
    let expires = token
        .expires
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    match args.output.output {
        Output::Json => print_json(&json!({
            "token": token.token,
            "spiffe_id": token.spiffe_id,
            "expires": expires,
        }))?,
        Output::Text => {
            // The token alone on standard output, for `$(…)`.
            print(&format!("{}\n", token.token))?;
            note(&format!(
                "for {}, one use, until {expires}",
                token.spiffe_id
            ));
        }
    }
    Ok(())
}

pub(crate) async fn create(
    admin: &mut Admin,
    namespace: &str,
    service: &str,
    ttl: Duration,
) -> anyhow::Result<CreateJoinTokenResponse> {
    let request = CreateJoinTokenRequest {
        namespace: namespace.to_owned(),
        service_account: service.to_owned(),
        ttl: Some(ttl.try_into()?),
    };
    admin.create_join_token(request).await
}
