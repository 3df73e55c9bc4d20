//! `outrigger why METHOD URL`: what the sidecar of a service would do with a request, step by step, with document lines.
//!
//! Asks the control plane for the configuration that this sidecar would get, as a client that only reads, and lets the
//! sidecar's own code decide.

mod show;

use std::collections::BTreeMap;

use anyhow::bail;
use clap::Args;
use outrigger_proto::outrigger::v1::StatusResponse;
use outrigger_sidecar::{
    Workload,
    explain::{Explanation, Question, Reader},
};

use crate::{
    client::{self, Admin, ConnectArgs},
    configuration,
    failure::Failure,
    output::{Output, OutputArgs, print, print_json},
};

/// Region, zone and sub-zone.
type Locality = [String; 3];

/// Show what a sidecar would do with a request, and which lines of which documents decide.
#[derive(Args, Debug)]
#[command(
    after_help = "Nothing is sent to any service. Ejections and limits of running sidecars are theirs alone: see their admin port.

Examples:
  outrigger why --from productpage GET http://reviews:9080/reviews/1
  outrigger why --from web POST http://reviews:9080/ -H 'canary: true' -o json"
)]
pub(crate) struct WhyArgs {
    /// Method.
    method: http::Method,
    /// URL as the application would call it; `http://localhost:PORT/...` means a local port of its sidecar.
    url: http::Uri,
    /// Header `name: value`; may be given several times. `Host:` in place of the URL's.
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Service whose sidecar is asked: its labels are those of its first instance. Default: a workload without labels.
    #[arg(long, value_name = "SERVICE")]
    from: Option<String>,
    /// Label `k=v` of the calling workload, in place of the instance's; may be given several times.
    #[arg(short, long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Where the calling workload is, `region/zone/sub-zone`. Default: where the first instance of --from is, else nowhere.
    #[arg(long, value_name = "LOCALITY", value_parser = crate::sidecar::locality)]
    locality: Option<Locality>,
    /// Namespace of the calling workload.
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

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected `name=value`")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn run(args: &WhyArgs) -> Result<(), Failure> {
    if args.url.host().is_none() {
        return Err(Failure::Misused(format!(
            "{}: a URL has a host, such as http://reviews:9080/",
            args.url
        )));
    }
    if args.url.scheme().is_none() {
        return Err(Failure::Misused(format!(
            "{0}: a URL has a scheme; write http://{0}/",
            args.url
        )));
    }
    if args.url.scheme_str() == Some("https") {
        let message = "a sidecar passes TLS of the application through; it routes http:// alone";
        return Err(Failure::Misused(message.to_owned()));
    }
    let question = Question {
        method: args.method.clone(),
        url: args.url.clone(),
        headers: args.headers.clone(),
    };
    let (explanation, caller) = client::block_on(async {
        let mut admin = args.connect.connect().await?;
        let workload = workload(args, &admin.status().await?)?;
        let explanation = ask(&admin, &workload, &question).await?;
        anyhow::Ok((explanation, workload))
    })??;
    match args.output.output {
        Output::Text => print(&show::text(&question, &caller, &explanation))?,
        Output::Json => print_json(&show::json(&caller, &explanation))?,
    }
    Ok(())
}

/// The caller, as `--from` and `--label` say.
fn workload(args: &WhyArgs, status: &StatusResponse) -> anyhow::Result<Workload> {
    let mut labels: BTreeMap<String, String> = args.labels.iter().cloned().collect();
    let mut locality = args.locality.clone();
    let service = args.from.clone().unwrap_or_else(|| "why".to_owned());
    let short = service.split('.').next().unwrap_or(&service).to_owned();
    if let Some(from) = &args.from {
        let start = format!("{short}.{}.", args.namespace);
        let found = status
            .services
            .iter()
            .find(|known| known.host == *from || known.host.starts_with(&start));
        let first = found.and_then(|known| known.instances.first());
        if let (None, Some(first)) = (&locality, first) {
            locality = crate::sidecar::locality(&first.locality).ok();
        }
        match found {
            Some(known) if labels.is_empty() => {
                let first = known.instances.first();
                labels = first
                    .map(|first| first.labels.clone().into_iter().collect())
                    .unwrap_or_default();
            }
            Some(_) => {}
            // One that only calls is not registered: then its labels are to be given.
            None if labels.is_empty() => {
                bail!(
                    "no instance of {from} is registered in the namespace {}; give its labels with --label, or another --from",
                    args.namespace
                )
            }
            None => {}
        }
    }
    Ok(Workload {
        service_account: short,
        service,
        namespace: args.namespace.clone(),
        labels,
        locality: locality.unwrap_or_default(),
        weight: 1,
    })
}

/// Reads the configuration to its end, and asks.
async fn ask(
    admin: &Admin,
    workload: &Workload,
    question: &Question,
) -> anyhow::Result<Explanation> {
    let mut reader = Reader::new(workload);
    configuration::read(admin, &mut reader, "the whole configuration").await?;
    reader.explain(question).map_err(anyhow::Error::msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_and_a_label_are_told_apart_by_their_signs() {
        assert_eq!(
            header("canary: true"),
            Ok(("canary".to_owned(), "true".to_owned()))
        );
        assert_eq!(header("x:a:b").unwrap().1, "a:b");
        assert!(header("canary").is_err());
        assert_eq!(label("app=web"), Ok(("app".to_owned(), "web".to_owned())));
        assert!(label("app").is_err());
    }
}
