//! One question to a schema registry: the client that asks it, and what its answer means.
//!
//! Must not: remember an answer, or try again; `schemas` does.

use std::time::Duration;

use apache_avro::Schema;
use schema_registry_converter::blocking::schema_registry::{
    SrSettings, get_referenced_schema, get_schema_by_guid, get_schema_by_id,
};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{RawError, RegisteredReference, RegisteredSchema, SchemaType};

use crate::codec::{SchemaKey, SchemaLookup, WriterSchema};
use crate::config::{self, Config};
use crate::http::{self, HttpError};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most schemas that one schema may refer to, directly or not.
const REFERENCES_MAX: usize = 64;

/// Where the registry is, and how this node is known to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaRegistrySettings {
    /// Base URLs, tried in order; at least one.
    pub urls: Vec<String>,
    /// How long one request may take.
    pub timeout: Duration,
    /// Credentials and certificates, or the files that hold them.
    pub access: config::SchemaRegistry,
}

impl SchemaRegistrySettings {
    /// The configured registry; None where there is none.
    pub fn of(config: &Config) -> Option<Self> {
        let urls = config.kafka.schema_registry_url.split(',').map(str::trim);
        let urls: Vec<String> = urls.filter(|url| !url.is_empty()).map(str::to_owned).collect();
        (!urls.is_empty()).then(|| Self { urls, timeout: TIMEOUT, access: config.schema_registry.clone() })
    }

    /// A client, by what the files hold now. Not for a thread that runs asynchronous code.
    pub(in crate::registry) fn client(&self) -> Result<SrSettings, HttpError> {
        let access = &self.access;
        let mut urls = self.urls.iter().map(|url| url.trim_end_matches('/').to_owned());
        let mut builder = SrSettings::new_builder(urls.next().unwrap_or_default());
        for url in urls {
            builder.add_url(url);
        }
        if let Some(token) = http::secret(&access.token, "schema-registry.token-file", &access.token_file)? {
            builder.set_token_authorization(&token);
        } else if !access.user.is_empty() {
            let password = http::secret(&access.password, "schema-registry.password-file", &access.password_file)?;
            builder.set_basic_authorization(&access.user, password.as_deref());
        }
        let client = http::builder(self.urls.iter(), Some(access.tls()), self.timeout)?;
        let made = builder.set_timeout(self.timeout).build_with(client);
        made.map_err(|error| HttpError::Client { fault: http::told(&error) })
    }
}

/// What came of a question.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The schema.
    Known(WriterSchema),
    /// The registry has no such schema, or none that is read here.
    Refused(SchemaLookup),
    /// It may answer later.
    Failed(Fault),
}

/// Why a registry gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Fault {
    /// The status of HTTP; None where there was no answer at all.
    pub(in crate::registry) status: Option<u16>,
    /// The words of the client or of the registry. Foreign text.
    pub(in crate::registry) cause: String,
}

impl Fault {
    /// An answer that cannot be read is one all the same.
    pub(in crate::registry) fn of(error: &SRCError) -> Self {
        let status = error.error.rsplit_once("with status ").and_then(|(_, status)| status.get(..3)?.parse().ok());
        let source = std::error::Error::source(error);
        let is_silent =
            source.and_then(|source| source.downcast_ref::<reqwest::Error>()).is_some_and(|error| !error.is_decode());
        let cause = match source {
            // Its words name the address, and its causes the reason.
            Some(source) if is_silent => http::told(source),
            Some(source) => format!("{}: {}", error.error, http::told(source)),
            None => error.error.clone(),
        };
        Self { status: status.or((!is_silent).then_some(200)), cause }
    }

    /// Whether it may be of the files that say how this node is known and whom it believes: they may hold others by now.
    pub(super) const fn may_be_of_files(&self) -> bool {
        matches!(self.status, None | Some(401 | 403))
    }

