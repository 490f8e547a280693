//! How rows are written: as they are, compressed, encrypted, or both.
//!
//! The codec stands at the very edge of a store, between the content of a row and
//! its checksum. Histories, their hash chain and recordings know nothing of it, so a
//! history replays the same whatever the codec was.
//!
//! Compression is LZ4, which costs less time than the pages it saves cost to write:
//! rows of more than [`COMPRESS_ABOVE`] bytes have it unless something else is said.
//!
//! Keys come from outside and are never kept beside the data: the environment
//! variable `DACAPO_KEYS` holds `id:hex` pairs separated by commas, or
//! `DACAPO_KEY_FILE` names a file with one pair a line. A key has 32 bytes. The first
//! one encrypts; all of them decrypt, and each row says by id which one it needs, so
//! a key is replaced by putting the new one before it.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

/// The content follows as it is.
pub const PLAIN: u8 = 0;
/// Compressed: its length (4 bytes), then an LZ4 block.
pub const LZ4: u8 = 4;
/// Encrypted with XChaCha20-Poly1305, after compression: the key's id after its
/// length (1 byte), the nonce, the ciphertext with its tag.
pub const SEALED: u8 = 2;

/// Rows of more bytes than this are compressed, unless something else is said. Shorter
/// ones do not become much smaller.
pub const COMPRESS_ABOVE: usize = 256;

const LENGTH_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
const MAX_KEY_ID_BYTES: usize = 64;

/// What is done to rows. See the module's page. The default compresses, without keys.
#[derive(Clone, Debug)]
pub struct Codec {
    compress_above: Option<usize>,
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: String,
    cipher: XChaCha20Poly1305,
}

/// Why keys or thresholds cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InvalidCodec(String);

/// Why a row cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is encrypted with a key that is not here.
    NoKey(String),
    /// It is not what was written.
    Damaged(String),
}

/// How rows are to be written, as an operator says it.
#[derive(Clone, Default)]
pub struct Asked {
    /// Rows of more bytes are compressed; [`COMPRESS_ABOVE`] if it is not said.
    pub compress_above: Option<usize>,
    /// Keys that encrypt, with commas between them.
    pub keys: Option<String>,
    /// A file with such keys instead, one in each line.
    pub key_file: Option<PathBuf>,
}

impl Asked {
    /// What the environment asks for.
    ///
    /// # Errors
    /// If `DACAPO_COMPRESS_ABOVE` is no number.
    pub fn from_environment() -> Result<Self, InvalidCodec> {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let compress_above = text("DACAPO_COMPRESS_ABOVE").map(|bytes| bytes.parse()).transpose();
        let wrong = |_| InvalidCodec("DACAPO_COMPRESS_ABOVE: expected a number of bytes".to_owned());
        let key_file = text("DACAPO_KEY_FILE").map(PathBuf::from);
        Ok(Self { compress_above: compress_above.map_err(wrong)?, keys: text("DACAPO_KEYS"), key_file })
    }
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The keys are not for logs.
        f.debug_struct("Asked").field("compress_above", &self.compress_above).finish_non_exhaustive()
    }
}

impl Default for Codec {
    fn default() -> Self {
        Self::plain().compress_above(COMPRESS_ABOVE)
    }
}

impl Codec {
    /// Rows as they are.
    pub fn plain() -> Self {
        Self { compress_above: None, keys: Vec::new() }
    }

    /// Rows of more than that many bytes are compressed, where that makes them smaller.
    #[must_use]
    pub fn compress_above(self, bytes: usize) -> Self {
        Self { compress_above: Some(bytes), ..self }
    }

