//! Schemas of other writers, from a Confluent schema registry, kept in memory.
//!
//! Duty: answer for an id at once where it is known, and otherwise soon. Must not: hold up whoever asks for longer than
//! [`PATIENCE`]: the poll thread of the invocations is among them. A thread of its own does the asking.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use apache_avro::Schema;
use schema_registry_converter::blocking::schema_registry::{SrSettings, get_referenced_schema, get_schema_by_id};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{RegisteredReference, RegisteredSchema, SchemaType};

use super::RegistryError;
use crate::codec::{SchemaLookup, WriterSchemas};

/// How long an asker waits for an id that nobody asked for before. A registry nearby answers within this, and then the
/// message need not be put aside.
pub const PATIENCE: Duration = Duration::from_millis(25);
/// How long an answer other than a schema is believed: an id may be registered, and a registry come back.
const REFUSAL_LIFE: Duration = Duration::from_secs(10);
const UNAVAILABLE_LIFE: Duration = Duration::from_millis(500);
/// Most ids in memory, of either kind (inclusive).
const KNOWN_MAX: usize = 4_096;
const FAILED_MAX: usize = 1_024;
/// Most ids that wait to be asked for.
const ASKED_MAX: usize = 64;
/// Most schemas that one schema may refer to, directly or not.
const REFERENCES_MAX: usize = 64;

const THREAD: &str = "schema-registry";

/// Where the registry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaRegistrySettings {
    /// Base URLs, tried in order; at least one.
    pub urls: Vec<String>,
    /// How long one request may take.
    pub timeout: Duration,
}

#[derive(Clone, Debug)]
enum Entry {
    Known(Arc<Schema>),
    Failed { lookup: SchemaLookup, until: Instant },
    Asked,
}

#[derive(Default)]
struct Cache {
    entries: Mutex<HashMap<u32, Entry>>,
    answered: Condvar,
}

impl Cache {
    fn entries(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, id: u32, answer: Result<Arc<Schema>, SchemaLookup>, now: Instant) {
        let mut entries = self.entries();
        let entry = match answer {
            Ok(schema) => Entry::Known(schema),
            Err(lookup) => {
                let life = match lookup {
                    SchemaLookup::Unavailable(_) => UNAVAILABLE_LIFE,
                    SchemaLookup::Unknown | SchemaLookup::Invalid(_) => REFUSAL_LIFE,
                };
                Entry::Failed { lookup, until: now + life }
            }
        };
        make_room(&mut entries, matches!(entry, Entry::Known(_)));
        entries.insert(id, entry);
        drop(entries);
        self.answered.notify_all();
    }
}

/// Keeps both kinds within their bounds. Which one goes is left to chance: whoever needs it asks again.
fn make_room(entries: &mut HashMap<u32, Entry>, known: bool) {
    let of_kind = |entry: &Entry| match entry {
        Entry::Known(_) => known,
        Entry::Failed { .. } => !known,
        Entry::Asked => false,
    };
    let max = if known { KNOWN_MAX } else { FAILED_MAX };
    if entries.values().filter(|entry| of_kind(entry)).count() >= max
        && let Some(&id) = entries.iter().find(|(_, entry)| of_kind(entry)).map(|(id, _)| id)
    {
        entries.remove(&id);
    }
}

/// A registry's schemas. Dropping it ends its thread, after the request under way.
pub struct SchemaRegistry {
    cache: Arc<Cache>,
    ask: Option<SyncSender<u32>>,
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
        let cache = Arc::new(Cache::default());
        let (ask, asked) = sync_channel(ASKED_MAX);
        let thread = std::thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn({
                let cache = Arc::clone(&cache);
                move || fetch(&settings, &asked, &cache)
            })
            .map_err(|source| RegistryError::Thread { name: THREAD, source })?;
        Ok(Self { cache, ask: Some(ask), thread: Some(thread) })
    }
}

