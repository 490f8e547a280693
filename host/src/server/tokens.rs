//! Tokens: who may ask for what. They are kept in `tokens.json` in the data folder,
//! so whoever may write there makes and revokes them, with or without a server; a
//! running server sees a change with the next request.
//!
//! A token is `dacapo_ID_SECRET`. The id is no secret: it names the token in lists and
//! audit records. The secret is 256 bits from the operating system, and the file has
//! only its BLAKE3 hash. A slow hash would protect nothing more, since nobody can try
//! that many, and it would be computed for every request.
//!
//! Invariant: a token that was revoked stays in the file. So a folder in which tokens
//! were made once never opens again to whoever has none.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::api::Result;
use super::problem::Problem;
use crate::core::ids::{Hash, TimestampMs};
use crate::core::namespace::Namespace;
use crate::engine::fresh_seed;

const FILE: &str = "tokens.json";
/// So that the file stays one that is read at a glance.
const MAX_TOKENS: usize = 10_000;
const MAX_NAME_BYTES: usize = 100;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To look at everything.
    Read,
    /// To start instances and act on them, and on schedules. Includes reading.
    Operate,
    /// To upload and remove modules and move instances to them. Includes reading.
    Deploy,
    /// To fetch and report tasks, and nothing else.
    Worker,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Operate, Self::Deploy, Self::Worker];

    /// Whether a token with this scope may do what asks for `needed`.
    pub fn includes(self, needed: Self) -> bool {
        self == needed || needed == Self::Read && matches!(self, Self::Operate | Self::Deploy)
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Deploy => "deploy",
            Self::Worker => "worker",
        })
    }
}

/// A token, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Names it; the part of its text that is no secret.
    pub id: String,
    /// For people: whose it is.
    pub name: String,
    /// Of its secret.
    hash: Hash,
    /// What it may be used for.
    pub scopes: BTreeSet<Scope>,
    /// The only one that whoever has it sees.
    pub namespace: Namespace,
    /// When it was made.
    pub created_at: TimestampMs,
    /// From when on it is not taken any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<TimestampMs>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<TimestampMs>,
}

impl Token {
    /// Why it is not taken at `now`.
    fn fault(&self, now: TimestampMs) -> Option<String> {
        match (self.revoked_at, self.expires_at) {
            (Some(at), _) => Some(format!("the token {} was revoked at {at}", self.id)),
            (None, Some(at)) if at <= now => Some(format!("the token {} expired at {at}", self.id)),
            _ => None,
        }
    }

    /// `active`, `expired` or `revoked`.
    pub fn state(&self, now: TimestampMs) -> &'static str {
        match self.fault(now) {
            None => "active",
            Some(_) if self.revoked_at.is_some() => "revoked",
            Some(_) => "expired",
        }
    }
}

/// A token to make.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// For people.
    pub name: String,
    /// At least one.
    pub scopes: BTreeSet<Scope>,
    /// Its namespace.
    pub namespace: Namespace,
    /// None: never.
    pub expires_at: Option<TimestampMs>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    tokens: Vec<Token>,
}

/// The tokens of a data folder.
#[derive(Debug)]
pub struct Tokens {
    folder: PathBuf,
    read: RwLock<Option<(Stamp, Arc<Vec<Token>>)>>,
}

/// Which state of the file was read: it is replaced, never written over.
type Stamp = (u64, u64, i64, i64);

