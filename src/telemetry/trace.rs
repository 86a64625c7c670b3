//! W3C trace context over Kafka headers, and one span a call where spans are exported.
//!
//! Without an exporter the caller's context is carried on to the result unchanged, and a call without one costs a look at
//! its headers. Must not: carry on what is no trace context.

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanKind, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;

use crate::types::{FunctionName, Headers, InvocationResult, Position, StartKind, Status};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Makes spans. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracing {
    tracer: Option<SdkTracer>,
}

/// One call's span, or the caller's context to carry on, or nothing.
#[derive(Debug, Default)]
pub struct CallSpan(Option<Box<Inner>>);

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "lives in a box of its own, which is only made where there is a context")]
enum Inner {
    /// The caller's headers.
    Carried(Headers),
    /// A span of ours, below the caller's.
    Ours(opentelemetry_sdk::trace::Span),
}

/// Headers as the propagator reads them. A header that is not UTF-8 is not there for it.
struct Read<'a>(&'a [(String, Option<Vec<u8>>)]);

impl Extractor for Read<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key))?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// Whether a text is a `traceparent` that calls are traced by.
pub fn is_traceparent(text: &str) -> bool {
    let headers = [(TRACEPARENT.to_owned(), Some(text.as_bytes().to_vec()))];
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Read(&headers));
    context.span().span_context().is_valid()
}

impl Tracing {
    pub(super) fn exporting(tracer: SdkTracer) -> Self {
        Self { tracer: Some(tracer) }
    }

    /// Begins the span of a call that was read from `topic` with `headers`.
    pub fn start(
        &self,
        headers: &[(String, Option<Vec<u8>>)],
        function: &FunctionName,
        topic: &str,
        position: &Position,
    ) -> CallSpan {
        let read = Read(headers);
        let parent =
            read.get(TRACEPARENT).map(|_| TraceContextPropagator::new().extract_with_context(&Context::new(), &read));
        let parent = parent.filter(|context| context.span().span_context().is_valid());
        let Some(tracer) = &self.tracer else {
            let Some(parent) = parent else { return CallSpan::default() };
            // The state as it was understood: one that breaks the standard's grammar is not passed on.
            let state = parent.span().span_context().trace_state().header();
            let carried = [(TRACEPARENT, read.get(TRACEPARENT).unwrap_or_default()), (TRACESTATE, &state)];
            let carried = carried.into_iter().filter(|(_, value)| !value.is_empty());
            let carried = carried.map(|(name, value)| (name.to_owned(), Some(value.as_bytes().to_vec()))).collect();
            return CallSpan(Some(Box::new(Inner::Carried(carried))));
        };
        let attributes = [
            KeyValue::new("faas.trigger", "pubsub"),
            KeyValue::new("faas.name", function.as_str().to_owned()),
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.destination.name", topic.to_owned()),
            KeyValue::new("messaging.destination.partition.id", position.partition.to_string()),
            KeyValue::new("messaging.kafka.offset", position.offset.0),
        ];
        let span = tracer
            .span_builder(format!("process {topic}"))
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes)
            .start_with_context(tracer, &parent.unwrap_or_default());
        CallSpan(Some(Box::new(Inner::Ours(span))))
    }
}

impl CallSpan {
    /// The headers of the call's result: its content type and its trace context.
    pub fn result_headers(&self, content_type: &str) -> Headers {
        let mut headers = vec![("content-type".to_owned(), Some(content_type.as_bytes().to_vec()))];
        match self.0.as_deref() {
            None => {}
            Some(Inner::Carried(carried)) => headers.extend_from_slice(carried),
            Some(Inner::Ours(span)) => {
                let mut carrier = std::collections::HashMap::new();
                let context = Context::new().with_remote_span_context(span.span_context().clone());
                TraceContextPropagator::new().inject_context(&context, &mut carrier);
                let mut injected: Vec<_> = carrier
                    .into_iter()
                    .filter(|(_, value)| !value.is_empty())
                    .map(|(name, value)| (name, Some(value.into_bytes())))
                    .collect();
                injected.sort_unstable();
                headers.extend(injected);
            }
        }
        headers
    }

    /// An attempt of the call ended without an answer: an exception of its span, as OpenTelemetry has it, with the guest's message.
    pub fn failed(&mut self, result: &InvocationResult) {
        let (Some(Inner::Ours(span)), Some(error)) = (self.0.as_deref_mut(), &result.error) else { return };
        let kind = error.code.clone().unwrap_or_else(|| result.status.as_str().to_owned());
        let mut attributes = vec![
            KeyValue::new("exception.type", kind),
            KeyValue::new("exception.message", error.message.clone()),
            KeyValue::new("forewarm.status", result.status.as_str()),
            KeyValue::new("forewarm.attempt", i64::from(result.attempt)),
            KeyValue::new("faas.invocation_id", result.invocation_id.clone()),
        ];
        attributes.extend(error.backtrace.clone().map(|backtrace| KeyValue::new("exception.stacktrace", backtrace)));
        span.add_event("exception", attributes);
    }

