//! Brings counters and spans to an OpenTelemetry collector, over OTLP/HTTP.
//!
//! Must not: be on a call's way; everything here runs on the SDK's own threads.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;

use super::metrics::Durations;
use super::{Metrics, TelemetryError, Tracing};
use crate::config;

/// The instrumentation scope.
const SCOPE: &str = "forewarm";
/// How long one request to the collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The running export.
pub(super) struct Export {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Export {
    pub(super) fn start(
        config: &config::Telemetry,
        node: &str,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, TelemetryError> {
        let base = config.otlp_endpoint.trim_end_matches('/');
        let fault = |cause: &dyn std::fmt::Display| TelemetryError::Export {
            endpoint: config.otlp_endpoint.clone(),
            cause: cause.to_string(),
        };
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let spans = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{base}/v1/traces"))
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|cause| fault(&cause))?;
        let numbers = MetricExporter::builder()
            .with_http()
            .with_endpoint(format!("{base}/v1/metrics"))
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|cause| fault(&cause))?;
        let traces = SdkTracerProvider::builder().with_batch_exporter(spans).with_resource(resource.clone()).build();
        let reader = PeriodicReader::builder(numbers).with_interval(config.export_interval).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build();
        observe(&provider.meter(SCOPE), metrics);
        Ok(Self { traces, metrics: provider })
    }

    pub(super) fn tracing(&self) -> Tracing {
        Tracing::exporting(self.traces.tracer(SCOPE))
    }

    /// Sends what is left; bounded by the requests' time limit.
    pub(super) fn finish(self) {
        let (traces, metrics) = (self.traces.shutdown_with_timeout(TIMEOUT), self.metrics.shutdown());
        for fault in [traces.err(), metrics.err()].into_iter().flatten() {
            tracing::warn!(%fault, "some telemetry was not exported");
        }
    }
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
    let histogram = |name: &'static str, help: &'static str| {
        let bounds = vec![1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 0.5, 1.0, 5.0, 30.0];
        meter.f64_histogram(name).with_unit("s").with_description(help).with_boundaries(bounds).build()
    };
    metrics.record_into(Durations {
        prepare: histogram("faas.init_duration", "Time until an instance was in hand."),
        execute: histogram("faas.invoke_duration", "Time in the guest."),
    });
}
