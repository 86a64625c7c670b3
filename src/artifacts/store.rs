//! Where artifacts come from: `file://` addresses, and a directory in which each is named by its digest.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::leftovers;
use super::roots::{self, Unopened};
use crate::config;
use crate::types::{Artifact, Sha256};

/// The scheme of the directory store.
const STORE_SCHEME: &str = "store:";
const FILE_SCHEME: &str = "file://";
const EXTENSION: &str = ".wasm";

/// Why an artifact cannot be had.
///
/// What is displayed reaches callers of a function, and names no digest that was found and no path of this machine;
/// [`detail`](Self::detail) does, for the log.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The file cannot be read, or is not there yet. It may be later.
    #[error("the artifact cannot be read ({})", source.kind())]
    Read {
        /// The artifact's address.
        uri: String,
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("artifact not stored in {path}: {source}; check artifacts.directory")]
    Write {
        /// The directory.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// The bytes are other bytes.
    #[error(
        "the artifact is not the one that was registered: its SHA-256 is another one; register it anew, or restore the file"
    )]
    Digest {
        /// The artifact's address.
        uri: String,
        /// What was registered.
        expected: Sha256,
        /// What is there.
        found: Sha256,
    },
    /// It is too large.
    #[error("the artifact is larger than artifacts.bytes-max ({bytes_max} bytes)")]
    TooLarge {
        /// The artifact's address.
        uri: String,
        /// The bound (inclusive).
        bytes_max: u64,
    },
    /// The address is of no kind that is known here.
    #[error(
        "the artifact's address is not usable: give kafka:TOPIC/PARTITION/FIRST-LAST of topics.artifacts, file:///absolute/path, or \
         \"store:\" for artifacts.directory"
    )]
    Address {
        /// The artifact's address.
        uri: String,
    },
    /// The address is of a place that this node does not read.
    #[error("the artifact's address is in none of the folders of artifacts.file-roots")]
    Outside {
        /// The artifact's address.
        uri: String,
    },
    /// What is there is no regular file.
    #[error("the artifact is no regular file")]
    NoFile {
        /// The artifact's address.
        uri: String,
    },
    /// Reading it took too long. It may not, later.
    #[error("the artifact was not read within {patience:?} (artifacts.read-timeout)")]
    Late {
        /// How long it was waited for.
        patience: Duration,
    },
    /// The topic does not give it.
    #[error("the artifact is not in the topic that its definition names: {reason}")]
    Topic {
        /// The artifact's address.
        uri: String,
        /// Why, without digests and paths.
        reason: String,
        /// Whether it may be there later.
        may_pass: bool,
    },
    /// The topic does not take it.
    #[error("the artifact was not put in topic {topic}: {reason}")]
    NotPut {
        /// The topic.
        topic: String,
        /// Why.
        reason: String,
    },
    /// It is too large for a topic.
    #[error(
        "the artifact has {bytes} bytes, and {bytes_max} go by a topic: put it in a folder of artifacts.file-roots that every node has, \
         and deploy it with --in-place, or set artifacts.store = \"directory\""
    )]
    TooLargeForTopic {
        /// Its bytes.
        bytes: u64,
        /// The bound (inclusive).
        bytes_max: u64,
    },
    /// Too many others are still being read, past their time.
    #[error("{readers} artifacts are being read, and their file systems do not answer")]
    Busy {
        /// How many.
        readers: usize,
    },
}

impl ArtifactError {
    /// Whether another try may succeed without anything being registered anew.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Late { .. } | Self::Busy { .. } | Self::Topic { may_pass: true, .. })
    }

    /// All that is known, for the node's own log.
    pub fn detail(&self) -> String {
        match self {
            Self::Read { uri, path, source } => format!("artifact {uri} at {} not read: {source}", path.display()),
            Self::Digest { uri, expected, found } => {
                format!("artifact {uri} has the SHA-256 {found}, and {expected} was registered")
            }
            Self::TooLarge { uri, .. } | Self::Address { uri } | Self::Outside { uri } | Self::NoFile { uri } => {
                format!("{self}: {uri}")
            }
            Self::Topic { uri, reason, .. } => format!("artifact {uri} not read: {reason}"),
            Self::Write { .. }
            | Self::Late { .. }
            | Self::Busy { .. }
            | Self::NotPut { .. }
            | Self::TooLargeForTopic { .. } => self.to_string(),
        }
    }
}

