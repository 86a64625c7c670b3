//! How the collector does: said once when it stops taking what is exported, at a rate while it does not, and when it does again.
//!
//! Must not: send anything itself; the exporters and the client that it wraps do.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use reqwest::blocking::Client;

use crate::http;

/// How often a collector that stays away is spoken of.
const SAY_EVERY: Duration = Duration::from_secs(600);

/// A spell in which nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Away {
    since: Instant,
    said_at: Instant,
    requests: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Say {
    Nothing,
    Away { requests: u64 },
    Back { lasted: Duration, requests: u64 },
}

/// What one more request says of the collector.
fn judge(away: Option<Away>, is_taken: bool, now: Instant) -> (Option<Away>, Say) {
    match (away, is_taken) {
        (None, true) => (None, Say::Nothing),
        (None, false) => (Some(Away { since: now, said_at: now, requests: 1 }), Say::Away { requests: 1 }),
        (Some(Away { since, requests, .. }), true) => {
            (None, Say::Back { lasted: now.saturating_duration_since(since), requests })
        }
        (Some(away), false) => {
            let requests = away.requests + 1;
            if now.saturating_duration_since(away.said_at) < SAY_EVERY {
                return (Some(Away { requests, ..away }), Say::Nothing);
            }
            (Some(Away { requests, said_at: now, ..away }), Say::Away { requests })
        }
    }
}

/// One collector.
#[derive(Debug)]
pub(super) struct Collector {
    endpoint: String,
    away: Mutex<Option<Away>>,
    /// Why the last request had no answer; empty where it had one. The exporter says "network error", and no more.
    unheard: Mutex<String>,
}

impl Collector {
    pub(super) fn new(endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned(), away: Mutex::new(None), unheard: Mutex::default() }
    }

    fn answered(&self, result: OTelSdkResult) -> OTelSdkResult {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let say;
        (*away, say) = judge(*away, result.is_ok(), Instant::now());
        drop(away);
        let endpoint = &self.endpoint;
        let reason = self.unheard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (say, &result) {
            (Say::Away { requests }, Err(error)) => tracing::warn!(
                endpoint,
                requests,
                %error,
                reason,
                "the collector (telemetry.otlp-endpoint) does not take what is exported; it is left out"
            ),
            (Say::Back { lasted, requests }, _) => {
                tracing::info!(endpoint, requests, ?lasted, "the collector takes what is exported again");
            }
            (Say::Nothing | Say::Away { .. }, _) => {}
        }
        result
    }
}

/// A client of a collector that keeps why there was no answer.
#[derive(Debug)]
pub(super) struct Listening {
    client: Client,
    collector: Arc<Collector>,
}

impl Listening {
    pub(super) fn new(client: &Client, collector: &Arc<Collector>) -> Self {
        Self { client: client.clone(), collector: Arc::clone(collector) }
    }
}

impl HttpClient for Listening {
    // As `async_trait` writes it.
    fn send_bytes<'s, 'f>(
        &'s self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let answer = self.client.send_bytes(request).await;
            let reason = answer.as_ref().err().map_or_else(String::new, |error| http::told(&**error));
            *self.collector.unheard.lock().unwrap_or_else(PoisonError::into_inner) = reason;
            answer
        })
    }
}

/// An exporter whose answers tell of its collector.
pub(super) struct Told<E> {
    exporter: E,
    collector: Arc<Collector>,
}

impl<E> Told<E> {
    pub(super) fn new(exporter: E, collector: &Arc<Collector>) -> Self {
        Self { exporter, collector: Arc::clone(collector) }
    }
}

impl<E: fmt::Debug> fmt::Debug for Told<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exporter.fmt(f)
    }
}

impl<E: SpanExporter> SpanExporter for Told<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.collector.answered(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Told<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.collector.answered(self.exporter.export(metrics).await)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_spoken_of_when_it_goes_now_and_then_and_when_it_is_back() {
        let start = Instant::now();
        let mut away = None;
        let mut said = |seconds: u64, is_taken| {
            let say;
            (away, say) = judge(away, is_taken, start + Duration::from_secs(seconds));
            say
        };
        assert_eq!(said(0, true), Say::Nothing);
        assert_eq!(said(10, false), Say::Away { requests: 1 });
        assert_eq!(said(20, false), Say::Nothing);
        assert_eq!(said(609, false), Say::Nothing);
        assert_eq!(said(610, false), Say::Away { requests: 4 });
        assert_eq!(said(700, true), Say::Back { lasted: Duration::from_secs(690), requests: 4 });
        assert_eq!(said(710, true), Say::Nothing);
        assert_eq!(said(720, false), Say::Away { requests: 1 });
    }
}