    /// Rows are encrypted with the first of these keys, `id:hex` each, and read with
    /// any of them.
    ///
    /// # Errors
    /// If there is none, or one is not valid; the message shows no key.
    pub fn encrypt<'a>(self, keys: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidCodec> {
        let keys = keys.into_iter().enumerate().map(|(at, text)| Key::read(at + 1, text));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if let Some(twice) = keys.iter().enumerate().find_map(|(at, key)| keys[..at].iter().find(|k| k.id == key.id)) {
            return Err(InvalidCodec(format!("the key id {:?} is there twice; give each key its own", twice.id)));
        }
        if keys.is_empty() {
            return Err(InvalidCodec("there is no key: expected id:hex with 64 hexadecimal digits".to_owned()));
        }
        Ok(Self { keys, ..self })
    }

    /// The codec that is asked for, for the data folder `data`.
    ///
    /// # Errors
    /// If a variable or the key file is not valid, or that file lies in `data`.
    pub fn of(asked: &Asked, data: &Path) -> Result<Self, InvalidCodec> {
        let codec = Self::plain().compress_above(asked.compress_above.unwrap_or(COMPRESS_ABOVE));
        match (&asked.keys, &asked.key_file) {
            (None, None) => Ok(codec),
            (Some(keys), None) => codec.encrypt(keys.split(',')),
            (None, Some(file)) => codec.encrypt(key_lines(file, data)?.iter().map(String::as_str)),
            (Some(_), Some(_)) => Err(InvalidCodec("keys and a key file are both given; leave one out".to_owned())),
        }
    }

    /// Whether rows are encrypted.
    pub fn encrypts(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether a content of so many bytes is written as it is.
    pub(super) fn leaves(&self, bytes: usize) -> bool {
        self.keys.is_empty() && self.compress_above.is_none_or(|above| bytes <= above)
    }

    /// The id of the key that encrypts, if one does.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.keys.first().map(|key| key.id.as_str())
    }

    /// How a row is written, whose content stands behind room for a head of `head`
    /// bytes: the encoding, and the row. What `place` returns is bound to it: moved
    /// elsewhere, an encrypted row is not taken for good.
    pub(super) fn encode(&self, head: usize, mut row: Vec<u8>, place: impl FnOnce() -> Vec<u8>) -> (u8, Vec<u8>) {
        let mut encoding = PLAIN;
        if self.compress_above.is_some_and(|above| row.len() - head > above)
            && let Some(smaller) = compress(head, &row)
        {
            encoding |= LZ4;
            row = smaller;
        }
        if let Some(key) = self.keys.first() {
            encoding |= SEALED;
            let sealed = key.seal(&bound(&place(), encoding), &row[head..]);
            row.truncate(head);
            row.extend_from_slice(&sealed);
        }
        (encoding, row)
    }

    /// Reads what [`Self::encode`] wrote.
    pub(super) fn decode<'a>(&self, place: &[u8], encoding: u8, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, Unreadable> {
        if encoding == PLAIN {
            return Ok(Cow::Borrowed(bytes));
        }
        if encoding & !(LZ4 | SEALED) != 0 {
            return Err(Unreadable::Damaged(format!("its encoding {encoding} is unknown")));
        }
        let mut bytes = Cow::Borrowed(bytes);
        if encoding & SEALED != 0 {
            bytes = self.unseal(&bound(place, encoding), &bytes)?.into();
        }
        if encoding & LZ4 != 0 {
            bytes = decompress(&bytes).map_err(Unreadable::Damaged)?.into();
        }
        Ok(bytes)
    }

    fn unseal(&self, bound: &[u8], bytes: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let read = || {
            let (&len, rest) = bytes.split_first()?;
            let (id, rest) = rest.split_at_checked(len.into())?;
            let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES)?;
            Some((std::str::from_utf8(id).ok()?, nonce, sealed))
        };
        let (id, nonce, msg) =
            read().ok_or_else(|| Unreadable::Damaged("it is shorter than what encryption adds".to_owned()))?;
        let key = self.keys.iter().find(|key| key.id == id).ok_or_else(|| Unreadable::NoKey(id.to_owned()))?;
        let opened = key.cipher.decrypt(XNonce::from_slice(nonce), Payload { msg, aad: bound });
        opened.map_err(|_| Unreadable::Damaged(format!("the key {id:?} does not open it")))
    }
}

impl Key {
    fn read(number: usize, text: &str) -> Result<Self, InvalidCodec> {
        let wrong = |what: &str| InvalidCodec(format!("key {number} is not valid: expected id:hex, {what}"));
        let (id, hex) = text.trim().split_once(':').ok_or_else(|| wrong("found no ':'"))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if id.is_empty() || id.len() > MAX_KEY_ID_BYTES || !id.chars().all(plain) {
            return Err(wrong("with an id of up to 64 letters, digits, '-', '_' and '.'"));
        }
        // Keys and hashes have the same form.
        let key = blake3::Hash::from_hex(hex).map_err(|_| wrong("with 64 hexadecimal digits"))?;
        Ok(Self { id: id.to_owned(), cipher: XChaCha20Poly1305::new(key.as_bytes().into()) })
    }

    fn seal(&self, bound: &[u8], msg: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the operating system gives randomness");
        let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), Payload { msg, aad: bound });
        let sealed = sealed.expect("a row is shorter than what one nonce can encrypt");
        [&[self.id.len() as u8][..], self.id.as_bytes(), &nonce, &sealed].concat()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.id)
    }
}

fn bound(place: &[u8], encoding: u8) -> Vec<u8> {
    [place, &[encoding]].concat()
}

/// The row with its content compressed, behind room for the same head; none if that
/// makes it no smaller.
fn compress(head: usize, row: &[u8]) -> Option<Vec<u8>> {
    let content = &row[head..];
    let block = head + LENGTH_BYTES;
    let mut smaller = vec![0; block + get_maximum_output_size(content.len())];
    let len = compress_into(content, &mut smaller[block..]).expect("there is room for the largest block");
    if LENGTH_BYTES + len >= content.len() {
        return None;
    }
    smaller[head..block].copy_from_slice(&(content.len() as u32).to_le_bytes());
    smaller.truncate(block + len);
    Some(smaller)
}

