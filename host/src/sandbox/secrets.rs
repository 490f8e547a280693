//! Secrets: values that activities get and nobody else sees.
//!
//! A grant names a secret and the environment variable in which an activity finds
//! it; the value is looked up when an attempt begins, in the host's environment or
//! its secrets file, and goes into that one guest. It is in no store, no history, no
//! answer of the API. What comes out of the guest (results, failures, log lines) is
//! searched for it, since an error message that quotes a request is how secrets get
//! into logs: a [`Scrubber`] puts the secret's name in its place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::core::payload::{Failure, FailureKind, Payload};

/// Shorter values are in too many words to be looked for.
const MIN_SCRUBBED_BYTES: usize = 4;

/// Where secrets are. By default there are none.
#[derive(Clone, Default)]
pub struct Secrets {
    given: Arc<BTreeMap<String, String>>,
    file: Option<Arc<PathBuf>>,
    environment: bool,
}

/// A secret's value. It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a secret is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSecret {
    /// Nothing has that name.
    #[error("the secret {name:?} is not set; set {variable} where the host runs, or put it in the secrets file")]
    Unset {
        /// The name.
        name: String,
        /// The environment variable that would hold it.
        variable: String,
    },
    /// The file cannot be used. Its text is not told.
    #[error("the secrets file {path} cannot be used: {why}")]
    File {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
}

impl Secrets {
    /// These, by name.
    pub fn of(secrets: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { given: Arc::new(secrets.into_iter().collect()), ..Self::default() }
    }

    /// Those of this host: the environment's `DACAPO_SECRET_*`, then `file`, in
    /// which each line is `name = "value"`. Both are read when a secret is needed, so
    /// a changed one counts from the next attempt.
    pub fn of_host(file: Option<PathBuf>) -> Self {
        Self { file: file.map(Arc::new), environment: true, ..Self::default() }
    }

    /// The value of the secret `name`.
    ///
    /// # Errors
    /// If there is none, or the file cannot be read.
    pub fn get(&self, name: &str) -> Result<Secret, NoSecret> {
        if let Some(value) = self.given.get(name) {
            return Ok(Secret(value.clone()));
        }
        let variable = variable_of(name);
        if self.environment
            && let Ok(value) = std::env::var(&variable)
        {
            return Ok(Secret(value));
        }
        if let Some(value) = self.in_file()?.remove(name) {
            return Ok(Secret(value));
        }
        Err(NoSecret::Unset { name: name.to_owned(), variable })
    }

    fn in_file(&self) -> Result<BTreeMap<String, String>, NoSecret> {
        let Some(path) = &self.file else { return Ok(BTreeMap::new()) };
        let cannot = |why: String| NoSecret::File { path: path.display().to_string(), why };
        let text = std::fs::read_to_string(&**path).map_err(|error| cannot(error.to_string()))?;
        // What the parser says quotes the line.
        toml::from_str(&text).map_err(|_| cannot("expected lines of name = \"value\"".to_owned()))
    }
}

/// The environment variable that holds the secret `name`.
fn variable_of(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("DACAPO_SECRET_{}", name.chars().map(letter).collect::<String>())
}

impl Secret {
    /// The value, for whoever it was granted to.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.given.keys().collect();
        f.debug_struct("Secrets").field("given", &names).field("file", &self.file).finish_non_exhaustive()
    }
}

/// What an attempt fails with that was granted a secret which is not there. It may
/// be tried again: somebody may set it meanwhile.
pub(super) fn missing(activity: &str, why: &NoSecret) -> Failure {
    let mut failure = Failure::retryable(FailureKind::NotFound, format!("{activity} was not run: {why}"));
    failure.error_type = "SecretMissing".to_owned();
    failure
}

/// Finds values of secrets in what a guest lets out.
#[derive(Clone, Debug, Default)]
pub(super) struct Scrubber(Arc<[(String, Secret)]>);

impl Scrubber {
    /// Looks for these, by name: the longest first, since one may contain another.
    pub(super) fn new(secrets: impl IntoIterator<Item = (String, Secret)>) -> Self {
        let mut forms = Vec::new();
        for (name, secret) in secrets.into_iter().filter(|(_, secret)| secret.0.len() >= MIN_SCRUBBED_BYTES) {
            // As it stands in JSON, if that is something else.
            let quoted = serde_json::Value::from(secret.reveal()).to_string();
            let escaped = quoted[1..quoted.len() - 1].to_owned();
            if escaped != secret.0 {
                forms.push((name.clone(), Secret(escaped)));
            }
            forms.push((name, secret));
        }
        forms.sort_by_key(|(_, secret)| std::cmp::Reverse(secret.0.len()));
        Self(forms.into())
    }

