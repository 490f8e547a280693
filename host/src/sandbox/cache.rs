//! Compiled modules on disk, so that a module is compiled once per machine.
//!
//! Keyed by the module's hash and by everything that decides what the compiler
//! makes of it (its version, its settings, the processor). The cache is never the
//! truth: what is missing, of another make or damaged is compiled again.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::io::Write as _;
use std::path::PathBuf;

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::core::ids::{Hash, ModuleHash};

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

    pub(super) fn load_or_compile(
        &self,
        engine: &Engine,
        hash: ModuleHash,
        bytes: &[u8],
    ) -> wasmtime::Result<Component> {
        let mut make = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut make);
        let path = self.folder.join(format!("{hash}-{:016x}.cwasm", make.finish()));
        if let Some(component) = self.load(engine, hash, &path) {
            return Ok(component);
        }
        let component = Component::new(engine, bytes)?;
        if let Err(error) = self.keep(hash, &path, &component.serialize()?) {
            tracing::warn!(path = %path.display(), %error, "a compiled module could not be kept; it will be compiled again");
        }
        Ok(component)
    }

    /// Removes every compiled form of a module. What stays behind is only unused.
    pub(super) fn forget(&self, hash: ModuleHash) {
        let Ok(files) = fs::read_dir(&self.folder) else { return };
        let of_module = hash.to_string();
        for file in files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(&of_module)) {
            let _ = fs::remove_file(file.path());
        }
    }

    fn load(&self, engine: &Engine, module: ModuleHash, path: &std::path::Path) -> Option<Component> {
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
        unsafe { Component::deserialize(engine, compiled) }.ok()
    }

    /// Written aside and renamed, so that no reader finds half of it.
    fn keep(&self, module: ModuleHash, path: &std::path::Path, compiled: &[u8]) -> std::io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let aside = path.with_extension(format!("{}.part", std::process::id()));
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