fn decompress(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (len, block) = bytes.split_first_chunk().ok_or("it is shorter than its length")?;
    let mut content = vec![0; u32::from_le_bytes(*len) as usize];
    let read = decompress_into(block, &mut content).map_err(|error| format!("it cannot be decompressed: {error}"))?;
    if content.len() == read { Ok(content) } else { Err("it has another length than it says".to_owned()) }
}

/// The keys in a file, which must not lie beside what they protect.
fn key_lines(file: &Path, data: &Path) -> Result<Vec<String>, InvalidCodec> {
    let name = file.display();
    let cannot = |error: std::io::Error| InvalidCodec(format!("cannot read the key file {name}: {error}"));
    let real = file.canonicalize().map_err(cannot)?;
    if data.canonicalize().is_ok_and(|data| real.starts_with(data)) {
        return Err(InvalidCodec(format!(
            "the key file {name} lies in the data folder; keep keys elsewhere, so that a copy of the data is no copy \
             of them"
        )));
    }
    let text = std::fs::read_to_string(real).map_err(cannot)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "old:00000000000000000000000000000000000000000000000000000000000000aa";
    const NEW: &str = "new:00000000000000000000000000000000000000000000000000000000000000bb";

    fn keys(keys: &[&str]) -> Codec {
        Codec::plain().encrypt(keys.iter().copied()).unwrap()
    }

    const HEAD: usize = 3;

    fn writes(codec: &Codec, content: &[u8]) -> (u8, Vec<u8>) {
        let (encoding, row) = codec.encode(HEAD, [&[0; HEAD], content].concat(), || b"place".to_vec());
        (encoding, row[HEAD..].to_vec())
    }

    fn reads(codec: &Codec, place: &[u8], (encoding, bytes): &(u8, Vec<u8>)) -> Result<Vec<u8>, Unreadable> {
        codec.decode(place, *encoding, bytes).map(Cow::into_owned)
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let text = "the same again and again, ".repeat(40).into_bytes();
        let (short, noise) = (b"short".to_vec(), blake3::hash(b"noise").as_bytes().to_vec());
        for codec in [Codec::plain(), Codec::plain().compress_above(8), keys(&[NEW]), keys(&[NEW]).compress_above(8)] {
            for content in [&text, &short, &noise, &Vec::new()] {
                let written = writes(&codec, content);
                assert_eq!(reads(&codec, b"place", &written).unwrap(), *content);
                if written.0 & SEALED == 0 {
                    continue;
                }
                assert!(!written.1.windows(5).any(|bytes| bytes == b"again"), "{codec:?}");
                assert!(reads(&codec, b"elsewhere", &written).is_err());
                for at in 0..written.1.len() {
                    let mut changed = written.1.clone();
                    changed[at] ^= 1;
                    assert!(reads(&codec, b"place", &(written.0, changed)).is_err(), "byte {at}");
                }
            }
        }
        let compressed = Codec::plain().compress_above(8);
        assert!(writes(&compressed, &text).1.len() < text.len() / 4);
        assert_eq!(writes(&compressed, &noise).0, PLAIN, "what does not become smaller stays");
    }

    #[test]
    fn old_keys_read_and_the_first_one_writes() {
        let written = writes(&keys(&[OLD]), b"content");
        let rotated = keys(&[NEW, OLD]);
        assert_eq!(reads(&rotated, b"place", &written).unwrap(), b"content");
        let rewritten = writes(&rotated, b"content");
        assert_eq!(reads(&keys(&[NEW]), b"place", &rewritten).unwrap(), b"content");
        assert_eq!(reads(&keys(&[NEW]), b"place", &written), Err(Unreadable::NoKey("old".to_owned())));
        let impostor = OLD.replace("aa", "bb");
        assert!(matches!(reads(&keys(&[&impostor]), b"place", &written), Err(Unreadable::Damaged(_))));
    }

    #[test]
    fn mistakes_are_told_without_the_key() {
        let told = |keys: &[&str]| Codec::plain().encrypt(keys.iter().copied()).unwrap_err().to_string();
        let short = told(&[OLD, "new:0123456789abcdef"]);
        assert!(short.starts_with("key 2 ") && short.contains("64 hexadecimal digits"), "{short}");
        assert!(!short.contains("0123456789abcdef"));
        assert!(told(&["no colon"]).contains("found no ':'"));
        assert!(told(&[OLD, OLD]).contains("twice"));
        assert!(told(&[]).contains("there is no key"));
        assert!(!format!("{:?}", keys(&[OLD])).contains("aa"));
    }

    #[test]
    fn a_key_file_in_the_data_folder_is_refused() {
        let folder = std::env::temp_dir().join(format!("dacapo-keys-{}", std::process::id()));
        let data = folder.join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("keys"), NEW).unwrap();
        assert!(key_lines(&data.join("keys"), &data).unwrap_err().to_string().contains("keep keys elsewhere"));
        std::fs::write(folder.join("keys"), format!("# of this year\n{NEW}\n\n{OLD}\n")).unwrap();
        assert_eq!(key_lines(&folder.join("keys"), &data).unwrap(), [NEW, OLD]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