impl WriterSchemas for SchemaRegistry {
    /// Waits up to [`PATIENCE`] for an id that is not known; then it is unavailable, and known or refused later.
    fn by_id(&self, id: u32) -> Result<Arc<Schema>, SchemaLookup> {
        let now = Instant::now();
        let mut entries = self.cache.entries();
        match entries.get(&id) {
            Some(Entry::Known(schema)) => return Ok(Arc::clone(schema)),
            Some(Entry::Failed { lookup, until }) if now < *until => return Err(lookup.clone()),
            Some(Entry::Asked) => {}
            Some(Entry::Failed { .. }) | None => {
                let sent = self.ask.as_ref().is_some_and(|ask| ask.try_send(id).is_ok());
                if !sent {
                    return Err(SchemaLookup::Unavailable("too many schema ids are being asked for".to_owned()));
                }
                entries.insert(id, Entry::Asked);
            }
        }
        let waiting = |entries: &mut HashMap<u32, Entry>| matches!(entries.get(&id), Some(Entry::Asked));
        let waited = self.cache.answered.wait_timeout_while(entries, PATIENCE, waiting);
        match waited.unwrap_or_else(PoisonError::into_inner).0.get(&id) {
            Some(Entry::Known(schema)) => Ok(Arc::clone(schema)),
            Some(Entry::Failed { lookup, .. }) => Err(lookup.clone()),
            Some(Entry::Asked) | None => Err(SchemaLookup::Unavailable("the registry has not answered yet".to_owned())),
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

/// The thread. The client is made here, because a blocking HTTP client may not be made inside an asynchronous runtime.
fn fetch(settings: &SchemaRegistrySettings, asked: &Receiver<u32>, cache: &Cache) {
    let client = client(settings);
    for id in asked {
        let answer = match &client {
            Ok(client) => get_schema_by_id(id, client)
                .map_err(|error| lookup_of(&error))
                .and_then(|registered| parse(client, &registered)),
            Err(cause) => Err(SchemaLookup::Unavailable(cause.clone())),
        };
        if let Err(SchemaLookup::Unavailable(cause)) = &answer {
            tracing::warn!(id, cause, "schema registry does not answer; messages with this schema id wait");
        }
        cache.answer(id, answer.map(Arc::new), Instant::now());
    }
}

pub(super) fn client(settings: &SchemaRegistrySettings) -> Result<SrSettings, String> {
    let mut urls = settings.urls.iter().map(|url| url.trim_end_matches('/').to_owned());
    let mut builder = SrSettings::new_builder(urls.next().unwrap_or_default());
    for url in urls {
        builder.add_url(url);
    }
    builder.set_timeout(settings.timeout).build().map_err(|error| error.error)
}

/// The client's own `retriable` is false for an overloaded registry and for one that wants a password; only "not found"
/// says something about the id.
fn lookup_of(error: &SRCError) -> SchemaLookup {
    if error.error.contains("status 404") {
        return SchemaLookup::Unknown;
    }
    let cause = error.cause.as_deref().unwrap_or_default();
    SchemaLookup::Unavailable(format!("{} {cause}", error.error))
}

/// A registered schema, with what it refers to put in its place.
fn parse(client: &SrSettings, registered: &RegisteredSchema) -> Result<Schema, SchemaLookup> {
    let mut parts = Vec::new();
    let mut open: Vec<RegisteredReference> = registered.references.clone();
    let mut seen = Vec::new();
    check_type(registered)?;
    while let Some(reference) = open.pop() {
        let key = (reference.subject.clone(), reference.version);
        if seen.contains(&key) {
            continue;
        }
        if seen.len() >= REFERENCES_MAX {
            return Err(SchemaLookup::Invalid(format!("it refers to more than {REFERENCES_MAX} schemas")));
        }
        seen.push(key);
        let part = get_referenced_schema(client, &reference).map_err(|error| match lookup_of(&error) {
            SchemaLookup::Unknown => {
                SchemaLookup::Invalid(format!("it refers to {}, which is not registered", reference.name))
            }
            other => other,
        })?;
        check_type(&part)?;
        open.extend(part.references.iter().cloned());
        parts.push(part.schema);
    }
    complete(&registered.schema, &parts).map_err(|error| SchemaLookup::Invalid(error.to_string()))
}

fn check_type(registered: &RegisteredSchema) -> Result<(), SchemaLookup> {
    match &registered.schema_type {
        SchemaType::Avro => Ok(()),
        other => Err(SchemaLookup::Invalid(format!("its type is {other:?}"))),
    }
}

fn complete(schema: &str, parts: &[String]) -> Result<Schema, apache_avro::Error> {
    if parts.is_empty() {
        return Schema::parse_str(schema);
    }
    let (mut schema, parts) = Schema::parse_str_with_list(schema, parts)?;
    schema.denormalize(&parts)?;
    Ok(schema)
}

#[cfg(test)]
mod tests {
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
        let settings = SchemaRegistrySettings { urls: vec![format!("{url}/")], timeout: Duration::from_secs(2) };
        SchemaRegistry::start(settings).unwrap()
    }

    /// Asks until the answer is not "not yet".
    fn ask(registry: &SchemaRegistry, id: u32) -> Result<Arc<Schema>, SchemaLookup> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match registry.by_id(id) {
                Err(SchemaLookup::Unavailable(cause)) if cause.contains("not answered yet") => {
                    assert!(Instant::now() < deadline, "no answer");
                }
                answer => return answer,
            }
        }
    }

