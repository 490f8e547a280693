//! The canonical ABI in a guest's memory: how the nouns of the contract are laid out there,
//! read and written.
//!
//! Sizes, alignments and the order in which the guest's allocator is asked are those of the
//! component model's canonical ABI (32-bit memory, UTF-8 strings), so that a guest sees the same
//! addresses whether it is called this way or through the component's runtime.

use std::cell::Cell;
use std::sync::Arc;

use wasmtime::{Memory, Result, StoreContextMut, bail};

use super::{Direct, Parts, alone};
use crate::core::payload::JSON;
use crate::sandbox::types::JSON_TEXT;

/// Longest string or list that is handed over, bytes.
const MOST: usize = (1 << 31) - 1;

/// What a guest may have read of its memory in one call, bytes: what it points to may be the same
/// again and again. As in the component's runtime.
const MOST_READ: usize = 128 << 20;

/// What the canonical ABI says of a type in memory.
pub(super) trait Layout {
    /// Bytes of one.
    const SIZE: usize;
    /// What its address is a multiple of.
    const ALIGN: usize;
}

/// A guest's memory, from which the values of one call are read.
pub(super) struct Lift<'a> {
    memory: &'a [u8],
    /// Bytes that may still be read.
    left: Cell<usize>,
}

impl<'a> Lift<'a> {
    pub(super) fn new(memory: &'a [u8]) -> Self {
        Self { memory, left: Cell::new(MOST_READ) }
    }

    fn charge(&self, items: usize, bytes_each: usize) -> Result<()> {
        let left = items.checked_mul(bytes_each).and_then(|bytes| self.left.get().checked_sub(bytes));
        let Some(left) = left else { bail!("one call of a guest hands over more than {MOST_READ} bytes") };
        self.left.set(left);
        Ok(())
    }
}

/// A type that a guest hands over.
pub(super) trait Load: Layout + Sized {
    /// Reads one that begins at `at`, which is in the memory and aligned.
    ///
    /// # Errors
    /// If the guest left something there that is no such value.
    fn load(memory: &Lift<'_>, at: usize) -> Result<Self>;
}

/// A type that is handed to a guest.
pub(super) trait Store: Layout {
    /// Writes it to `at`, which is in the memory and aligned, and what it points to where the
    /// guest's allocator says.
    ///
    /// # Errors
    /// If the guest's allocator fails.
    fn store<S: Direct>(&self, into: &mut Lower<'_, S>, at: usize) -> Result<()>;
}

/// Reads a value at an address that the guest named.
pub(super) fn load<T: Load>(memory: &Lift<'_>, at: u32) -> Result<T> {
    let at = checked::<T>(memory.memory.len(), at, 1)?;
    T::load(memory, at)
}

/// A string in its two words.
pub(super) fn string(memory: &Lift<'_>, at: u32, len: u32) -> Result<String> {
    Ok(text(memory, at, len)?.to_owned())
}

/// A list of bytes in its two words.
pub(super) fn bytes<'a>(memory: &Lift<'a>, at: u32, len: u32) -> Result<&'a [u8]> {
    let at = checked::<u8>(memory.memory.len(), at, len)?;
    memory.charge(len as usize, 1)?;
    Ok(&memory.memory[at..at + len as usize])
}

/// A list in its two words.
pub(super) fn list<T: Load>(memory: &Lift<'_>, at: u32, len: u32) -> Result<Vec<T>> {
    let at = checked::<T>(memory.memory.len(), at, len)?;
    memory.charge(len as usize, size_of::<T>())?;
    (0..len as usize).map(|index| T::load(memory, at + index * T::SIZE)).collect()
}

/// A media type in its two words; the usual one is not copied.
pub(super) fn content_type(memory: &Lift<'_>, at: u32, len: u32) -> Result<Arc<str>> {
    let text = text(memory, at, len)?;
    Ok(if text == JSON { JSON_TEXT.clone() } else { text.into() })
}

fn text<'a>(memory: &Lift<'a>, at: u32, len: u32) -> Result<&'a str> {
    Ok(std::str::from_utf8(bytes(memory, at, len)?)?)
}

fn checked<T: Layout>(memory: usize, at: u32, len: u32) -> Result<usize> {
    let at = at as usize;
    if !at.is_multiple_of(T::ALIGN) {
        bail!("a pointer is not aligned: {at} is no multiple of {}", T::ALIGN);
    }
    match (len as usize).checked_mul(T::SIZE).and_then(|size| at.checked_add(size)) {
        Some(end) if end <= memory => Ok(at),
        _ => bail!("a pointer is out of bounds: {len} of {} bytes at {at} in a memory of {memory}", T::SIZE),
    }
}

