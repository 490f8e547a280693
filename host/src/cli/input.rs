//! Values that people type: JSON as text, in a file, or on stdin.

use std::io::Read as _;
use std::time::Duration;

use super::error::{CliError, Result};
use crate::core::ids::InstanceId;
use crate::core::payload::Payload;
use crate::core::summary::Status;
use crate::server::api::instance_id;

/// Reads `JSON`, `@FILE` or `-`, and checks that it is JSON.
pub(crate) fn payload(what: &str, text: &str) -> Result<Payload> {
    let cannot =
        |from: &str, error: std::io::Error| CliError::input(format!("cannot read {what} from {from}: {error}"));
    let (from, bytes) = if text == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| cannot("stdin", error))?;
        ("stdin".to_owned(), bytes)
    } else if let Some(file) = text.strip_prefix('@') {
        (file.to_owned(), std::fs::read(file).map_err(|error| cannot(file, error))?)
    } else {
        ("the command line".to_owned(), text.as_bytes().to_vec())
    };
    match serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        Ok(_) => Ok(Payload::json(bytes)),
        Err(error) => Err(CliError::input(format!(
            "{what} from {from} is not JSON: {error}; expected JSON, @FILE, or - for stdin, and a text in \"quotes\""
        ))),
    }
}

/// Reads an instance's id.
pub(crate) fn id(text: &str) -> Result<InstanceId> {
    Ok(instance_id(text)?)
}

/// Reads one of a type's names, as JSON has them; for clap.
pub(crate) fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

/// Reads a length of time: a number and s, m, h or d; for clap.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a number and s, m, h or d, such as 30d; found {text:?}");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

/// Reads `STATUS=AGE`; for clap.
pub(crate) fn kept(text: &str) -> Result<(Status, Duration), String> {
    let (status, age_of) = pair(text)?;
    let status: Status = status.parse()?;
    if !status.is_final() {
        return Err(format!("{status} instances are always kept; expected completed, failed or terminated"));
    }
    Ok((status, age(&age_of)?))
}

/// Reads `NAME=VALUE`; for clap.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("expected NAME=VALUE, found {text:?}")),
    }
}

/// Reads `NAME=URL` of a service; for clap.
pub(crate) fn service(text: &str) -> Result<(String, String), String> {
    match pair(text)? {
        (name, url) if url.starts_with("http://") || url.starts_with("https://") => {
            Ok((name, url.trim_end_matches('/').to_owned()))
        }
        _ => Err(format!("expected NAME=URL with http:// or https://, found {text:?}")),
    }
}

/// An id for people: the orchestration's name and six letters and digits.
pub(crate) fn fresh_id(orchestration: &str) -> Result<InstanceId> {
    // Without those that look alike.
    const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
    let mut random = [0; 6];
    getrandom::fill(&mut random).map_err(|error| CliError::host(format!("no randomness: {error}")))?;
    let suffix: String = random.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    let mut name = orchestration.to_owned();
    while name.len() > 100 {
        name.pop();
    }
    id(&format!("{name}-{suffix}"))
}
