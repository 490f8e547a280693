//! Compiled modules on disk, so that a module is compiled once per machine.
//!
//! Keyed by the module's hash and by everything that decides what the compiler
//! makes of it (its version, its settings, the processor). The cache is never the
//! truth: what is missing, of another make or damaged is compiled again.

use std::borrow::Cow;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Result};

use crate::core::ids::{Hash, ModuleHash};

/// What a module was checked against before it was compiled: the contract, and the checks of
/// this version.
const CHECKED: [&str; 6] = [
    env!("CARGO_PKG_VERSION"),
    // Changes with what `direct` asks of a module.
    "2",
    include_str!("../../../wit/types.wit"),
    include_str!("../../../wit/context.wit"),
    include_str!("../../../wit/orchestration.wit"),
    include_str!("../../../wit/activity.wit"),
];

/// What is compiled of a module.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// All of it.
    Component,
    /// The core module inside of it, by itself.
    Core,
    /// What it is without the code of that.
    Types,
}

impl Part {
    /// How its files end.
    fn ending(self) -> &'static str {
        match self {
            Self::Component => "cwasm",
            Self::Core => "core.cwasm",
            Self::Types => "types.cwasm",
        }
    }
}

/// What bytes are compiled to.
pub(super) trait Compiled: Sized {
    fn compile(engine: &Engine, bytes: &[u8]) -> Result<Self>;

    fn serialize(&self) -> Result<Vec<u8>>;

    /// # Safety
    /// The bytes are what [`serialize`](Self::serialize) gave.
    #[allow(unsafe_code)]
    unsafe fn deserialize(engine: &Engine, compiled: &[u8]) -> Result<Self>;
}

macro_rules! compiled {
    ($type:ty) => {
        impl Compiled for $type {
            fn compile(engine: &Engine, bytes: &[u8]) -> Result<Self> {
                Self::new(engine, bytes)
            }

            fn serialize(&self) -> Result<Vec<u8>> {
                self.serialize()
            }

            #[allow(unsafe_code)]
            unsafe fn deserialize(engine: &Engine, compiled: &[u8]) -> Result<Self> {
                // SAFETY: as its caller says.
                unsafe { Self::deserialize(engine, compiled) }
            }
        }
    };
}
compiled!(Component);
compiled!(Module);

/// The folder that `DACAPO_CACHE` names, for compiled modules of all data folders and of
/// commands that have none. What is in there is run: nobody else may write to it.
pub fn shared_cache() -> Option<PathBuf> {
    std::env::var_os("DACAPO_CACHE").filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

pub(super) struct CompiledCache {
    folder: PathBuf,
}

impl CompiledCache {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// What a part of a module is compiled to. Where it is not kept, `source` gives the bytes,
    /// or says why they must not be compiled.
    pub(super) fn load_or_compile<'b, C: Compiled>(
        &self,
        engine: &Engine,
        hash: ModuleHash,
        part: Part,
        source: impl FnOnce() -> Result<Cow<'b, [u8]>>,
    ) -> Result<C> {
        let mut make = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut make);
        CHECKED.hash(&mut make);
        let path = self.folder.join(format!("{hash}-{:016x}.{}", make.finish(), part.ending()));
        if let Some(compiled) = self.load(engine, hash, &path) {
            return Ok(compiled);
        }
        let compiled = C::compile(engine, &source()?)?;
        if let Err(error) = self.keep(hash, &path, &compiled.serialize()?) {
            tracing::warn!(path = %path.display(), %error, "a compiled module could not be kept; it will be compiled again");
        }
        Ok(compiled)
    }

    /// Removes every compiled form of a module. What stays behind is only unused.
    pub(super) fn forget(&self, hash: ModuleHash) {
        let Ok(files) = fs::read_dir(&self.folder) else { return };
        let of_module = hash.to_string();
        for file in files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(&of_module)) {
            let _ = fs::remove_file(file.path());
        }
    }

    fn load<C: Compiled>(&self, engine: &Engine, module: ModuleHash, path: &std::path::Path) -> Option<C> {
        let kept = fs::read(path).ok()?;
        let (seal, compiled) = kept.split_at_checked(32)?;
        if sealed(module, compiled).0 != seal {
            tracing::warn!(
                path = %path.display(),
                "a kept compiled module is damaged, or of another module; compiling it again"
            );
            return None;
        }
        // SAFETY: the bytes are what `keep` wrote for that module, by their seal. Whoever can
        // replace both in the data folder can replace the journal as well.
        #[allow(unsafe_code)]
        unsafe { C::deserialize(engine, compiled) }.ok()
    }

    /// Written aside and renamed, so that no reader finds half of it.
    fn keep(&self, module: ModuleHash, path: &std::path::Path, compiled: &[u8]) -> std::io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        static KEPT: AtomicU64 = AtomicU64::new(0);
        let (process, number) = (std::process::id(), KEPT.fetch_add(1, Ordering::Relaxed));
        let aside = path.with_extension(format!("{process}-{number}.part"));
        let mut file = fs::File::create(&aside)?;
        file.write_all(&sealed(module, compiled).0)?;
        file.write_all(compiled)?;
        drop(file);
        fs::rename(aside, path)
    }
}

/// Compiled code is sealed together with the module that it was made of: a file
/// under another module's name is not taken for that one's code.
fn sealed(module: ModuleHash, compiled: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&module.0).update(compiled);
    Hash(hasher.finalize().into())
}
