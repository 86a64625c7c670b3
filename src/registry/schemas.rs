//! Schemas of other writers, from a Confluent schema registry, kept in memory.
//!
//! Duty: answer for a schema at once where it is known, and otherwise soon; say what cannot be had, and why. Must not: hold up whoever
//! asks for longer than [`PATIENCE`]: the poll thread of the invocations is among them. A thread of its own does the asking.

mod asking;
mod failures;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(super) use asking::Fault;
pub use asking::SchemaRegistrySettings;
use asking::{Answer, ask};
use failures::{Away, Failure};

use super::RegistryError;
use crate::codec::{SchemaKey, SchemaLookup, WriterSchema, WriterSchemas};
use crate::types::{Condition, Shown};

/// How long an asker waits for a schema that nobody asked for before. A registry nearby answers within this, and then the
/// message need not be put aside.
pub const PATIENCE: Duration = Duration::from_millis(25);
/// How long it is believed that the registry has no such schema, or none that is read here: it may be registered.
const REFUSAL_LIFE: Duration = Duration::from_secs(10);
/// Most schemas in memory, of either kind (inclusive).
const KNOWN_MAX: usize = 4_096;
const FAILED_MAX: usize = 1_024;
/// Most schemas that wait to be asked for.
const ASKED_MAX: usize = 64;

const THREAD: &str = "schema-registry";

#[derive(Clone, Debug)]
enum Entry {
    Known(WriterSchema),
    Refused {
        lookup: SchemaLookup,
        until: Instant,
    },
    Failed(Failure),
    /// With what became of it before, where that was a failure.
    Asked(Option<Failure>),
}

impl Entry {
    fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) | Self::Asked(Some(failure)) => Some(failure),
            Self::Known(_) | Self::Refused { .. } | Self::Asked(None) => None,
        }
    }
}

#[derive(Default)]
struct State {
    entries: HashMap<SchemaKey, Entry>,
    /// Where the registry gave no answer at all the last time.
    away: Option<Away>,
}

#[derive(Default)]
struct Cache {
    state: Mutex<State>,
    answered: Condvar,
    failures: AtomicU64,
}

impl Cache {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a question that waits is not put any more, as the registry has gone meanwhile. It is as it was before, and is put
    /// when it is asked for again.
    fn takes_back(&self, key: SchemaKey) -> bool {
        let mut state = self.state();
        if state.away.as_ref().is_none_or(|away| away.probe == Some(key)) {
            return false;
        }
        if let Some(Entry::Asked(Some(failure))) = state.entries.remove(&key) {
            state.entries.insert(key, Entry::Failed(failure));
        }
        drop(state);
        self.answered.notify_all();
        true
    }

    fn answer(&self, key: SchemaKey, answer: Answer, now: Instant) {
        let mut state = self.state();
        let before = state.entries.get(&key).and_then(Entry::failure).cloned();
        let entry = match answer {
            Answer::Known(schema) => {
                say_back(key, before.as_ref(), now);
                Entry::Known(schema)
            }
            Answer::Refused(lookup) => {
                say_back(key, before.as_ref(), now);
                Entry::Refused { lookup, until: now + REFUSAL_LIFE }
            }
            Answer::Failed(fault) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                let (failure, is_to_be_said) = Failure::after(before, fault, now);
                if is_to_be_said {
                    say_failed(key, &failure);
                }
                let is_away = failure.fault.status.is_none();
                let (until, cause) = (failure.until, failure.fault.cause.clone());
                state.away = is_away.then_some(Away { until, probe: None, cause });
                Entry::Failed(failure)
            }
        };
        if !matches!(entry, Entry::Failed(_)) {
            state.away = None;
        }
        make_room(&mut state.entries, matches!(entry, Entry::Known(_)));
        state.entries.insert(key, entry);
        drop(state);
        self.answered.notify_all();
    }
}

fn say_failed(key: SchemaKey, Failure { fault, attempts, .. }: &Failure) {
    let (schema, cause, advice) = (key.to_string(), Shown::of(&fault.cause).to_string(), fault.advice());
    tracing::warn!(
        schema,
        attempts,
        cause,
        advice,
        "the schema registry does not give a schema; messages that need it wait"
    );
}

fn say_back(key: SchemaKey, failure: Option<&Failure>, now: Instant) {
    if let Some(Failure { since, attempts, .. }) = failure {
        let (schema, lasted) = (key.to_string(), now.duration_since(*since));
        tracing::info!(schema, attempts, ?lasted, "the schema registry answers again");
    }
}