/// A guest that is handed values.
pub(super) struct Lower<'a, S: 'static> {
    store: StoreContextMut<'a, S>,
    parts: Arc<Parts>,
}

impl<'a, S: Direct> Lower<'a, S> {
    /// The guest of that store, while it may be handed something.
    pub(super) fn of(store: StoreContextMut<'a, S>) -> Result<Self> {
        let parts = store.data().direct().asked()?.clone();
        Ok(Self { store, parts })
    }

    /// Writes what an import answers to where the guest wants it.
    pub(super) fn answer<T: Store>(&mut self, value: &T, at: u32) -> Result<()> {
        let at = checked::<T>(self.memory().data_size(&self.store), at, 1)?;
        value.store(self, at)
    }

    /// Bytes where the guest's allocator has room for them: address and length.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(u32, u32)> {
        let at = self.room(1, bytes.len())?;
        self.write(at, bytes);
        Ok((at as u32, bytes.len() as u32))
    }

    /// A list of values, likewise.
    pub(super) fn list<T: Store>(&mut self, values: &[T]) -> Result<(u32, u32)> {
        let at = self.room(T::ALIGN, values.len().saturating_mul(T::SIZE))?;
        for (index, value) in values.iter().enumerate() {
            value.store(self, at + index * T::SIZE)?;
        }
        Ok((at as u32, values.len() as u32))
    }

    fn memory(&self) -> &Memory {
        &self.parts.memory
    }

    /// Asks the guest's allocator, during which the guest may ask for nothing.
    fn room(&mut self, align: usize, size: usize) -> Result<usize> {
        if size > MOST {
            bail!("{size} bytes are too many to hand to a guest at once, at most {MOST} are");
        }
        let asked = (0, 0, align as u32, size as u32);
        let at = alone(&mut self.store, |store| self.parts.realloc.call(store, asked))? as usize;
        if !at.is_multiple_of(align) {
            bail!("cabi_realloc returned {at}, which is no multiple of {align}");
        }
        let memory = self.memory().data_size(&self.store);
        if at.checked_add(size).is_none_or(|end| end > memory) {
            bail!("cabi_realloc returned {at} for {size} bytes, which is beyond its memory of {memory}");
        }
        Ok(at)
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let memory = self.parts.memory.data_mut(&mut self.store);
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The two words of a list or string.
    fn words(&mut self, at: usize, (to, len): (u32, u32)) {
        let mut words = [0; 8];
        words[..4].copy_from_slice(&to.to_le_bytes());
        words[4..].copy_from_slice(&len.to_le_bytes());
        self.write(at, &words);
    }
}

/// The next multiple of `align`.
pub(super) const fn aligned(at: usize, align: usize) -> usize {
    at.next_multiple_of(align)
}

/// The larger one.
pub(super) const fn larger(one: usize, other: usize) -> usize {
    if one > other { one } else { other }
}

/// Where the fields of a record stand.
pub(super) struct Fields(usize);

impl Fields {
    pub(super) const fn at(at: usize) -> Self {
        Self(at)
    }

    pub(super) const fn next<T: Layout>(&mut self) -> usize {
        let at = aligned(self.0, T::ALIGN);
        self.0 = at + T::SIZE;
        at
    }

    /// Bytes of all fields, in a record of that alignment.
    pub(super) const fn end(self, align: usize) -> usize {
        aligned(self.0, align)
    }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Layout for $type {
            const SIZE: usize = size_of::<$type>();
            const ALIGN: usize = size_of::<$type>();
        }
        impl Load for $type {
            fn load(memory: &Lift<'_>, at: usize) -> Result<Self> {
                let bytes = memory.memory[at..at + Self::SIZE].try_into().expect("as many bytes as it has");
                Ok(<$type>::from_le_bytes(bytes))
            }
        }
        impl Store for $type {
            fn store<S: Direct>(&self, into: &mut Lower<'_, S>, at: usize) -> Result<()> {
                into.write(at, &self.to_le_bytes());
                Ok(())
            }
        }
    )*};
}
number!(u8, u32, i32, u64, f64);

impl Layout for bool {
    const SIZE: usize = 1;
    const ALIGN: usize = 1;
}

impl Load for bool {
    fn load(memory: &Lift<'_>, at: usize) -> Result<Self> {
        Ok(u8::load(memory, at)? != 0)
    }
}

impl Store for bool {
    fn store<S: Direct>(&self, into: &mut Lower<'_, S>, at: usize) -> Result<()> {
        u8::from(*self).store(into, at)
    }
}

/// A list's two words in memory.
fn two_words(memory: &Lift<'_>, at: usize) -> Result<(u32, u32)> {
    Ok((u32::load(memory, at)?, u32::load(memory, at + 4)?))
}