/// Something that has artifacts.
pub trait ArtifactStore: Send + Sync + 'static {
    /// The artifact's bytes, whose digest is the registered one. May block.
    ///
    /// # Errors
    /// See [`ArtifactError`].
    fn fetch(&self, artifact: &Artifact) -> Result<Vec<u8>, ArtifactError>;

    /// How long [`fetch`](Self::fetch) is waited for.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// Files: those of one directory, and those below some folders that `file://` names.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    directory: PathBuf,
    bytes_max: u64,
    file_roots: Vec<PathBuf>,
    read_timeout: Duration,
}

impl DirectoryStore {
    /// The store that the configuration names; its directory is made when something is put in. Files that a killed process
    /// left half written are removed.
    pub fn open(config: &config::Artifacts) -> Self {
        leftovers::remove(&config.directory, SystemTime::now());
        Self {
            directory: config.directory.clone(),
            bytes_max: config.bytes_max.get(),
            file_roots: config.file_roots.clone(),
            read_timeout: config.read_timeout,
        }
    }

    /// Puts bytes in and answers their address. The same bytes a second time make them young again for
    /// [`prune`](Self::prune), and change nothing else.
    ///
    /// # Errors
    /// Where they are too large or the directory cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Artifact, ArtifactError> {
        let artifact = Artifact { uri: STORE_SCHEME.to_owned(), sha256: Sha256::of(bytes) };
        if bytes.len() as u64 > self.bytes_max {
            return Err(ArtifactError::TooLarge { uri: artifact.uri, bytes_max: self.bytes_max });
        }
        let path = self.path_of(artifact.sha256);
        if fs::read(&path).is_ok_and(|there| Sha256::of(&there) == artifact.sha256) {
            // Where its time cannot be set, it was put in by another user, and goes as early as that one's.
            let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
            return Ok(artifact);
        }
        let fault = |source| ArtifactError::Write { path: self.directory.clone(), source };
        fs::create_dir_all(&self.directory).map_err(fault)?;
        write_whole(&self.directory, &path, bytes).map_err(fault)?;
        Ok(artifact)
    }

    /// The store in a tenant's folder of this one; `None` where the name can be no folder's.
    pub fn of(&self, tenant: &str) -> Option<Self> {
        Artifact::is_folder(tenant).then(|| Self { directory: self.directory.join(tenant), ..self.clone() })
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The digest of the artifact whose file has that name; `None` where it is no artifact's.
    pub(super) fn digest_of(name: &str) -> Option<Sha256> {
        name.strip_suffix(EXTENSION)?.parse().ok()
    }

    fn path_of(&self, digest: Sha256) -> PathBuf {
        self.directory.join(format!("{digest}{EXTENSION}"))
    }

    /// The folder that an artifact is below, and where below it.
    fn locate(&self, artifact: &Artifact) -> Result<(&Path, PathBuf), ArtifactError> {
        let address = || ArtifactError::Address { uri: artifact.uri.clone() };
        if let Some(folder) = artifact.folder() {
            let file = format!("{}{EXTENSION}", artifact.sha256);
            return Artifact::is_folder(folder)
                .then(|| (&*self.directory, Path::new(folder).join(file)))
                .ok_or_else(address);
        }
        if artifact.uri == STORE_SCHEME {
            return Ok((&self.directory, format!("{}{EXTENSION}", artifact.sha256).into()));
        }
        let path = Path::new(artifact.uri.strip_prefix(FILE_SCHEME).ok_or_else(address)?);
        if !path.is_absolute() {
            return Err(address());
        }
        let mut below = self.file_roots.iter().filter_map(|root| Some((root, path.strip_prefix(root).ok()?)));
        let (root, rest) = below.next().ok_or_else(|| ArtifactError::Outside { uri: artifact.uri.clone() })?;
        Ok((root, rest.to_owned()))
    }
}

