//! Payloads: bytes with a media type, and JSON in and out of them.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// The media type that the SDK writes and reads.
pub const JSON: &str = "application/json";

/// The `error_type` of failures about payloads that are not what was expected.
pub const INVALID_PAYLOAD: &str = "InvalidPayload";

/// Bytes with a media type: what travels between orchestrations, activities and
/// their callers. The host never looks inside.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Payload {
    /// The media type of `data`, such as `application/json`.
    pub content_type: String,
    /// The bytes.
    pub data: Vec<u8>,
}

impl Payload {
    /// Encodes `value` as JSON.
    ///
    /// ```
    /// let payload = dacapo_sdk::Payload::json(&[1, 2])?;
    /// assert_eq!(payload.data, b"[1,2]");
    /// # Ok::<(), dacapo_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// What JSON cannot express, such as a map with keys that are not strings;
    /// of type [`INVALID_PAYLOAD`].
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let data = serde_json::to_vec(value).map_err(|error| {
            let wanted = std::any::type_name::<T>();
            Error::new(format!("{wanted} cannot be written as JSON: {error}"))
                .with_type(INVALID_PAYLOAD)
                .non_retryable()
        })?;
        Ok(Self { content_type: JSON.to_owned(), data })
    }

    /// Decodes JSON. No bytes at all count as `null`, so that a bare event or
    /// timer decodes as `()` or `None`.
    ///
    /// # Errors
    /// Another media type, or JSON that is no `T`: the message names `T` and the
    /// path to the value at fault. Of type [`INVALID_PAYLOAD`], not retryable.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        self.decode_as("payload")
    }

    /// As [`Payload::decode`], the message opening with `what` the payload is.
    pub(crate) fn decode_as<T: DeserializeOwned>(&self, what: impl fmt::Display) -> Result<T> {
        let wanted = std::any::type_name::<T>();
        let invalid = |reason: String| {
            Error::new(format!("{what}: expected {wanted}, {reason}")).with_type(INVALID_PAYLOAD).non_retryable()
        };
        if !self.is_json() {
            return Err(invalid(format!("as {JSON}, found content type {:?}", self.content_type)));
        }
        let text: &[u8] = if self.data.is_empty() { b"null" } else { &self.data };
        if let Ok(value) = serde_json::from_slice(text) {
            return Ok(value);
        }
        // Once more for the message, at the price of keeping track of the path.
        let mut json = serde_json::Deserializer::from_slice(text);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let reason = error.inner();
            if path == "." { invalid(reason.to_string()) } else { invalid(format!("at {path}: {reason}")) }
        })?;
        json.end().map_err(|error| invalid(error.to_string()))?;
        Ok(value)
    }

    fn is_json(&self) -> bool {
        if self.content_type == JSON {
            return true;
        }
        let media_type = self.content_type.split(';').next().unwrap_or("").trim();
        media_type == JSON || media_type.ends_with("+json") || self.data.is_empty()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("content_type", &self.content_type)
            .field("data", &String::from_utf8_lossy(&self.data))
            .finish()
    }
}

impl From<crate::bindings::types::Payload> for Payload {
    fn from(payload: crate::bindings::types::Payload) -> Self {
        Self { content_type: payload.content_type, data: payload.data }
    }
}

impl From<Payload> for crate::bindings::types::Payload {
    fn from(payload: Payload) -> Self {
        Self { content_type: payload.content_type, data: payload.data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code)]
    struct Trip {
        nights: u32,
    }

    #[test]
    fn a_wrong_field_is_named_with_its_path() {
        let payload = Payload::json(&serde_json::json!([{ "nights": "two" }])).unwrap();
        let error = payload.decode_as::<Vec<Trip>>("input").unwrap_err();
        let message = error.message();
        assert!(message.starts_with("input: expected "), "{message}");
        assert!(message.contains("at [0].nights: invalid type"), "{message}");
        assert_eq!(error.error_type(), INVALID_PAYLOAD);
        assert!(error.is_non_retryable());
    }

    #[test]
    fn nothing_is_null_and_trailing_bytes_are_refused() {
        let nothing = Payload { content_type: String::new(), data: Vec::new() };
        nothing.decode::<()>().unwrap();
        let two = Payload { content_type: JSON.to_owned(), data: b"1 2".to_vec() };
        assert!(two.decode::<u32>().is_err());
    }
}