    /// The call has its outcome.
    pub fn end(self, status: Status, kind: Option<StartKind>) {
        let Some(Inner::Ours(mut span)) = self.0.map(|inner| *inner) else { return };
        if let Some(kind) = kind {
            let cold = !matches!(kind, StartKind::Warm | StartKind::Prewarmed);
            span.set_attribute(KeyValue::new("faas.coldstart", cold));
            span.set_attribute(KeyValue::new("forewarm.start_kind", kind.as_str()));
        }
        if status != Status::Ok {
            span.set_status(opentelemetry::trace::Status::error(status.as_str()));
        }
        span.end();
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanProcessor};

    use super::*;
    use crate::types::{Generation, Offset};

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn start(tracing: &Tracing, headers: &[(&str, &str)]) -> CallSpan {
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec()))).collect();
        let position = Position { partition: 1, offset: Offset(2), generation: Generation(3) };
        tracing.start(&headers, &FunctionName::new("f").unwrap(), "calls", &position)
    }

    fn header(span: &CallSpan, name: &str) -> Option<String> {
        let headers = span.result_headers("text/plain");
        let (_, value) = headers.into_iter().find(|(key, _)| key == name)?;
        Some(String::from_utf8(value?).unwrap())
    }

    #[test]
    fn without_an_exporter_the_callers_context_goes_on_unchanged() {
        let span = start(&Tracing::default(), &[("Traceparent", PARENT), ("tracestate", "a=b"), ("other", "x")]);
        assert_eq!(header(&span, "traceparent").as_deref(), Some(PARENT));
        assert_eq!(header(&span, "tracestate").as_deref(), Some("a=b"));
        assert_eq!(header(&span, "other"), None);
        assert_eq!(header(&span, "content-type").as_deref(), Some("text/plain"));
    }

    #[test]
    fn what_is_no_context_is_not_carried_on() {
        for bad in ["", "00-0-0-01", "zz-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", &"0".repeat(5_000)] {
            let span = start(&Tracing::default(), &[("traceparent", bad)]);
            assert_eq!(header(&span, "traceparent"), None, "{bad}");
            assert!(!is_traceparent(bad), "{bad}");
        }
        assert!(is_traceparent(PARENT));
        assert!(start(&Tracing::default(), &[]).0.is_none());
        let span = start(&Tracing::default(), &[("traceparent", PARENT), ("tracestate", "no state, at all=")]);
        assert_eq!(header(&span, "traceparent").as_deref(), Some(PARENT));
        assert_eq!(header(&span, "tracestate"), None);
    }

    #[test]
    fn our_span_stays_in_the_callers_trace() {
        let provider = SdkTracerProvider::builder().build();
        let tracing = Tracing::exporting(provider.tracer("test"));
        let span = start(&tracing, &[("traceparent", PARENT)]);
        let ours = header(&span, "traceparent").unwrap();
        assert_eq!(ours[..35], PARENT[..35], "the same trace");
        assert_ne!(ours[36..52], PARENT[36..52], "another span");
        let root = start(&tracing, &[]);
        assert!(header(&root, "traceparent").is_some());
        root.end(Status::Trap, Some(StartKind::Cold));
    }

    /// Keeps spans that ended.
    #[derive(Clone, Debug, Default)]
    struct Ended(std::sync::Arc<std::sync::Mutex<Vec<SpanData>>>);

    impl SpanProcessor for Ended {
        fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}

        fn on_end(&self, span: SpanData) {
            self.0.lock().unwrap().push(span);
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: std::time::Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    #[test]
    fn an_attempt_that_failed_is_an_exception_of_the_span_with_the_guests_message() {
        let ended = Ended::default();
        let provider = SdkTracerProvider::builder().with_span_processor(ended.clone()).build();
        let mut span = start(&Tracing::exporting(provider.tracer("test")), &[]);
        let result: InvocationResult = serde_json::from_value(serde_json::json!({
            "invocation_id": "i", "function": "f", "status": "trap", "node": "n", "completed_at": 5,
            "error": {"message": "the guest trapped; printed: no such word", "code": "UnreachableCodeReached"},
        }))
        .unwrap();
        span.failed(&result);
        span.end(Status::Trap, None);
        // Without an exporter, or with nothing wrong, there is nothing to say.
        CallSpan::default().failed(&result);
        let ended = ended.0.lock().unwrap();
        let event = &ended[0].events.events[0];
        let of = |key: &str| {
            let found = event.attributes.iter().find(|attribute| attribute.key.as_str() == key);
            found.map(|attribute| attribute.value.to_string())
        };
        assert_eq!(event.name, "exception");
        assert_eq!(of("exception.type").as_deref(), Some("UnreachableCodeReached"));
        assert_eq!(of("exception.message").as_deref(), Some("the guest trapped; printed: no such word"));
        assert_eq!(of("faas.invocation_id").as_deref(), Some("i"));
        assert_eq!(of("exception.stacktrace"), None);
    }
}