/// Keeps both kinds within their bounds. Which one goes is left to chance: whoever needs it asks again.
fn make_room(entries: &mut HashMap<SchemaKey, Entry>, known: bool) {
    let of_kind = |entry: &Entry| match entry {
        Entry::Known(_) => known,
        Entry::Refused { .. } | Entry::Failed(_) => !known,
        Entry::Asked(_) => false,
    };
    let max = if known { KNOWN_MAX } else { FAILED_MAX };
    if entries.values().filter(|entry| of_kind(entry)).count() >= max
        && let Some(&key) = entries.iter().find(|(_, entry)| of_kind(entry)).map(|(key, _)| key)
    {
        entries.remove(&key);
    }
}

/// A registry's schemas. Dropping it ends its thread, after the request under way.
pub struct SchemaRegistry {
    cache: Arc<Cache>,
    urls: String,
    ask: Option<SyncSender<SchemaKey>>,
    thread: Option<JoinHandle<()>>,
}

impl SchemaRegistry {
    /// Starts its thread. Nothing is asked for yet.
    ///
    /// # Errors
    /// Where no URL is given, or the thread cannot be started.
    pub fn start(settings: SchemaRegistrySettings) -> Result<Self, RegistryError> {
        if settings.urls.is_empty() {
            return Err(RegistryError::NoSchemaRegistryUrl);
        }
        let (cache, urls) = (Arc::new(Cache::default()), settings.urls.join(","));
        let (ask, asked) = sync_channel(ASKED_MAX);
        let thread = std::thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn({
                let cache = Arc::clone(&cache);
                move || fetch(&settings, &asked, &cache)
            })
            .map_err(|source| RegistryError::Thread { name: THREAD, source })?;
        Ok(Self { cache, urls, ask: Some(ask), thread: Some(thread) })
    }

    /// What an operator should know of it: that schemas cannot be had, which, why, and what helps. Empty where nothing is amiss.
    pub fn conditions(&self) -> Vec<Condition> {
        let state = self.cache.state();
        let failures = state.entries.iter().filter_map(|(key, entry)| Some((*key, entry.failure()?)));
        failures::condition(failures, &self.urls, Instant::now()).into_iter().collect()
    }

    /// Questions that got no answer, or a refusal of the one who asks, since the start.
    pub fn failures(&self) -> u64 {
        self.cache.failures.load(Ordering::Relaxed)
    }
}

impl WriterSchemas for SchemaRegistry {
    /// Waits up to [`PATIENCE`] for a schema that is not known; then it is unavailable, and known or refused later.
    fn find(&self, key: SchemaKey) -> Result<WriterSchema, SchemaLookup> {
        let now = Instant::now();
        let mut state = self.cache.state();
        let State { entries, away } = &mut *state;
        let before = match entries.get(&key) {
            Some(Entry::Known(schema)) => return Ok(schema.clone()),
            Some(Entry::Refused { lookup, until }) if now < *until => return Err(lookup.clone()),
            Some(Entry::Failed(failure)) if now < failure.until => {
                return Err(SchemaLookup::Unavailable(failure.fault.cause.clone()));
            }
            Some(Entry::Asked(_)) => None,
            Some(Entry::Failed(failure)) => Some(Some(failure.clone())),
            Some(Entry::Refused { .. }) | None => Some(None),
        };
        if let Some(before) = before {
            if let Some(away) = away
                && !away.lets_out(key, now)
            {
                return Err(SchemaLookup::Unavailable(away.cause.clone()));
            }
            let sent = self.ask.as_ref().is_some_and(|ask| ask.try_send(key).is_ok());
            if !sent {
                if let Some(away) = away {
                    away.probe = None;
                }
                return Err(SchemaLookup::Unavailable("too many schemas are being asked for".to_owned()));
            }
            entries.insert(key, Entry::Asked(before));
        }
        // Whoever asks again for what has failed before has waited already.
        if let Some(failure) = state.entries.get(&key).and_then(Entry::failure) {
            return Err(SchemaLookup::Unavailable(failure.fault.cause.clone()));
        }
        let waiting = |state: &mut State| matches!(state.entries.get(&key), Some(Entry::Asked(_)));
        let waited = self.cache.answered.wait_timeout_while(state, PATIENCE, waiting);
        match waited.unwrap_or_else(PoisonError::into_inner).0.entries.get(&key) {
            Some(Entry::Known(schema)) => Ok(schema.clone()),
            Some(Entry::Refused { lookup, .. }) => Err(lookup.clone()),
            Some(Entry::Failed(failure)) => Err(SchemaLookup::Unavailable(failure.fault.cause.clone())),
            Some(Entry::Asked(_)) | None => {
                Err(SchemaLookup::Unavailable("the registry has not answered yet".to_owned()))
            }
        }
    }
}

impl Drop for SchemaRegistry {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that asks the schema registry had panicked");
        }
    }
}