    fn body(schema: &str, more: &str) -> String {
        format!("{{\"schema\":{}{more}}}", serde_json::to_string(schema).unwrap())
    }

    #[test]
    fn an_id_is_asked_for_once_whether_there_is_a_schema_or_not() {
        let record = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;
        let (url, server) = serve(vec![("/schemas/ids/7", 200, body(record, ""))], 2);
        let registry = registry(&url);
        for _ in 0..3 {
            assert_eq!(*ask(&registry, 7).unwrap(), Schema::parse_str(record).unwrap());
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
        assert_eq!(*schema, Schema::parse_str(whole).unwrap());
        drop(server);
    }

    #[test]
    fn only_not_found_is_unknown_and_other_kinds_of_schema_are_invalid() {
        let answers = vec![
            ("/schemas/ids/1", 500, "{}".to_owned()),
            ("/schemas/ids/2", 401, "{}".to_owned()),
            ("/schemas/ids/3", 200, body("syntax = \"proto3\";", r#","schemaType":"PROTOBUF""#)),
            ("/schemas/ids/4", 200, body("{", "")),
        ];
        let (url, _server) = serve(answers, 4);
        let registry = registry(&url);
        assert!(matches!(ask(&registry, 1), Err(SchemaLookup::Unavailable(_))));
        assert!(matches!(ask(&registry, 2), Err(SchemaLookup::Unavailable(_))));
        assert!(matches!(ask(&registry, 3), Err(SchemaLookup::Invalid(_))));
        assert!(matches!(ask(&registry, 4), Err(SchemaLookup::Invalid(_))));
    }

    #[test]
    fn a_refusal_is_believed_for_a_while_and_the_tables_are_bounded() {
        let cache = Cache::default();
        let now = Instant::now();
        for id in 0..FAILED_MAX as u32 + 10 {
            cache.answer(id, Err(SchemaLookup::Unknown), now);
        }
        assert_eq!(cache.entries().len(), FAILED_MAX);
        let schema = Arc::new(Schema::Int);
        for id in 100_000..100_000 + KNOWN_MAX as u32 + 10 {
            cache.answer(id, Ok(Arc::clone(&schema)), now);
        }
        assert_eq!(cache.entries().len(), FAILED_MAX + KNOWN_MAX);
        cache.answer(1, Err(SchemaLookup::Unavailable("x".to_owned())), now);
        let entries = cache.entries();
        assert!(matches!(entries.get(&1), Some(Entry::Failed { until, .. }) if *until == now + UNAVAILABLE_LIFE));
    }

    #[test]
    fn a_schema_is_registered_under_its_topic() {
        let (url, server) = serve(vec![("/subjects/results-value/versions", 200, r#"{"id":41}"#.to_owned())], 1);
        let settings = SchemaRegistrySettings { urls: vec![url], timeout: Duration::from_secs(2) };
        let register = || crate::registry::register(&settings, "results", crate::codec::EventKind::InvocationResult);
        assert_eq!(register().unwrap(), 41);
        assert_eq!(server.join().unwrap().len(), 1);
        assert!(matches!(register(), Err(RegistryError::NotRegistered { subject, .. }) if subject == "results-value"));
    }

    #[test]
    fn without_a_url_there_is_no_registry() {
        let settings = SchemaRegistrySettings { urls: Vec::new(), timeout: Duration::from_secs(1) };
        assert!(matches!(SchemaRegistry::start(settings), Err(RegistryError::NoSchemaRegistryUrl)));
    }
}
