//! A backup: all rows of a store as of one moment, in one stream.
//!
//! The form is described in `host/docs/backup.md`. It is written front to back and read
//! front to back, so it can go through a pipe. Rows stand in it as they are stored: what
//! is encrypted in the store is encrypted in its backup, with the same keys.
//!
//! Invariant: each section carries a checksum over itself and all before it, and the
//! last one says how many rows there are, so a backup that was changed or cut off
//! anywhere is [`BackupError::Damaged`] and never taken for a smaller one. What rows
//! mean is left to the store that wrote them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::core::ids::Hash;

/// Version of everything on this page.
pub const FORMAT: u32 = 1;

const FIRST_WORD: &str = "dacapo-backup ";
/// Rows are gathered until they have so many bytes; one larger row is a section of its own.
const SECTION_BYTES: usize = 1 << 20;
/// No section has more; a length above it is damage, not a reason to look for memory.
const MAX_SECTION_BYTES: u32 = 1 << 30;

const HEAD: u8 = 0;
const ROWS: u8 = 1;
const END: u8 = 2;

/// What a backup holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Version of the rows, as the store that wrote them counts.
    pub journal_format: u64,
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// Bytes of the whole backup.
    #[serde(skip_deserializing, default)]
    pub bytes: u64,
}

/// Why there is no backup, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something else.
    #[error("this is not a backup: it does not begin with {FIRST_WORD:?}; name a file that `dacapo backup` wrote")]
    NotABackup,
    /// A newer version of this program wrote it.
    #[error("the backup has format {found}, this version reads up to format {FORMAT}; use the version that wrote it")]
    Newer {
        /// Its format.
        found: String,
    },
    /// It is not what was written.
    #[error("the backup is damaged: section {section}: {why}; take another one")]
    Damaged {
        /// Which section, from 1.
        section: u64,
        /// What is wrong.
        why: String,
    },
    /// It cannot be read or written.
    #[error("cannot {doing} the backup: {error}")]
    Io {
        /// Read or write.
        doing: &'static str,
        /// Why.
        error: io::Error,
    },
    /// The store it is of, or the one it is to become.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes a backup.
pub struct BackupWriter<'w> {
    to: &'w mut dyn Write,
    previous: Hash,
    table: String,
    gathered: Vec<u8>,
    in_gathered: u32,
    contents: Contents,
}

impl<'w> BackupWriter<'w> {
    /// Begins one of rows of that format.
    ///
    /// # Errors
    /// [`BackupError::Io`] if it cannot be written; so do all others here.
    pub fn begin(to: &'w mut dyn Write, journal_format: u64) -> Result<Self, BackupError> {
        let line = format!("{FIRST_WORD}{FORMAT}\n");
        let contents = Contents { journal_format, bytes: line.len() as u64, ..Contents::default() };
        to.write_all(line.as_bytes()).map_err(writing)?;
        let previous = Hash::of(line.as_bytes());
        let mut writer = Self { to, previous, table: String::new(), gathered: Vec::new(), in_gathered: 0, contents };
        let head = json(&writer.contents);
        writer.section(HEAD, &head)?;
        Ok(writer)
    }

    /// One row; those of a table follow one another in the order of their keys.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn row(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<(), BackupError> {
        if self.table != table || self.gathered.len() >= SECTION_BYTES {
            self.flush()?;
            table.clone_into(&mut self.table);
        }
        for part in [key, value] {
            self.gathered.extend_from_slice(&(part.len() as u32).to_le_bytes());
            self.gathered.extend_from_slice(part);
        }
        self.in_gathered += 1;
        *self.contents.rows.entry(table.to_owned()).or_default() += 1;
        Ok(())
    }

    /// Ends it; what it holds.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(mut self) -> Result<Contents, BackupError> {
        self.flush()?;
        let end = json(&self.contents);
        self.section(END, &end)?;
        self.to.flush().map_err(writing)?;
        Ok(self.contents)
    }

    fn flush(&mut self) -> Result<(), BackupError> {
        if self.in_gathered == 0 {
            return Ok(());
        }
        let name = self.table.as_bytes();
        let mut content = Vec::with_capacity(5 + name.len() + self.gathered.len());
        content.push(name.len() as u8);
        content.extend_from_slice(name);
        content.extend_from_slice(&self.in_gathered.to_le_bytes());
        content.append(&mut self.gathered);
        self.in_gathered = 0;
        self.section(ROWS, &content)
    }

    fn section(&mut self, kind: u8, content: &[u8]) -> Result<(), BackupError> {
        let length = content.len() as u32 + 1;
        self.previous = chained(self.previous, &[&[kind], content]);
        for part in [&length.to_le_bytes()[..], &[kind], content, &self.previous.0] {
            self.to.write_all(part).map_err(writing)?;
            self.contents.bytes += part.len() as u64;
        }
        Ok(())
    }
}