/// The thread. The client is made here, because a blocking HTTP client may not be made inside an asynchronous runtime; and anew
/// where that may help, as its files may hold others by then.
fn fetch(settings: &SchemaRegistrySettings, asked: &Receiver<SchemaKey>, cache: &Cache) {
    let mut client = None;
    for key in asked {
        if cache.takes_back(key) {
            continue;
        }
        let made = match client.take() {
            Some(made) => Ok(made),
            None => settings.client(),
        };
        let answer = match made {
            Ok(made) => {
                let answer = ask(&made, key);
                if !matches!(&answer, Answer::Failed(fault) if fault.may_be_of_files()) {
                    client = Some(made);
                }
                answer
            }
            Err(error) => Answer::Failed(Fault { status: None, cause: error.to_string() }),
        };
        cache.answer(key, answer, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::Schema;

    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    /// Answers each request with the first pair whose path is in it; the number of requests comes back when it is dropped.
    fn serve(answers: Vec<(&'static str, u16, String)>, requests: usize) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let mut paths = Vec::new();
            for stream in listener.incoming().take(requests) {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 4_096];
                let read = stream.read(&mut bytes).unwrap();
                let request = String::from_utf8_lossy(&bytes[..read]).into_owned();
                let path = request.split_whitespace().nth(1).unwrap().to_owned();
                let found = answers.iter().find(|(of, ..)| path.starts_with(of));
                let (status, body) = found.map_or((404, "{}".to_owned()), |(_, status, body)| (*status, body.clone()));
                paths.push(path);
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n");
                write!(stream, "{head}connection: close\r\n\r\n{body}").unwrap();
            }
            paths
        });
        (url, thread)
    }

    fn registry(url: &str) -> SchemaRegistry {
        SchemaRegistry::start(settings(&format!("{url}/"))).unwrap()
    }

    fn settings(url: &str) -> SchemaRegistrySettings {
        let urls = vec![url.to_owned()];
        SchemaRegistrySettings {
            urls,
            timeout: Duration::from_secs(2),
            access: crate::config::SchemaRegistry::default(),
        }
    }

    const NOT_FOUND: &str = r#"{"error_code":40403,"message":"Schema not found"}"#;

    /// Asks until the answer is not "not yet".
    fn ask(registry: &SchemaRegistry, id: u32) -> Result<WriterSchema, SchemaLookup> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match registry.find(SchemaKey::Id(id)) {
                Err(SchemaLookup::Unavailable(cause)) if cause.contains("not answered yet") => {
                    assert!(Instant::now() < deadline, "no answer");
                }
                answer => return answer,
            }
        }
    }

    fn avro(schema: &str) -> WriterSchema {
        WriterSchema::Avro(Arc::new(Schema::parse_str(schema).unwrap()))
    }

    fn body(schema: &str, more: &str) -> String {
        format!("{{\"schema\":{}{more}}}", serde_json::to_string(schema).unwrap())
    }

    #[test]
    fn an_id_is_asked_for_once_whether_there_is_a_schema_or_not() {
        let record = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;
        let answers = vec![("/schemas/ids/7", 200, body(record, "")), ("/schemas/ids/8", 404, NOT_FOUND.to_owned())];
        let (url, server) = serve(answers, 2);
        let registry = registry(&url);
        for _ in 0..3 {
            assert_eq!(ask(&registry, 7).unwrap(), avro(record));
            assert_eq!(ask(&registry, 8), Err(SchemaLookup::Unknown));
        }
        assert_eq!(server.join().unwrap(), ["/schemas/ids/7?deleted=true", "/schemas/ids/8?deleted=true"]);
    }

    #[test]
    fn references_are_put_in_their_place() {
        let outer = r#"{"type":"record","name":"R","fields":[{"name":"p","type":"x.Part"}]}"#;
        let part = r#"{"type":"record","name":"Part","namespace":"x","fields":[{"name":"a","type":"int"}]}"#;
        let reference = r#","references":[{"name":"x.Part","subject":"part","version":3}]"#;
        let answers = vec![
            ("/schemas/ids/7", 200, body(outer, reference)),
            ("/subjects/part/versions/3", 200, body(part, r#","id":6,"version":3,"subject":"part""#)),
        ];
        let (url, server) = serve(answers, 2);
        let schema = ask(&registry(&url), 7).unwrap();
        let whole = r#"{"type":"record","name":"R","fields":[{"name":"p","type":{"type":"record","name":"Part",
            "namespace":"x","fields":[{"name":"a","type":"int"}]}}]}"#;
        assert_eq!(schema, avro(whole));
        drop(server);
    }

    #[test]
    fn only_the_registrys_own_not_found_is_unknown_and_other_kinds_of_schema_are_named() {
        let answers = vec![
            ("/schemas/ids/1", 500, "{}".to_owned()),
            ("/schemas/ids/2", 401, r#"{"error_code":40101,"message":"who are you"}"#.to_owned()),
            ("/schemas/ids/3", 200, body("syntax = \"proto3\";", r#","schemaType":"PROTOBUF""#)),
            ("/schemas/ids/4", 200, body("{", "")),
            ("/schemas/ids/5", 200, body("{}", r#","schemaType":"JSON""#)),
            ("/schemas/ids/6", 404, "<html>".to_owned()),
            ("/schemas/ids/9", 200, "<html>".to_owned()),
        ];
        let (url, server) = serve(answers, 7);
        let registry = registry(&url);
        let unavailable = |id| match ask(&registry, id) {
            Err(SchemaLookup::Unavailable(cause)) => cause,
            other => panic!("{id}: {other:?}"),
        };
        assert!(unavailable(1).contains("500"));
        assert!(unavailable(2).contains("401 Unauthorized") && unavailable(2).contains("who are you"));
        assert!(unavailable(6).contains("404"));
        assert!(unavailable(9).contains("could not parse"));
        assert!(matches!(ask(&registry, 3), Err(SchemaLookup::Invalid(cause)) if cause.contains("Protobuf")));
        assert!(matches!(ask(&registry, 4), Err(SchemaLookup::Invalid(_))));
        assert_eq!(ask(&registry, 5), Ok(WriterSchema::Json));
        assert_eq!(registry.failures(), 4);
        let said = registry.conditions();
        assert!(said.len() == 1 && said[0].detail.contains("and 3 more schemas"), "{said:?}");
        server.join().unwrap();
    }

    #[test]
    fn a_guid_is_asked_for_as_one() {
        let record = r#"{"type":"record","name":"R","fields":[]}"#;
        let path = "/schemas/guids/01010101-0101-0101-0101-010101010101";
        let (url, server) = serve(vec![(path, 200, body(record, r#","guid":"x""#))], 1);
        let registry = registry(&url);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut found = registry.find(SchemaKey::Guid([1; 16]));
        while found.is_err() {
            assert!(Instant::now() < deadline, "{found:?}");
            found = registry.find(SchemaKey::Guid([1; 16]));
        }
        assert_eq!(found.unwrap(), avro(record));
        server.join().unwrap();
    }

    #[test]
    fn a_registry_that_is_not_there_is_said_and_other_schemas_do_not_ask_it() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let registry = registry(&format!("http://{free}"));
        assert!(registry.conditions().is_empty());
        let Err(SchemaLookup::Unavailable(cause)) = ask(&registry, 1) else { panic!("there is nobody") };
        assert!(cause.contains(&free.to_string()) && cause.contains("refused"), "{cause}");
        let mut state = registry.cache.state();
        let away = state.away.as_mut().expect("it is away");
        away.until += Duration::from_secs(60);
        drop(state);
        assert_eq!(registry.find(SchemaKey::Id(2)), Err(SchemaLookup::Unavailable(cause)));
        assert_eq!((registry.failures(), registry.cache.state().entries.len()), (1, 1));
        let said = registry.conditions();
        assert!(
            said[0].subject.contains(&free.to_string()) && said[0].detail.contains("schema id 1 cannot"),
            "{said:?}"
        );
    }

    #[test]
    fn a_refusal_is_believed_for_a_while_and_the_tables_are_bounded() {
        let cache = Cache::default();
        let now = Instant::now();
        for id in 0..FAILED_MAX as u32 + 10 {
            cache.answer(SchemaKey::Id(id), Answer::Refused(SchemaLookup::Unknown), now);
        }
        assert_eq!(cache.state().entries.len(), FAILED_MAX);
        for id in 100_000..100_000 + KNOWN_MAX as u32 + 10 {
            cache.answer(SchemaKey::Id(id), Answer::Known(WriterSchema::Json), now);
        }
        assert_eq!(cache.state().entries.len(), FAILED_MAX + KNOWN_MAX);
        let state = cache.state();
        let mut refused = state.entries.values().filter_map(|entry| match entry {
            Entry::Refused { until, .. } => Some(*until),
            _ => None,
        });
        assert!(refused.all(|until| until == now + REFUSAL_LIFE));
    }

    #[test]
    fn a_schema_is_registered_under_its_topic() {
        let (url, server) = serve(vec![("/subjects/results-value/versions", 200, r#"{"id":41}"#.to_owned())], 1);
        let (settings, kind) = (settings(&url), crate::codec::EventKind::InvocationResult);
        let register = || crate::registry::register(&settings, "results", kind, Duration::ZERO);
        assert_eq!(register().unwrap(), 41);
        assert_eq!(server.join().unwrap().len(), 1);
        assert!(matches!(register(), Err(RegistryError::NotRegistered { subject, .. }) if subject == "results-value"));
    }

    #[test]
    fn without_a_url_there_is_no_registry() {
        let settings = SchemaRegistrySettings { urls: Vec::new(), ..settings("") };
        assert!(matches!(SchemaRegistry::start(settings), Err(RegistryError::NoSchemaRegistryUrl)));
    }
}