    /// `text` with names in the place of secrets.
    pub(super) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut scrubbed = Cow::Borrowed(text);
        for (name, secret) in self.0.iter().filter(|(_, secret)| text.contains(secret.reveal())) {
            scrubbed = scrubbed.replace(secret.reveal(), &format!("[secret {name}]")).into();
        }
        scrubbed
    }

    /// A payload with names in the place of secrets.
    pub(super) fn payload(&self, payload: Payload) -> Payload {
        if self.0.is_empty() {
            return payload;
        }
        let scrubbed = match std::str::from_utf8(&payload.data) {
            Ok(text) => self.text(text).into_owned(),
            Err(_) => return self.bytes(payload),
        };
        Payload { data: scrubbed.into_bytes().into(), ..payload }
    }

    /// What is not text is let out as it is or not at all.
    fn bytes(&self, payload: Payload) -> Payload {
        let has = |secret: &Secret| payload.data.windows(secret.0.len()).any(|bytes| bytes == secret.0.as_bytes());
        match self.0.iter().find(|(_, secret)| has(secret)) {
            Some((name, _)) => Payload { data: format!("[secret {name}]").into_bytes().into(), ..payload },
            None => payload,
        }
    }

    /// A failure with names in the place of secrets.
    pub(super) fn failure(&self, mut failure: Failure) -> Failure {
        if self.0.is_empty() {
            return failure;
        }
        for text in [&mut failure.message, &mut failure.error_type] {
            *text = self.text(text).into_owned();
        }
        failure.details = failure.details.map(|details| self.payload(details));
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubber() -> Scrubber {
        let secrets = [("short", "abc"), ("key", "s3cr3t"), ("longer", "s3cr3t-and-more"), ("odd", "qu\"ote")];
        Scrubber::new(secrets.map(|(name, value)| (name.to_owned(), Secret(value.to_owned()))))
    }

    #[test]
    fn values_are_replaced_by_their_names_in_all_that_comes_out() {
        let scrubber = scrubber();
        assert_eq!(scrubber.text("use s3cr3t-and-more, or s3cr3t"), "use [secret longer], or [secret key]");
        assert_eq!(scrubber.text("abc"), "abc", "too short to be looked for");
        let payload = scrubber.payload(Payload::of("it was qu\"ote").unwrap());
        assert_eq!(payload, Payload::json("\"it was [secret odd]\""));
        let bytes = scrubber.payload(Payload::new("image/png", [&[0xff][..], b"s3cr3t"].concat()));
        assert_eq!(&*bytes.data, b"[secret key]");
        let mut failure = Failure::retryable(FailureKind::Application, "no s3cr3t here");
        failure.details = Some(Payload::json("\"s3cr3t\""));
        let failure = scrubber.failure(failure);
        assert_eq!(failure.message, "no [secret key] here");
        assert_eq!(failure.details, Some(Payload::json("\"[secret key]\"")));
        assert!(!format!("{scrubber:?}").contains("s3cr3t"));
    }

    #[test]
    fn what_is_not_there_is_told_with_where_it_could_be() {
        let none = Secrets::of_host(None).get("stripe-key.test").unwrap_err().to_string();
        assert!(none.contains("DACAPO_SECRET_STRIPE_KEY_TEST"), "{none}");
        let file = std::env::temp_dir().join(format!("dacapo-secrets-{}", std::process::id()));
        std::fs::write(&file, "stripe = \"s3cr3t\"\n").unwrap();
        let secrets = Secrets::of_host(Some(file.clone()));
        assert_eq!(secrets.get("stripe").unwrap().reveal(), "s3cr3t");
        std::fs::write(&file, "stripe = s3cr3t\n").unwrap();
        let broken = secrets.get("stripe").unwrap_err().to_string();
        assert!(broken.contains("name = \"value\"") && !broken.contains("s3cr3t"), "{broken}");
        std::fs::remove_file(file).unwrap();
    }
}