/// Some rows of one table: keys and values.
#[derive(Debug)]
pub struct Rows {
    /// Which table.
    pub table: String,
    /// Its rows.
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads a backup, section by section. Only after [`Self::next_rows`] has said that there are
/// no more is it known that the backup is whole.
pub struct BackupReader<'r> {
    from: &'r mut dyn Read,
    previous: Hash,
    section: u64,
    seen: Contents,
}

impl<'r> BackupReader<'r> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// If it is no backup that can be read here.
    pub fn begin(from: &'r mut dyn Read) -> Result<Self, BackupError> {
        let line = first_line(from)?;
        let found = line.strip_prefix(FIRST_WORD).ok_or(BackupError::NotABackup)?;
        match found.trim_end().parse::<u32>() {
            Ok(FORMAT) => {}
            Ok(_) => return Err(BackupError::Newer { found: found.trim_end().to_owned() }),
            Err(_) => return Err(BackupError::NotABackup),
        }
        let previous = Hash::of(line.as_bytes());
        let mut reader = Self { from, previous, section: 0, seen: Contents::default() };
        reader.seen.bytes = line.len() as u64;
        let (kind, head) = reader.section()?;
        if kind != HEAD {
            return Err(reader.damaged("the head is missing"));
        }
        let head: Contents = serde_json::from_slice(&head).map_err(|error| reader.damaged(error))?;
        reader.seen.journal_format = head.journal_format;
        Ok(reader)
    }

    /// The version of its rows.
    pub fn journal_format(&self) -> u64 {
        self.seen.journal_format
    }

    /// The next rows; none when all of the backup was read and is whole.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] at the first thing that is not what was written.
    pub fn next_rows(&mut self) -> Result<Option<Rows>, BackupError> {
        let (kind, content) = self.section()?;
        match kind {
            ROWS => {
                let rows = rows_in(&content).ok_or_else(|| self.damaged("its lengths do not add up"))?;
                *self.seen.rows.entry(rows.table.clone()).or_default() += rows.rows.len() as u64;
                Ok(Some(rows))
            }
            END => {
                let end: Contents = serde_json::from_slice(&content).map_err(|error| self.damaged(error))?;
                if end.rows != self.seen.rows {
                    return Err(self.damaged("it has other rows than it says"));
                }
                match self.from.read(&mut [0]).map_err(reading)? {
                    0 => Ok(None),
                    _ => Err(self.damaged("something follows its end")),
                }
            }
            other => Err(self.damaged(format!("its kind {other} is unknown"))),
        }
    }

    /// What was read so far.
    pub fn contents(&self) -> &Contents {
        &self.seen
    }

    /// The kind and the content of the next section.
    fn section(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        self.section += 1;
        let length = u32::from_le_bytes(self.exact::<4>()?);
        if length == 0 || length > MAX_SECTION_BYTES {
            return Err(self.damaged(format!("it cannot have {length} bytes")));
        }
        let mut content = Vec::new();
        self.from.take(length.into()).read_to_end(&mut content).map_err(reading)?;
        if content.len() != length as usize {
            return Err(self.damaged("it is cut off"));
        }
        let expected = chained(self.previous, &[&content]);
        if self.exact::<32>()? != expected.0 {
            return Err(self.damaged("its checksum does not match"));
        }
        self.previous = expected;
        self.seen.bytes += 4 + u64::from(length) + 32;
        Ok((content.remove(0), content))
    }

    fn exact<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        match self.from.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.damaged("it is cut off")),
            read => read.map(|()| bytes).map_err(reading),
        }
    }

    fn damaged(&self, why: impl ToString) -> BackupError {
        BackupError::Damaged { section: self.section, why: why.to_string() }
    }
}

