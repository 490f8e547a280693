//! How rows are written: as they are, compressed, encrypted, or both.
//!
//! The codec stands at the very edge of a store, between the content of a row and
//! its checksum. Histories, their hash chain and recordings know nothing of it, so a
//! history replays the same whatever the codec was.
//!
//! Rows of more than [`LZ4_ABOVE`] bytes are compressed with LZ4, which costs less time
//! than the pages it saves would. Where a host is asked to ([`Codec::compress_above`])
//! larger ones are compressed with zstd: smaller still, at several times the work.
//!
//! Keys come from outside and are never kept beside the data: the environment
//! variable `DACAPO_KEYS` holds `id:hex` pairs separated by commas, or
//! `DACAPO_KEY_FILE` names a file with one pair a line. A key has 32 bytes. The first
//! one encrypts; all of them decrypt, and each row says by id which one it needs, so
//! a key is replaced by putting the new one before it.

use std::borrow::Cow;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// The content follows as it is.
pub const PLAIN: u8 = 0;
/// Compressed: its length (4 bytes), then a zstd frame.
pub const ZSTD: u8 = 1;
/// Compressed: its length (4 bytes), then an LZ4 block.
pub const LZ4: u8 = 4;
/// Encrypted with XChaCha20-Poly1305, after compression: the key's id after its
/// length (1 byte), the nonce, the ciphertext with its tag.
pub const SEALED: u8 = 2;

/// Rows of more bytes than this are compressed. Shorter ones do not become much smaller.
pub const LZ4_ABOVE: usize = 256;

const LENGTH_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
const MAX_KEY_ID_BYTES: usize = 64;

/// What is done to rows. See the module's page. The default has LZ4 and no keys.
#[derive(Clone, Debug)]
pub struct Codec {
    lz4_above: Option<usize>,
    zstd_above: Option<usize>,
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
    /// Rows of more bytes are compressed with zstd.
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
        Self { lz4_above: Some(LZ4_ABOVE), ..Self::plain() }
    }
}

impl Codec {
    /// Rows as they are.
    pub fn plain() -> Self {
        Self { lz4_above: None, zstd_above: None, keys: Vec::new() }
    }

    /// Rows of more than that many bytes are compressed with zstd, where that makes them
    /// smaller.
    #[must_use]
    pub fn compress_above(self, bytes: usize) -> Self {
        Self { zstd_above: Some(bytes), ..self }
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
        let codec = Self { zstd_above: asked.compress_above, ..Self::default() };
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
        self.keys.is_empty() && self.compression(bytes).is_none()
    }

    /// How a content of so many bytes is compressed.
    fn compression(&self, bytes: usize) -> Option<Compression> {
        let is_above = |above: Option<usize>| above.is_some_and(|above| bytes > above);
        if is_above(self.zstd_above) {
            return Some(Compression { encoding: ZSTD, compress: zstd });
        }
        is_above(self.lz4_above).then_some(Compression { encoding: LZ4, compress: lz4 })
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
        if let Some(how) = self.compression(row.len() - head) {
            let smaller = (how.compress)(head + LENGTH_BYTES, &row[head..]);
            if smaller.len() < row.len() {
                encoding |= how.encoding;
                let length = (row.len() - head) as u32;
                row = smaller;
                row[head..head + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
            }
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
        if encoding & !(ZSTD | LZ4 | SEALED) != 0 {
            return Err(Unreadable::Damaged(format!("its encoding {encoding} is unknown")));
        }
        let mut bytes = Cow::Borrowed(bytes);
        if encoding & SEALED != 0 {
            bytes = self.unseal(&bound(place, encoding), &bytes)?.into();
        }
        let decompress = match encoding & (ZSTD | LZ4) {
            0 => return Ok(bytes),
            ZSTD => unzstd,
            LZ4 => unlz4,
            _ => return Err(Unreadable::Damaged("it is compressed in two ways".to_owned())),
        };
        let (length, rest) =
            bytes.split_first_chunk().ok_or_else(|| Unreadable::Damaged("it is shorter than its length".to_owned()))?;
        let length = u32::from_le_bytes(*length) as usize;
        let cannot = |why: String| Unreadable::Damaged(format!("it cannot be decompressed: {why}"));
        let content = decompress(rest, length).map_err(cannot)?;
        if content.len() != length {
            return Err(cannot("it has another length than it says".to_owned()));
        }
        Ok(content.into())
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

/// One way to compress.
struct Compression {
    encoding: u8,
    /// Makes a content smaller, behind room for so many bytes.
    compress: fn(usize, &[u8]) -> Vec<u8>,
}

fn lz4(room: usize, content: &[u8]) -> Vec<u8> {
    let mut block = vec![0; room + get_maximum_output_size(content.len())];
    let len = compress_into(content, &mut block[room..]).expect("there is room for the largest block");
    block.truncate(room + len);
    block
}

fn unlz4(block: &[u8], length: usize) -> Result<Vec<u8>, String> {
    let mut content = vec![0; length];
    let read = decompress_into(block, &mut content).map_err(|error| error.to_string())?;
    content.truncate(read);
    Ok(content)
}

fn zstd(room: usize, content: &[u8]) -> Vec<u8> {
    let frame = compress_to_vec(content, CompressionLevel::Fastest);
    [vec![0; room], frame].concat()
}

fn unzstd(frame: &[u8], length: usize) -> Result<Vec<u8>, String> {
    let decoder = StreamingDecoder::new(frame).map_err(|error| error.to_string())?;
    let mut content = Vec::new();
    // One more than it may have, to see that it has no more.
    decoder.take(length as u64 + 1).read_to_end(&mut content).map_err(|error| error.to_string())?;
    Ok(content)
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
        let sealed = Codec { lz4_above: Some(8), ..keys(&[NEW]) };
        let plain = [Codec::plain(), Codec::plain().compress_above(8), Codec::default()];
        for codec in plain.into_iter().chain([keys(&[NEW]), keys(&[NEW]).compress_above(8), sealed]) {
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
        let lz4 = Codec { lz4_above: Some(8), ..Codec::plain() };
        for (codec, encoding) in [(Codec::default().compress_above(8), ZSTD), (lz4, LZ4)] {
            let (found, written) = writes(&codec, &text);
            assert!(found == encoding && written.len() < text.len() / 4, "{codec:?}");
            assert_eq!(writes(&codec, &noise).0, PLAIN, "what does not become smaller stays");
        }
        let both = writes(&Codec::default(), &text);
        assert!(matches!(reads(&Codec::plain(), b"place", &(both.0 | ZSTD, both.1)), Err(Unreadable::Damaged(_))));
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
