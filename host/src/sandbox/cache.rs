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

    pub(super) fn load_or_compile(
        &self,
        engine: &Engine,
        hash: ModuleHash,
        bytes: &[u8],
    ) -> wasmtime::Result<Component> {
        let mut make = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut make);
        let path = self.folder.join(format!("{hash}-{:016x}.cwasm", make.finish()));
        if let Some(component) = self.load(engine, &path) {
            return Ok(component);
        }
        let component = Component::new(engine, bytes)?;
        if let Err(error) = self.keep(&path, &component.serialize()?) {
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

    fn load(&self, engine: &Engine, path: &std::path::Path) -> Option<Component> {
        let kept = fs::read(path).ok()?;
        let (hash, compiled) = kept.split_at_checked(32)?;
        if Hash::of(compiled).0 != hash {
            tracing::warn!(path = %path.display(), "a kept compiled module is damaged; compiling it again");
            return None;
        }
        // SAFETY: the bytes are what `keep` wrote, by their hash. Whoever can
        // replace both in the data folder can replace the journal as well.
        #[allow(unsafe_code)]
        unsafe { Component::deserialize(engine, compiled) }.ok()
    }

    /// Written aside and renamed, so that no reader finds half of it.
    fn keep(&self, path: &std::path::Path, compiled: &[u8]) -> std::io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let aside = path.with_extension(format!("{}.part", std::process::id()));
        let mut file = fs::File::create(&aside)?;
        file.write_all(&Hash::of(compiled).0)?;
        file.write_all(compiled)?;
        drop(file);
        fs::rename(aside, path)
    }
}