    /// What somebody can do.
    pub(in crate::registry) const fn advice(&self) -> &'static str {
        match self.status {
            Some(401) => {
                "check schema-registry.user and its password-file, or token-file; files are read again at each attempt"
            }
            Some(403) => {
                "have the registry let this node read schemas (schema-registry.user or token-file says who it is)"
            }
            Some(404) => "check that kafka.schema-registry-url is the registry's base address",
            Some(_) => "look at the registry's own log",
            None => {
                "check kafka.schema-registry-url, that the registry runs, and schema-registry.ca-file where its certificate is refused"
            }
        }
    }
}

/// Asks for one schema, and for all that it refers to.
pub(super) fn ask(client: &SrSettings, key: SchemaKey) -> Answer {
    let asked = match key {
        SchemaKey::Id(id) => get_schema_by_id(id, client),
        SchemaKey::Guid(guid) => get_schema_by_guid(&uuid::Uuid::from_bytes(guid).to_string(), client),
    };
    match asked {
        Ok(registered) => read(client, &registered).unwrap_or_else(|answer| answer),
        Err(error) if is_unknown(&error) => Answer::Refused(SchemaLookup::Unknown),
        Err(error) => Answer::Failed(Fault::of(&error)),
    }
}

/// Whether the registry itself says that there is no such schema (40403), subject (40401) or version (40402). Another "not found" is
/// of something that stands in the registry's place.
fn is_unknown(error: &SRCError) -> bool {
    let raw = std::error::Error::source(error).and_then(|source| source.downcast_ref::<RawError>());
    raw.is_some_and(|raw| matches!(raw.error_code, 40401..=40403))
}

/// A registered schema, with what it refers to put in its place.
fn read(client: &SrSettings, registered: &RegisteredSchema) -> Result<Answer, Answer> {
    let invalid = |cause: String| Answer::Refused(SchemaLookup::Invalid(cause));
    match registered.schema_type {
        SchemaType::Json => return Ok(Answer::Known(WriterSchema::Json)),
        _ => check_type(&registered.schema_type).map_err(invalid)?,
    }
    let mut parts = Vec::new();
    let mut open: Vec<RegisteredReference> = registered.references.clone();
    let mut seen = Vec::new();
    while let Some(reference) = open.pop() {
        let key = (reference.subject.clone(), reference.version);
        if seen.contains(&key) {
            continue;
        }
        if seen.len() >= REFERENCES_MAX {
            return Err(invalid(format!("it refers to more than {REFERENCES_MAX} schemas")));
        }
        seen.push(key);
        let part = get_referenced_schema(client, &reference).map_err(|error| {
            if is_unknown(&error) {
                invalid(format!("it refers to {}, which is not registered", reference.name))
            } else {
                Answer::Failed(Fault::of(&error))
            }
        })?;
        check_type(&part.schema_type).map_err(invalid)?;
        open.extend(part.references.iter().cloned());
        parts.push(part.schema);
    }
    let schema = complete(&registered.schema, &parts).map_err(|error| invalid(error.to_string()))?;
    Ok(Answer::Known(WriterSchema::Avro(schema.into())))
}

fn check_type(schema_type: &SchemaType) -> Result<(), String> {
    let name = match schema_type {
        SchemaType::Avro => return Ok(()),
        SchemaType::Protobuf => "Protobuf",
        SchemaType::Json => "JSON Schema",
        SchemaType::Other(other) => other,
        _ => "of no kind that is known",
    };
    Err(format!(
        "its type is {name}, which is not read here; use the Avro or the JSON Schema serializer, or plain JSON with the header \
         content-type: application/json"
    ))
}

fn complete(schema: &str, parts: &[String]) -> Result<Schema, apache_avro::Error> {
    if parts.is_empty() {
        return Schema::parse_str(schema);
    }
    let (mut schema, parts) = Schema::parse_str_with_list(schema, parts)?;
    schema.denormalize(&parts)?;
    Ok(schema)
}