impl Tokens {
    /// Those of the data folder `folder`.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), read: RwLock::default() }
    }

    /// All of them, in the order they were made; none if there never was one.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged: then nobody is let in.
    pub fn all(&self) -> Result<Option<Arc<Vec<Token>>>> {
        let mut read = self.read.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stamp = match std::fs::metadata(self.file()) {
            Ok(found) => (found.ino(), found.len(), found.mtime(), found.mtime_nsec()),
            // Once there were tokens, a file that is gone opens nothing.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && read.is_none() => return Ok(None),
            Err(error) => return Err(self.unreadable(&error)),
        };
        if read.as_ref().is_none_or(|(known, _)| *known != stamp) {
            let bytes = std::fs::read(self.file()).map_err(|error| self.unreadable(&error))?;
            let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| self.unreadable(&error))?;
            read = Some((stamp, Arc::new(kept.tokens)));
            self.read.write().unwrap_or_else(PoisonError::into_inner).clone_from(&read);
        }
        Ok(read.map(|(_, tokens)| tokens))
    }

    /// The token that `text` is, at `now`.
    ///
    /// # Errors
    /// `token-refused`, if it is none, or not any more.
    pub fn find(&self, text: &str, now: TimestampMs) -> Result<Token> {
        let refused = |why: String| Problem::new("token-refused", why);
        let unknown = || refused("the token is not one of this host; make one with `dacapo token create`".to_owned());
        let all = self.all()?.unwrap_or_default();
        let (id, secret) = text.strip_prefix("dacapo_").and_then(|rest| rest.split_once('_')).ok_or_else(unknown)?;
        let hash = Hash::of(secret.as_bytes());
        // What is compared is a hash: how much of it fits tells nothing about a secret.
        let found = all.iter().find(|token| token.id == id && token.hash == hash).ok_or_else(unknown)?;
        found.fault(now).map_or_else(|| Ok(found.clone()), |why| Err(refused(why)))
    }

    /// Makes a token; it, and its text, which is kept nowhere.
    ///
    /// # Errors
    /// If the name or the scopes are not valid, or the file cannot be written.
    pub fn create(&self, new: NewToken, now: TimestampMs) -> Result<(Token, String)> {
        if new.name.len() > MAX_NAME_BYTES || new.name.chars().any(char::is_control) {
            return Err(Problem::invalid(format!(
                "the token's name is {:?}: expected at most {MAX_NAME_BYTES} bytes without control characters",
                new.name
            )));
        }
        if new.scopes.is_empty() {
            return Err(Problem::invalid(
                "a token without a scope is good for nothing: give read, operate, deploy or worker",
            ));
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (id, secret) = (hex(&fresh_seed()[..6]), hex(&fresh_seed()));
        let token = Token {
            id: id.clone(),
            name: new.name,
            hash: Hash::of(secret.as_bytes()),
            scopes: new.scopes,
            namespace: new.namespace,
            created_at: now,
            expires_at: new.expires_at,
            revoked_at: None,
        };
        self.change(|tokens| {
            if tokens.len() >= MAX_TOKENS {
                return Err(Problem::invalid(format!("there are {MAX_TOKENS} tokens; no more are kept")));
            }
            tokens.push(token.clone());
            Ok(())
        })?;
        Ok((token, format!("dacapo_{id}_{secret}")))
    }

    /// Revokes a token: no request that comes from here on is taken with it.
    ///
    /// # Errors
    /// If there is none of that id, or the file cannot be written.
    pub fn revoke(&self, id: &str, now: TimestampMs) -> Result<Token> {
        let mut revoked = None;
        self.change(|tokens| {
            let exist = tokens.iter().map(|token| token.id.as_str()).collect::<Vec<_>>().join(", ");
            let unknown = || Problem::new("not-found", format!("there is no token {id:?}; there are: {exist}"));
            let token = tokens.iter_mut().find(|token| token.id == id).ok_or_else(unknown)?;
            token.revoked_at.get_or_insert(now);
            revoked = Some(token.clone());
            Ok(())
        })?;
        revoked.ok_or_else(|| Problem::new("internal", "the token was not revoked"))
    }

    /// Replaces the file, whole or not at all; one who changes it after the other.
    fn change(&self, change: impl FnOnce(&mut Vec<Token>) -> Result<()>) -> Result<()> {
        let cannot = |error: std::io::Error| {
            Problem::new("store-failed", format!("cannot write {}: {error}", self.file().display()))
        };
        let lock = std::fs::File::create(self.folder.join("tokens.lock")).map_err(cannot)?;
        lock.lock().map_err(cannot)?;
        let mut tokens = self.all()?.map(|tokens| tokens.to_vec()).unwrap_or_default();
        change(&mut tokens)?;
        let new = self.folder.join("tokens.json.new");
        let text = serde_json::to_vec_pretty(&Kept { tokens }).map_err(std::io::Error::from).map_err(cannot)?;
        let written = || {
            // Hashes only; but nobody else has to know who may do what.
            let options = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
            let mut file = options?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, self.file())?;
            std::fs::File::open(&self.folder)?.sync_all()
        };
        written().map_err(cannot)
    }

    fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    fn unreadable(&self, error: &dyn std::fmt::Display) -> Problem {
        let file = self.file();
        Problem::new("store-damaged", format!("{}: {error}; nobody is let in until it can be read", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("dacapo-tokens-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn new(scopes: &[Scope]) -> NewToken {
        NewToken { name: "grace".to_owned(), scopes: scopes.iter().copied().collect(), ..NewToken::default() }
    }

    #[test]
    fn a_token_is_found_by_its_text_until_it_is_revoked_or_expires() {
        let folder = folder("life");
        let (tokens, server) = (Tokens::of(&folder), Tokens::of(&folder));
        assert!(server.all().unwrap().is_none());
        let (made, text) = tokens.create(new(&[Scope::Read]), TimestampMs(5)).unwrap();
        let stored = std::fs::read_to_string(folder.join(FILE)).unwrap();
        assert!(!stored.contains(text.rsplit_once('_').unwrap().1), "the secret is not kept");
        assert_eq!(server.find(&text, TimestampMs(6)).unwrap().id, made.id);
        let refused = |text: &str, at: u64| server.find(text, TimestampMs(at)).unwrap_err();
        assert_eq!(refused(&text[..text.len() - 1], 6).code, "token-refused");
        assert!(refused("rubbish", 6).detail.contains("dacapo token create"));
        let brief = NewToken { expires_at: Some(TimestampMs(10)), ..new(&[Scope::Worker]) };
        let (_, brief) = tokens.create(brief, TimestampMs(5)).unwrap();
        assert!(server.find(&brief, TimestampMs(9)).is_ok());
        assert!(refused(&brief, 10).detail.contains("expired at"));
        tokens.revoke(&made.id, TimestampMs(7)).unwrap();
        assert!(refused(&text, 8).detail.contains("was revoked at"));
        assert_eq!(server.all().unwrap().unwrap().len(), 2, "what was revoked stays");
        assert!(tokens.revoke("nobody", TimestampMs(7)).unwrap_err().detail.contains(&made.id));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_is_damaged_or_gone_lets_nobody_in() {
        let folder = folder("damaged");
        let tokens = Tokens::of(&folder);
        let (_, text) = tokens.create(new(&[Scope::Read]), TimestampMs(5)).unwrap();
        assert!(tokens.find(&text, TimestampMs(6)).is_ok());
        std::fs::write(folder.join(FILE), "{\"tokens\":[").unwrap();
        assert_eq!(tokens.find(&text, TimestampMs(6)).unwrap_err().code, "store-damaged");
        std::fs::remove_file(folder.join(FILE)).unwrap();
        assert_eq!(tokens.all().unwrap_err().code, "store-damaged");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn scopes_include_reading_where_that_is_needed_to_act() {
        let includes = |scope: Scope| Scope::ALL.map(|needed| scope.includes(needed));
        assert_eq!(includes(Scope::Read), [true, false, false, false]);
        assert_eq!(includes(Scope::Operate), [true, true, false, false]);
        assert_eq!(includes(Scope::Deploy), [true, false, true, false]);
        assert_eq!(includes(Scope::Worker), [false, false, false, true]);
    }
}
