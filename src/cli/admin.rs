//! Asks a live node, for the commands that print what it says.
//!
//! Must not: know what an answer means.

use std::time::Duration;

use anyhow::Context;
use reqwest::StatusCode;
use serde::de::DeserializeOwned;

use super::{ConfigArgument, unread};
use crate::http;
use crate::types::ShownJson;

/// How long a connection to it may take, its name among it: where none is made, that is said within 5 s.
const CONNECT: Duration = Duration::from_secs(4);
/// How long a node may take to answer before that is said.
const SOON: Duration = Duration::from_millis(4_500);
/// How long it may take when it is asked again: a busy one is no fault.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Where the node's admin interface is, instead of admin.listen of the configuration.
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
}

impl Arguments {
    /// The answer of the node, as text: JSON.
    pub(super) fn ask(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<String> {
        let address = match &self.admin {
            Some(address) => address.clone(),
            None => self.config.load()?.admin.listen,
        };
        anyhow::ensure!(!address.is_empty(), "admin.listen is empty: name the node by --admin HOST:PORT");
        let address = if address.contains("://") { address } else { format!("http://{address}") };
        let mut url = reqwest::Url::parse(&address).with_context(|| format!("--admin {address} is no address"))?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let client = http::builder(std::iter::once(url.as_str()), None, TIMEOUT)?.connect_timeout(CONNECT);
        let client = http::client(client)?;
        let unanswered = || format!("no node answers at {address}: is it running, and is admin.listen its address?");
        let ask = |timeout| {
            let answer = client.get(url.clone()).timeout(timeout).send()?;
            Ok::<_, reqwest::Error>((answer.status(), answer.text()?))
        };
        let answered = ask(SOON).or_else(|fault| {
            if fault.is_connect() || !fault.is_timeout() {
                return Err(fault);
            }
            unread::say(format_args!("{}: {fault}; still trying", unanswered()));
            ask(TIMEOUT)
        });
        let (status, body) = answered.with_context(unanswered)?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let error = serde_json::from_str::<serde_json::Value>(&body).ok();
        // Of health it gives a reason.
        let error = error.and_then(|error| error["error"].as_str().or(error["reason"].as_str()).map(str::to_owned));
        anyhow::bail!("{}", error.unwrap_or_else(|| format!("the node answers {status}: {body}")))
    }

    /// The answer of the node, as a value; printed as it is where `json`.
    pub(super) fn ask_for<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        json: bool,
    ) -> anyhow::Result<Option<T>> {
        let body = self.ask(path, query)?;
        if json {
            println!("{}", ShownJson(&body));
            return Ok(None);
        }
        serde_json::from_str(&body).map(Some).context("the node's answer is of another version")
    }
}