impl ArtifactStore for DirectoryStore {
    fn fetch(&self, artifact: &Artifact) -> Result<Vec<u8>, ArtifactError> {
        let (root, rest) = self.locate(artifact)?;
        let uri = || artifact.uri.clone();
        let read = |source| ArtifactError::Read { uri: uri(), path: root.join(&rest), source };
        let too_large = || ArtifactError::TooLarge { uri: uri(), bytes_max: self.bytes_max };
        let file = match roots::open_below(root, &rest) {
            Ok(file) => file,
            Err(Unopened::Outside) => return Err(ArtifactError::Outside { uri: uri() }),
            Err(Unopened::NoFile) => return Err(ArtifactError::NoFile { uri: uri() }),
            Err(Unopened::Io(source)) => return Err(read(source)),
        };
        if file.metadata().map_err(read)?.len() > self.bytes_max {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        // The file may grow between the two looks: the bound holds for what is read.
        file.take(self.bytes_max + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > self.bytes_max {
            return Err(too_large());
        }
        let found = Sha256::of(&bytes);
        if found != artifact.sha256 {
            return Err(ArtifactError::Digest { uri: uri(), expected: artifact.sha256, found });
        }
        Ok(bytes)
    }

    fn patience(&self) -> Duration {
        self.read_timeout
    }
}

/// Writes a file that is either there whole or not there at all.
fn write_whole(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(leftovers::PREFIX).tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|fault| fault.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    /// A store in `in/here` of a folder, below which files may be named, too.
    fn settings(directory: &tempfile::TempDir) -> config::Artifacts {
        config::Artifacts {
            store: config::Store::Directory,
            directory: directory.path().join("in/here"),
            bytes_max: NonZeroU64::new(10).unwrap(),
            file_roots: vec![directory.path().to_owned()],
            read_timeout: Duration::from_secs(30),
        }
    }

    fn store() -> (tempfile::TempDir, DirectoryStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(&settings(&directory));
        (directory, store)
    }

    #[test]
    fn what_was_put_in_comes_out_and_twice_is_once() {
        let (_directory, store) = store();
        let artifact = store.put(b"bytes").unwrap();
        assert_eq!(store.put(b"bytes").unwrap(), artifact);
        assert_eq!(store.fetch(&artifact).unwrap(), b"bytes");
    }

    #[test]
    fn what_a_killed_process_left_goes_when_the_store_is_opened() {
        let (directory, store) = store();
        let artifact = store.put(b"bytes").unwrap();
        let left = directory.path().join("in/here/.tmpAbC");
        let old = SystemTime::now() - 2 * leftovers::LEFT_OVER_AFTER;
        File::create(&left).unwrap().set_modified(old).unwrap();
        let store = DirectoryStore::open(&settings(&directory));
        assert!(!left.exists() && store.fetch(&artifact).is_ok());
    }

    #[test]
    fn a_damaged_file_is_refused_and_put_in_anew() {
        let (_directory, store) = store();
        let artifact = store.put(b"bytes").unwrap();
        fs::write(store.path_of(artifact.sha256), b"other").unwrap();
        let fault = store.fetch(&artifact).unwrap_err();
        assert!(matches!(fault, ArtifactError::Digest { .. }) && !fault.retryable(), "{fault}");
        store.put(b"bytes").unwrap();
        assert_eq!(store.fetch(&artifact).unwrap(), b"bytes");
    }

    #[test]
    fn what_is_not_there_may_come_and_what_is_too_large_never() {
        let (directory, store) = store();
        let missing = Artifact { uri: "store:".to_owned(), sha256: Sha256::of(b"x") };
        assert!(store.fetch(&missing).unwrap_err().retryable());
        assert!(matches!(store.put(b"01234567890"), Err(ArtifactError::TooLarge { bytes_max: 10, .. })));
        let path = directory.path().join("large");
        fs::write(&path, b"01234567890").unwrap();
        let large = Artifact { uri: format!("file://{}", path.display()), sha256: Sha256::of(b"01234567890") };
        assert!(matches!(store.fetch(&large), Err(ArtifactError::TooLarge { .. })));
    }

    #[test]
    fn a_tenants_artifacts_are_in_its_folder_and_nowhere_else() {
        let (_directory, store) = store();
        let put = store.of("acme").unwrap().put(b"acme's").unwrap();
        let of = |uri: &str| store.fetch(&Artifact { uri: uri.to_owned(), sha256: put.sha256 });
        assert_eq!(of("store:acme").unwrap(), b"acme's");
        for elsewhere in ["store:", "store:beta"] {
            assert!(of(elsewhere).unwrap_err().retryable(), "{elsewhere}");
        }
    }

    #[test]
    fn other_addresses_are_refused() {
        let (_directory, store) = store();
        for uri in
            ["http://somewhere/x.wasm", "file://relative", "store:../other", "store:a/b", "store:.", "", "/plain/path"]
        {
            let artifact = Artifact { uri: uri.to_owned(), sha256: Sha256::of(b"") };
            assert!(matches!(store.fetch(&artifact), Err(ArtifactError::Address { .. })), "{uri}");
        }
    }

    #[test]
    fn files_are_read_below_the_roots_alone_and_callers_are_told_no_path_and_no_digest() {
        let (directory, store) = store();
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, b"secret").unwrap();
        std::os::unix::fs::symlink(&secret, directory.path().join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), directory.path().join("folder")).unwrap();
        fs::write(directory.path().join("other"), b"other").unwrap();
        let fetch = |path: PathBuf| {
            let uri = format!("file://{}", path.display());
            store.fetch(&Artifact { uri, sha256: Sha256::of(b"expected") }).unwrap_err()
        };
        let up = directory.path().join("..").join(outside.path().file_name().unwrap()).join("secret");
        for path in [secret, directory.path().join("link"), directory.path().join("folder/secret"), up] {
            let fault = fetch(path);
            assert!(matches!(fault, ArtifactError::Outside { .. }) && !fault.retryable(), "{fault}");
        }
        let fault = fetch(directory.path().join("other"));
        assert!(matches!(fault, ArtifactError::Digest { .. }), "{fault}");
        let (digest, path) = (Sha256::of(b"other").to_string(), directory.path().display().to_string());
        assert!(!fault.to_string().contains(&digest) && fault.detail().contains(&digest), "{fault}");
        let fault = fetch(directory.path().join("missing"));
        assert!(fault.retryable() && !fault.to_string().contains(&path) && fault.detail().contains(&path), "{fault}");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting_for_it() {
        let (directory, store) = store();
        let fifo = directory.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        fs::create_dir(directory.path().join("a-folder")).unwrap();
        for name in ["fifo", "a-folder"] {
            let uri = format!("file://{}/{name}", directory.path().display());
            let fault = store.fetch(&Artifact { uri, sha256: Sha256::of(b"") }).unwrap_err();
            assert!(matches!(fault, ArtifactError::NoFile { .. }) && !fault.retryable(), "{name}: {fault}");
        }
    }

    #[test]
    fn without_roots_no_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(&config::Artifacts { file_roots: Vec::new(), ..settings(&directory) });
        fs::write(directory.path().join("a"), b"bytes").unwrap();
        let artifact =
            Artifact { uri: format!("file://{}/a", directory.path().display()), sha256: Sha256::of(b"bytes") };
        assert!(matches!(store.fetch(&artifact), Err(ArtifactError::Outside { .. })));
    }
}