/// Reads a backup to its end and says what it holds.
///
/// # Errors
/// If it is not whole.
pub fn check(from: &mut dyn Read) -> Result<Contents, BackupError> {
    let mut reader = BackupReader::begin(from)?;
    while reader.next_rows()?.is_some() {}
    Ok(reader.seen)
}

/// Reads up to the end of the first line, and not a byte more.
fn first_line(from: &mut dyn Read) -> Result<String, BackupError> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < FIRST_WORD.len() + 12 {
        let mut byte = [0];
        if from.read(&mut byte).map_err(reading)? == 0 {
            break;
        }
        line.push(byte[0]);
    }
    String::from_utf8(line).map_err(|_| BackupError::NotABackup)
}

fn rows_in(content: &[u8]) -> Option<Rows> {
    let (&name_len, rest) = content.split_first()?;
    let (name, rest) = rest.split_at_checked(name_len.into())?;
    let (count, mut rest) = rest.split_first_chunk()?;
    let mut part = || {
        let (length, after) = rest.split_first_chunk()?;
        let (part, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        rest = after;
        Some(part.to_vec())
    };
    let mut rows = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        rows.push((part()?, part()?));
    }
    rest.is_empty().then_some(Rows { table: String::from_utf8(name.to_vec()).ok()?, rows })
}

fn chained(previous: Hash, parts: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&previous.0);
    for part in parts {
        hasher.update(part);
    }
    Hash(*hasher.finalize().as_bytes())
}

fn json(contents: &Contents) -> Vec<u8> {
    serde_json::to_vec(contents).expect("numbers and names are JSON")
}

fn writing(error: io::Error) -> BackupError {
    BackupError::Io { doing: "write", error }
}

fn reading(error: io::Error) -> BackupError {
    BackupError::Io { doing: "read", error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(rows: &[(&str, &[u8], &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = BackupWriter::begin(&mut bytes, 7).unwrap();
        rows.iter().for_each(|(table, key, value)| writer.row(table, key, value).unwrap());
        let contents = writer.end().unwrap();
        assert_eq!(contents.bytes, bytes.len() as u64);
        bytes
    }

    /// Table, key and value of each row.
    fn read(bytes: &[u8]) -> Result<Vec<[Vec<u8>; 3]>, BackupError> {
        let mut bytes = bytes;
        let mut reader = BackupReader::begin(&mut bytes)?;
        assert_eq!(reader.journal_format(), 7);
        let mut all = Vec::new();
        while let Some(Rows { table, rows }) = reader.next_rows()? {
            all.extend(rows.into_iter().map(|(key, value)| [table.clone().into_bytes(), key, value]));
        }
        Ok(all)
    }

    #[test]
    fn what_is_written_is_read() {
        let large = vec![9; SECTION_BYTES + 3];
        let rows: &[(&str, &[u8], &[u8])] =
            &[("a", b"1", b""), ("a", b"2", &large), ("a", b"3", b"x"), ("b", b"", b"y")];
        let bytes = written(rows);
        let expected: Vec<_> = rows.iter().map(|(t, k, v)| [t.as_bytes().to_vec(), k.to_vec(), v.to_vec()]).collect();
        assert_eq!(read(&bytes).unwrap(), expected);
        assert!(read(&written(&[])).unwrap().is_empty());
        let contents = check(&mut &bytes[..]).unwrap();
        assert_eq!((contents.rows["a"], contents.rows["b"], contents.bytes), (3, 1, bytes.len() as u64));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_found() {
        let bytes = written(&[("a", b"1", b"one"), ("b", b"2", b"two")]);
        for end in 0..bytes.len() {
            assert!(check(&mut &bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(check(&mut &changed[..]).is_err(), "byte {at} bit {bit}");
            }
        }
        let more = [&bytes[..], b"x"].concat();
        assert!(check(&mut &more[..]).unwrap_err().to_string().contains("follows its end"));
    }

    #[test]
    fn what_is_no_backup_of_this_version_is_told() {
        assert!(matches!(check(&mut &b"redb"[..]), Err(BackupError::NotABackup)));
        assert!(matches!(check(&mut &b""[..]), Err(BackupError::NotABackup)));
        assert!(matches!(check(&mut &b"dacapo-backup 2\n"[..]), Err(BackupError::Newer { .. })));
    }
}
