//! A guest's whole state between two turns, copied out and back.
//!
//! Between turns nothing of a guest is on any stack: its memories, its mutable
//! globals and the recorder of its execution are all there is. A [`Snapshot`] is
//! a copy of them, good for that module only, and a cache: the history stays the
//! truth, and what cannot be restored is replayed instead. Snapshots need a
//! sandbox from [`Sandbox::inspecting`](super::Sandbox::inspecting).
//!
//! What a snapshot does not have are handles, which live in the host: a guest
//! that holds one (it wrote to its standard output, say) goes back only in the
//! very guest that still holds it.

mod stored;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmtime::{AsContext as _, AsContextMut as _, Global, Memory, Mutability, Store, Val};

use super::OrchestrationModule;
use super::guest::{Guest, GuestState};
use super::layout::Stack;
use super::wasi::Lines;
use crate::core::ids::{Hash, ModuleHash};
use crate::core::turn::Recorder;

/// Memory is kept and compared in pieces of this size, bytes: those that did not
/// change since the snapshot before are shared with it.
const PIECE: usize = 4096;

/// A guest's state. See the module's page. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    module: ModuleHash,
    guest: u64,
    memories: Vec<Image>,
    globals: Vec<Word>,
    handles: BTreeSet<u32>,
    lines: Lines,
    recorder: Recorder,
}

/// One memory, in pieces; none: all zero.
#[derive(Clone, Debug, Default)]
struct Image(Vec<Option<Arc<[u8]>>>);

/// The bits of a global.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
    V128(u128),
}

/// Where a guest's state is.
#[derive(Clone, Debug)]
pub(super) struct Places {
    memories: Vec<Memory>,
    globals: Vec<Global>,
    /// The stack of the first memory, with the global that points into it.
    stack: Option<(Global, Stack)>,
}

/// Why a state cannot be copied out or back: replay the history instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotCopy {
    /// The sandbox does not show what is inside a guest.
    #[error("the sandbox is not an inspecting one")]
    NotInspecting,
    /// The module keeps state where a snapshot does not reach.
    #[error("the module's state is not all in memory: {0}")]
    Beyond(&'static str),
    /// A snapshot of another module.
    #[error("the snapshot is of module {of}, the guest runs {found}")]
    OtherModule {
        /// The snapshot's.
        of: String,
        /// The guest's.
        found: String,
    },
    /// A snapshot with other memories or globals than the module has.
    #[error("the snapshot has other memories and globals than the guest")]
    OtherShape,
    /// Memory never shrinks.
    #[error("the guest's memory has grown since; take a fresh guest")]
    Grown,
    /// A handle of the snapshot is no longer there.
    #[error("the guest held handles that are not there any more")]
    Handles,
    /// There is no room for the snapshot's memory.
    #[error("the host has no memory for it: {0}")]
    NoMemory(String),
}

impl Snapshot {
    /// The recorder as it was.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Bytes of guest memory in it.
    pub fn bytes(&self) -> usize {
        self.bytes_beyond(None)
    }

    /// Whether any guest of the module can take it, and not only the one it is of.
    pub fn fits_any_guest(&self) -> bool {
        self.handles.is_empty()
    }

    /// Bytes of memory that this snapshot keeps and `other` does not.
    pub fn bytes_beyond(&self, other: Option<&Self>) -> usize {
        let theirs = |memory: usize, at: usize| other.and_then(|o| o.memories.get(memory)?.0.get(at)?.as_ref());
        let own = self.memories.iter().enumerate().flat_map(|(memory, image)| {
            let pieces = image.0.iter().enumerate().filter_map(|(at, piece)| Some((at, piece.as_ref()?)));
            pieces.filter(move |(at, piece)| theirs(memory, *at).is_none_or(|their| !Arc::ptr_eq(piece, their)))
        });
        own.count() * PIECE
    }
}

impl OrchestrationModule {
    /// Whether the state of its guests can be copied out and back.
    pub fn can_be_copied(&self) -> bool {
        self.layout.as_ref().is_some_and(|layout| layout.beyond.is_none())
    }
}