macro_rules! listed {
    ($($type:ty: $self:ident, $memory:ident, $at:ident, $len:ident => $load:expr, $into:ident => $store:expr;)*) => {$(
        impl Layout for $type {
            const SIZE: usize = 8;
            const ALIGN: usize = 4;
        }
        impl Load for $type {
            fn load($memory: &Lift<'_>, at: usize) -> Result<Self> {
                let ($at, $len) = two_words($memory, at)?;
                $load
            }
        }
        impl Store for $type {
            fn store<S: Direct>(&$self, $into: &mut Lower<'_, S>, at: usize) -> Result<()> {
                let list = $store?;
                $into.words(at, list);
                Ok(())
            }
        }
    )*};
}
listed! {
    String: self, memory, at, len => string(memory, at, len), into => into.bytes(self.as_bytes());
    Arc<str>: self, memory, at, len => content_type(memory, at, len), into => into.bytes(self.as_bytes());
    Arc<[u8]>: self, memory, at, len => Ok(bytes(memory, at, len)?.into()), into => into.bytes(self);
}

impl<T> Layout for Vec<T> {
    const SIZE: usize = 8;
    const ALIGN: usize = 4;
}

impl<T: Load> Load for Vec<T> {
    fn load(memory: &Lift<'_>, at: usize) -> Result<Self> {
        let (at, len) = two_words(memory, at)?;
        list(memory, at, len)
    }
}

impl<T: Store> Store for Vec<T> {
    fn store<S: Direct>(&self, into: &mut Lower<'_, S>, at: usize) -> Result<()> {
        let list = into.list(self)?;
        into.words(at, list);
        Ok(())
    }
}

/// Where the content of a variant's case stands: behind one byte that says which case it is.
pub(super) const fn content(at: usize, align: usize) -> usize {
    at + align
}

impl<T: Layout> Layout for Option<T> {
    const SIZE: usize = aligned(content(0, Self::ALIGN) + T::SIZE, Self::ALIGN);
    const ALIGN: usize = T::ALIGN;
}

impl<T: Load> Load for Option<T> {
    fn load(memory: &Lift<'_>, at: usize) -> Result<Self> {
        match u8::load(memory, at)? {
            0 => Ok(None),
            1 => T::load(memory, content(at, Self::ALIGN)).map(Some),
            other => bail!("an option begins with 0 or 1, not with {other}"),
        }
    }
}

impl<T: Store> Store for Option<T> {
    fn store<S: Direct>(&self, into: &mut Lower<'_, S>, at: usize) -> Result<()> {
        u8::from(self.is_some()).store(into, at)?;
        self.as_ref().map_or(Ok(()), |value| value.store(into, content(at, Self::ALIGN)))
    }
}

impl<T: Layout, E: Layout> Layout for std::result::Result<T, E> {
    const SIZE: usize = aligned(content(0, Self::ALIGN) + larger(T::SIZE, E::SIZE), Self::ALIGN);
    const ALIGN: usize = larger(T::ALIGN, E::ALIGN);
}

impl<T: Load, E: Load> Load for std::result::Result<T, E> {
    fn load(memory: &Lift<'_>, at: usize) -> Result<Self> {
        let inside = content(at, Self::ALIGN);
        match u8::load(memory, at)? {
            0 => T::load(memory, inside).map(Ok),
            1 => E::load(memory, inside).map(Err),
            other => bail!("a result begins with 0 or 1, not with {other}"),
        }
    }
}

impl<T: Store, E: Store> Store for std::result::Result<T, E> {
    fn store<S: Direct>(&self, into: &mut Lower<'_, S>, at: usize) -> Result<()> {
        let inside = content(at, Self::ALIGN);
        u8::from(self.is_err()).store(into, at)?;
        match self {
            Ok(value) => value.store(into, inside),
            Err(error) => error.store(into, inside),
        }
    }
}

