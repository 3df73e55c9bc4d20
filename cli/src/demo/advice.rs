//! What to try next: commands that work as they are printed.

use std::{env, path::PathBuf};

use super::shop::Shop;
use crate::client::DEFAULT_ADDRESS;

pub(super) fn text(shop: &Shop) -> String {
    let dir = shop.dir().display();
    let proxy = shop.frontend_proxy();
    let tool = tool();
    let mut flags = format!("--data-dir {dir}/state");
    let address = format!("https://{}", shop.grpc());
    if address != DEFAULT_ADDRESS {
        flags = format!("--control-plane {address} {flags}");
    }
    let pid = |name| {
        shop.part(name)
            .map(|part| part.app.pid())
            .unwrap_or_default()
    };
    format!(
        "running; Ctrl-C ends everything. Logs are in {dir}/logs. Try, in another terminal:

  one request through the shop    curl -sx {proxy} http://frontend:9080/
  reviews v2, whatever the split  curl -sx {proxy} -H 'canary: true' http://reviews:9080/
  half of the traffic to v2       {tool} apply {flags} -f {dir}/50-50.yaml
  back to 90/10                   {tool} apply {flags} -f {dir}/90-10.yaml
  who runs where, synced or not   {tool} status {flags}
  kill one of two reviews v1      kill -9 {reviews}
  kill the control plane          kill -9 {control_plane}
  and start it again              {tool} control-plane --grpc {grpc} --http 127.0.0.1:0 --data-dir {dir}/state --exit-without-data-dir

A control plane that you start again so ends with the demo, too (--exit-without-data-dir).
",
        reviews = pid("reviews-v1-a"),
        control_plane = shop.control_plane.pid(),
        grpc = shop.grpc(),
    )
}

/// How to call this program from here.
fn tool() -> String {
    let exe = env::current_exe().unwrap_or_else(|_| PathBuf::from("outrigger"));
    let here = env::current_dir().unwrap_or_default();
    match exe.strip_prefix(&here) {
        Ok(below) => format!("./{}", below.display()),
        Err(_) => exe.display().to_string(),
    }
}