impl Guest {
    /// Copies the state out. Pieces of memory that are as in `like` (the snapshot
    /// before, usually) are shared with it. Only between turns.
    ///
    /// # Errors
    /// [`CannotCopy`], if this state cannot be had.
    pub fn snapshot(&mut self, like: Option<&Snapshot>) -> Result<Snapshot, CannotCopy> {
        let places = self.places()?;
        let image = |(index, memory): (usize, &Memory)| {
            let like = like.and_then(|like| like.memories.get(index));
            Image::of(memory.data(&self.store), like)
        };
        let memories = places.memories.iter().enumerate().map(image).collect();
        let globals = places.globals.iter().map(|global| Word::of(&global.get(&mut self.store))).collect();
        let state = self.store.data();
        Ok(Snapshot {
            module: self.module,
            guest: state.handles.guest,
            memories,
            globals,
            handles: state.handles.held.clone(),
            lines: state.lines.clone(),
            recorder: self.recorder().clone(),
        })
    }

    /// Puts a state back, with its recorder. This guest must not have trapped. It
    /// is as it was on an error.
    ///
    /// # Errors
    /// [`CannotCopy`], if this guest cannot take that state.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), CannotCopy> {
        let places = self.places()?;
        if snapshot.module != self.module {
            return Err(CannotCopy::OtherModule { of: snapshot.module.short(), found: self.module.short() });
        }
        if (places.memories.len(), places.globals.len()) != (snapshot.memories.len(), snapshot.globals.len()) {
            return Err(CannotCopy::OtherShape);
        }
        let held = &self.store.data().handles;
        if !snapshot.handles.is_empty() && (held.guest != snapshot.guest || !snapshot.handles.is_subset(&held.held)) {
            return Err(CannotCopy::Handles);
        }
        let sizes = places.memories.iter().zip(&snapshot.memories);
        if sizes.clone().any(|(memory, image)| memory.data_size(&self.store) > image.0.len() * PIECE) {
            return Err(CannotCopy::Grown);
        }
        for (memory, image) in sizes {
            let missing = image.0.len() * PIECE - memory.data_size(&self.store);
            let pages = missing as u64 / memory.page_size(&self.store);
            memory.grow(&mut self.store, pages).map_err(|error| CannotCopy::NoMemory(format!("{error:#}")))?;
        }
        for (memory, image) in places.memories.iter().zip(&snapshot.memories) {
            image.write(memory.data_mut(&mut self.store));
        }
        for (global, word) in places.globals.iter().zip(&snapshot.globals) {
            global.set(&mut self.store, word.value()).expect("a mutable global of that type");
        }
        let state = self.store.data_mut();
        state.lines = snapshot.lines.clone();
        state.recorder = Some(Box::new(snapshot.recorder.clone()));
        Ok(())
    }

    /// A hash of everything in the guest that can decide what it does next: its
    /// memories without the dead part of its stack, and its globals. The recorder
    /// is not in it. Equal hashes: equal states; the other way round does not
    /// hold, since a guest may leave garbage behind.
    ///
    /// # Errors
    /// [`CannotCopy`], if this state cannot be had.
    pub fn state_hash(&mut self) -> Result<Hash, CannotCopy> {
        let places = self.places()?;
        let dead = places.stack.as_ref().map_or(0, |(pointer, stack)| match pointer.get(&mut self.store) {
            Val::I32(at) if at as u32 == stack.top => stack.top as usize,
            _ => 0,
        });
        let mut hasher = blake3::Hasher::new();
        for (index, memory) in places.memories.iter().enumerate() {
            let data = memory.data(&self.store);
            hasher.update(&(data.len() as u64).to_le_bytes());
            let dead = if index == 0 { dead / PIECE } else { 0 };
            for (at, piece) in data.chunks(PIECE).enumerate().skip(dead).filter(|(_, piece)| !is_zero(piece)) {
                hasher.update(&(at as u64).to_le_bytes());
                hasher.update(piece);
            }
        }
        for global in &places.globals {
            hasher.update(&Word::of(&global.get(&mut self.store)).bits().to_le_bytes());
        }
        Ok(Hash(*hasher.finalize().as_bytes()))
    }

    /// A hash of every byte of the guest's memory, dead or alive. None where the memory cannot
    /// be seen: the guest is called through its component, in a sandbox that does not inspect.
    pub fn memory_hash(&mut self) -> Option<Hash> {
        let memory = match self.store.data().direct.memory() {
            Some(memory) => memory,
            None => *self.places().ok()?.memories.first()?,
        };
        Some(Hash::of(memory.data(&self.store)))
    }

    /// Whether its state can be copied out and back at all.
    pub fn is_inspected(&self) -> bool {
        self.layout.as_ref().is_some_and(|layout| layout.beyond.is_none())
    }

    /// The guest's memories, bytes. None where the sandbox does not show them.
    pub fn memory_bytes(&mut self) -> Option<usize> {
        let places = self.places().ok()?;
        Some(places.memories.iter().map(|memory| memory.data_size(&self.store)).sum())
    }

    fn places(&mut self) -> Result<Arc<Places>, CannotCopy> {
        let layout = self.layout.as_ref().ok_or(CannotCopy::NotInspecting)?;
        if let Some(beyond) = layout.beyond {
            return Err(CannotCopy::Beyond(beyond));
        }
        if let Some(places) = &self.places {
            return Ok(places.clone());
        }
        let places = Arc::new(Places::of(&mut self.store, layout.stack)?);
        self.places = Some(places.clone());
        Ok(places)
    }
}