/// A record: its fields one after the other, and whether it is read, written or both.
macro_rules! record {
    ($type:ident $fields:tt load store) => {
        record!(@layout $type $fields);
        record!(@load $type $fields);
        record!(@store $type $fields);
    };
    ($type:ident $fields:tt $how:ident) => {
        record!(@layout $type $fields);
        record!(@$how $type $fields);
    };
    (@layout $type:ident { $($field:ident: $of:ty),* $(,)? }) => {
        impl Layout for $type {
            const ALIGN: usize = {
                let mut align = 1;
                $(align = larger(align, <$of as Layout>::ALIGN);)*
                align
            };
            const SIZE: usize = {
                let mut fields = Fields::at(0);
                $(fields.next::<$of>();)*
                fields.end(Self::ALIGN)
            };
        }
    };
    (@load $type:ident { $($field:ident: $of:ty),* $(,)? }) => {
        impl Load for $type {
            fn load(memory: &Lift<'_>, at: usize) -> Result<Self> {
                let mut fields = Fields::at(at);
                Ok(Self { $($field: <$of as Load>::load(memory, fields.next::<$of>())?),* })
            }
        }
    };
    (@store $type:ident { $($field:ident: $of:ty),* $(,)? }) => {
        impl Store for $type {
            fn store<S: Direct>(&self, into: &mut Lower<'_, S>, at: usize) -> Result<()> {
                let mut fields = Fields::at(at);
                $(self.$field.store(into, fields.next::<$of>())?;)*
                Ok(())
            }
        }
    };
}

/// Cases without content: one byte.
macro_rules! cases {
    ($type:ident { $($case:ident),* $(,)? }) => {
        impl Layout for $type {
            const SIZE: usize = 1;
            const ALIGN: usize = 1;
        }
        impl $type {
            /// The case of that number.
            pub(super) fn numbered(number: u32) -> Result<Self> {
                const CASES: &[$type] = &[$($type::$case),*];
                let found = CASES.get(number as usize).copied();
                found.ok_or_else(|| wasmtime::format_err!(
                    "{} has {} cases, there is no number {number}", stringify!($type), CASES.len()
                ))
            }
        }
        impl Load for $type {
            fn load(memory: &Lift<'_>, at: usize) -> Result<Self> {
                Self::numbered(u8::load(memory, at)?.into())
            }
        }
        impl Store for $type {
            fn store<S: Direct>(&self, into: &mut Lower<'_, S>, at: usize) -> Result<()> {
                (*self as u8).store(into, at)
            }
        }
    };
}

pub(super) use {cases, record};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::types::{Failure, FailureKind, Tag};

    #[test]
    fn what_a_guest_points_to_must_be_in_its_memory_aligned_and_whole() {
        let memory = [0_u8, 1, 2, 3, 9, 0, 0, 0, 0xff, 0xfe, 0, 0];
        let lift = Lift::new(&memory);
        assert_eq!(load::<u32>(&lift, 4).unwrap(), 9);
        assert!(load::<u32>(&lift, 5).is_err(), "not aligned");
        assert!(load::<u32>(&lift, 12).is_err() && load::<u64>(&lift, 8).is_err(), "beyond the end");
        assert!(load::<u32>(&lift, u32::MAX - 3).is_err());
        assert!(bytes(&lift, 4, u32::MAX).is_err() && list::<u32>(&lift, 0, u32::MAX).is_err());
        assert_eq!(bytes(&lift, 12, 0).unwrap(), b"");
        assert!(string(&lift, 8, 2).is_err(), "no UTF-8");
        assert!(load::<Option<u8>>(&lift, 2).is_err(), "an option that begins with 2");
        assert!(load::<std::result::Result<u8, u8>>(&lift, 3).is_err(), "a result that begins with 3");
        assert!(load::<FailureKind>(&lift, 8).is_err(), "there is no such kind");
        assert_eq!(load::<FailureKind>(&lift, 4).unwrap(), FailureKind::Nondeterministic);
    }

    #[test]
    fn what_is_pointed_to_again_and_again_is_read_within_bounds() {
        // A thousand tags, each with the same name of one MiB.
        let mut memory = vec![b'x'; 2 << 20];
        for tag in memory[..1000 * Tag::SIZE].chunks_exact_mut(8) {
            tag[..4].copy_from_slice(&(1_u32 << 20).to_le_bytes());
            tag[4..].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        }
        let error = list::<Tag>(&Lift::new(&memory), 0, 1000).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
        assert_eq!(list::<Tag>(&Lift::new(&memory), 0, 50).unwrap().len(), 50);
    }

    #[test]
    fn a_failure_is_read_field_by_field() {
        let mut memory = vec![0_u8; 64];
        let words: [u32; 6] = [2, 48, 4, 52, 3, 0x0001_0001];
        for (at, word) in words.into_iter().enumerate() {
            memory[4 * at..][..4].copy_from_slice(&word.to_le_bytes());
        }
        // No details: the byte after non-retryable and its padding.
        memory[20..25].copy_from_slice(&[1, 0, 0, 0, 0]);
        memory[48..55].copy_from_slice(b"Busynow");
        let Failure { kind, error_type, message, non_retryable, details } = load(&Lift::new(&memory), 0).unwrap();
        assert_eq!((kind, error_type.as_str(), message.as_str()), (FailureKind::Cancelled, "Busy", "now"));
        assert!(non_retryable && details.is_none());
    }
}
