//! Brings counters and spans to an OpenTelemetry collector, over OTLP/HTTP.
//!
//! Must not: be on a call's way; everything here runs on the SDK's own threads.

use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;

use super::collector::{Collector, Listening, Told};
use super::metrics::Durations;
use super::{Metrics, TelemetryError, Tracing};
use crate::{config, http};

/// The instrumentation scope.
const SCOPE: &str = "forewarm";
/// How long one request to the collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The running export.
pub(super) struct Export {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
    endpoint: String,
}

impl Export {
    pub(super) fn start(
        config: &config::Telemetry,
        node: &str,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, TelemetryError> {
        let base = config.otlp_endpoint.trim_end_matches('/');
        let collector = Arc::new(Collector::new(base));
        let (spans, numbers) = exporters(config, &collector)?;
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let traces = SdkTracerProvider::builder()
            .with_batch_exporter(Told::new(spans, &collector))
            .with_resource(resource.clone())
            .build();
        let reader =
            PeriodicReader::builder(Told::new(numbers, &collector)).with_interval(config.export_interval).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build();
        observe(&provider.meter(SCOPE), metrics);
        Ok(Self { traces, metrics: provider, endpoint: base.to_owned() })
    }

    /// Whether exporters can be made with these settings; nothing is sent.
    pub(super) fn check(config: &config::Telemetry) -> Result<(), TelemetryError> {
        let collector = Arc::new(Collector::new(config.otlp_endpoint.trim_end_matches('/')));
        exporters(config, &collector).map(drop)
    }

    pub(super) fn tracing(&self) -> Tracing {
        Tracing::exporting(self.traces.tracer(SCOPE))
    }

    /// Sends what is left, traces beside metrics. After `limit` nobody waits for them any more.
    pub(super) fn finish(self, limit: Duration) {
        let Self { traces, metrics, endpoint } = self;
        let (said, heard) = mpsc::channel();
        let end = |name: &str, end: Box<dyn FnOnce() -> OTelSdkResult + Send>| {
            let said = said.clone();
            // Nobody listens any more where it took too long. Where there is no thread, nothing is sent.
            drop(thread::Builder::new().name(name.to_owned()).spawn(move || said.send(end())));
        };
        // The SDK's own limits do not hold for a request that is under way.
        end("end-of-traces", Box::new(move || traces.shutdown_with_timeout(limit)));
        end("end-of-metrics", Box::new(move || metrics.shutdown()));
        drop(said);
        let until = Instant::now() + limit;
        for _ in 0..2 {
            let left = until.saturating_duration_since(Instant::now());
            let fault = match heard.recv_timeout(left) {
                Ok(Ok(())) => continue,
                Ok(Err(fault)) => fault.to_string(),
                Err(_) => format!("the collector did not answer within {limit:?}"),
            };
            tracing::warn!(endpoint, fault, "some telemetry was not exported");
            return;
        }
    }
}

/// What sends spans, and what sends numbers.
fn exporters(
    config: &config::Telemetry,
    collector: &Arc<Collector>,
) -> Result<(SpanExporter, MetricExporter), TelemetryError> {
    let base = config.otlp_endpoint.trim_end_matches('/');
    let fault = |cause: &dyn std::fmt::Display| TelemetryError::Export {
        endpoint: config.otlp_endpoint.clone(),
        cause: cause.to_string(),
    };
    let http = http::builder(std::iter::once(base), Some(config.tls()), TIMEOUT).and_then(http::client);
    let http = http.map_err(|cause| fault(&cause))?;
    let headers: HashMap<String, String> =
        http::collector_headers(config).map_err(|cause| fault(&cause))?.into_iter().collect();
    let spans = SpanExporter::builder()
        .with_http()
        .with_http_client(Listening::new(&http, collector))
        .with_headers(headers.clone())
        .with_endpoint(format!("{base}/v1/traces"))
        .with_timeout(TIMEOUT)
        .build()
        .map_err(|cause| fault(&cause))?;
    let numbers = MetricExporter::builder()
        .with_http()
        .with_http_client(Listening::new(&http, collector))
        .with_headers(headers)
        .with_endpoint(format!("{base}/v1/metrics"))
        .with_timeout(TIMEOUT)
        .build()
        .map_err(|cause| fault(&cause))?;
    Ok((spans, numbers))
}

/// Registers every number of the table, and those with labels.
fn observe(meter: &Meter, metrics: &Arc<Metrics>) {
    for (index, (spec, _)) in metrics.numbers().into_iter().enumerate() {
        let metrics = Arc::clone(metrics);
        let number = move || metrics.numbers().get(index).map_or(0, |(_, number)| *number);
        if spec.grows {
            let counter = meter.u64_observable_counter(spec.name).with_unit(spec.unit).with_description(spec.help);
            counter.with_callback(move |observer| observer.observe(number(), &[])).build();
        } else {
            let gauge = meter.u64_observable_gauge(spec.name).with_unit(spec.unit).with_description(spec.help);
            gauge.with_callback(move |observer| observer.observe(number(), &[])).build();
        }
    }
    let labelled = |name: &'static str, unit: &'static str, help: &'static str| {
        meter.u64_observable_counter(name).with_unit(unit).with_description(help)
    };
    let read = Arc::clone(metrics);
    labelled("faas.invocations", "{invocation}", "Calls with an outcome.")
        .with_callback(move |observer| {
            for (status, kind, count) in read.results_by_both() {
                let labels =
                    [KeyValue::new("forewarm.status", status.as_str()), KeyValue::new("forewarm.start_kind", kind)];
                observer.observe(count, &labels);
            }
        })
        .build();
    let read = Arc::clone(metrics);
    labelled(
        "forewarm.dead_letters",
        "{message}",
        "Messages that are no event, and calls that failed as often as they may, by reason.",
    )
    .with_callback(move |observer| {
        for (reason, count) in read.dead_letters_by_reason() {
            observer.observe(count, &[KeyValue::new("forewarm.reason", reason)]);
        }
    })
    .build();
    let read = Arc::clone(metrics);
    labelled("forewarm.pre_triggers", "{pre_trigger}", "Pre-triggers judged.")
        .with_callback(move |observer| {
            for (verdict, count) in read.pre_triggers_by_verdict() {
                observer.observe(count, &[KeyValue::new("forewarm.verdict", verdict)]);
            }
        })
        .build();
    let read = Arc::clone(metrics);
    labelled("forewarm.pre_trigger_outcomes", "{pre_trigger}", "Pre-triggers that ended.")
        .with_callback(move |observer| {
            for (kind, count) in read.pre_triggers_by_outcome() {
                observer.observe(count, &[KeyValue::new("forewarm.outcome", kind)]);
            }
        })
        .build();
    let read = Arc::clone(metrics);
    meter
        .u64_observable_gauge("forewarm.conditions")
        .with_unit("{condition}")
        .with_description("What is not as it should be while calls are taken, by kind; /health/ready names each.")
        .with_callback(move |observer| {
            for (kind, count) in read.conditions_by_kind() {
                observer.observe(count, &[KeyValue::new("forewarm.condition", kind)]);
            }
        })
        .build();
    let read = Arc::clone(metrics);
    meter
        .u64_observable_gauge("forewarm.functions")
        .with_unit("{function}")
        .with_description(
            "Functions by what their newest version is doing; /functions and `forewarm function status` name each.",
        )
        .with_callback(move |observer| {
            for (state, count) in read.functions_by_state() {
                observer.observe(count, &[KeyValue::new("forewarm.function.state", state)]);
            }
        })
        .build();
    let histogram = |name: &'static str, help: &'static str| {
        let bounds = vec![1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 0.5, 1.0, 5.0, 30.0];
        meter.f64_histogram(name).with_unit("s").with_description(help).with_boundaries(bounds).build()
    };
    metrics.record_into(Durations {
        prepare: histogram("faas.init_duration", "Time until an instance was in hand."),
        execute: histogram("faas.invoke_duration", "Time in the guest."),
    });
}