impl Places {
    fn of(store: &mut Store<GuestState>, stack: Option<Stack>) -> Result<Self, CannotCopy> {
        let mut places = Self { memories: Vec::new(), globals: Vec::new(), stack: None };
        let (mut memories, mut globals) = (BTreeSet::new(), BTreeSet::new());
        for instance in store.debug_all_instances() {
            let imports_memory = instance
                .module(store.as_context())
                .imports()
                .any(|import| matches!(import.ty(), wasmtime::ExternType::Memory(_)));
            let mut owns_memory = false;
            for index in 0.. {
                let Some(memory) = instance.debug_memory(store.as_context_mut(), index) else { break };
                owns_memory |= !imports_memory;
                // What one module exports, another imports: it is one memory.
                if memories.insert(memory.debug_index_in_store()) {
                    places.memories.push(memory);
                }
            }
            for index in 0.. {
                let Some(global) = instance.debug_global(store.as_context_mut(), index) else { break };
                if let Some(stack) = stack.filter(|stack| owns_memory && stack.pointer == index) {
                    places.stack = Some((global, stack));
                }
                let ty = global.ty(&*store);
                if ty.mutability() == Mutability::Const || !globals.insert(global.debug_index_in_store()) {
                    continue;
                }
                if ty.content().is_ref() {
                    return Err(CannotCopy::Beyond("it has a global with a reference"));
                }
                places.globals.push(global);
            }
        }
        Ok(places)
    }
}

impl Image {
    fn of(memory: &[u8], like: Option<&Self>) -> Self {
        let piece = |(at, piece): (usize, &[u8])| match like.and_then(|like| like.0.get(at)) {
            Some(Some(same)) if **same == *piece => Some(same.clone()),
            _ if is_zero(piece) => None,
            _ => Some(piece.into()),
        };
        Self(memory.chunks(PIECE).enumerate().map(piece).collect())
    }

    /// Writes what differs: a page that is as it was needs not be touched.
    fn write(&self, memory: &mut [u8]) {
        for (kept, place) in self.0.iter().zip(memory.chunks_mut(PIECE)) {
            match kept {
                Some(kept) if **kept != *place => place.copy_from_slice(kept),
                None if !is_zero(place) => place.fill(0),
                _ => {}
            }
        }
    }
}

fn is_zero(piece: &[u8]) -> bool {
    // By words, which the compiler turns into wide loads.
    let (words, rest) = piece.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

impl Word {
    fn of(value: &Val) -> Self {
        match value {
            Val::I32(value) => Self::I32(*value),
            Val::I64(value) => Self::I64(*value),
            Val::F32(bits) => Self::F32(*bits),
            Val::F64(bits) => Self::F64(*bits),
            Val::V128(bits) => Self::V128(bits.as_u128()),
            _ => unreachable!("globals with references are refused"),
        }
    }

    fn value(self) -> Val {
        match self {
            Self::I32(value) => Val::I32(value),
            Self::I64(value) => Val::I64(value),
            Self::F32(bits) => Val::F32(bits),
            Self::F64(bits) => Val::F64(bits),
            Self::V128(bits) => Val::V128(bits.into()),
        }
    }

    fn bits(self) -> u128 {
        match self {
            Self::I32(value) => value as u32 as u128,
            Self::I64(value) => value as u64 as u128,
            Self::F32(bits) => bits.into(),
            Self::F64(bits) => bits.into(),
            Self::V128(bits) => bits,
        }
    }
}
