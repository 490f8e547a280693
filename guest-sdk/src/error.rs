//! Errors: what an orchestration or an activity fails with, and what it sees
//! when something that it called failed.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::bindings::types as wit;
use crate::payload::Payload;

/// `Result` with [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something did not succeed.
///
/// `?` turns any `std::error::Error` into one, of kind
/// [`Application`](FailureKind::Application), its sources in the message. (For
/// that, `Error` itself is no `std::error::Error`.)
///
/// ```
/// use dacapo_sdk::{Error, Result};
///
/// fn charge(card: &str) -> Result<u64> {
///     if card.is_empty() {
///         return Err(Error::new("no card").with_type("CardDeclined").non_retryable());
///     }
///     Ok(card.parse::<u64>()?)
/// }
///
/// assert_eq!(charge("").unwrap_err().error_type(), "CardDeclined");
/// assert_eq!(charge("x").unwrap_err().message(), "invalid digit found in string");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    failure: Failure,
    /// Set by `continue_as_new`: no failure but the end of this execution.
    next_input: Option<Payload>,
}

/// An [`Error`] as plain data, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What sort of failure it is.
    pub kind: FailureKind,
    /// The application's name for it (`CardDeclined`), or which timeout expired.
    pub error_type: String,
    /// For people.
    pub message: String,
    /// True: no retry policy tries again.
    pub non_retryable: bool,
    /// For programs.
    pub details: Option<Payload>,
}

/// What sort of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The activity's or orchestration's own error.
    Application,
    /// A timeout expired; the error type names which one.
    TimedOut,
    /// The operation was cancelled.
    Cancelled,
    /// The instance was terminated from outside.
    Terminated,
    /// Nothing has that name.
    NotFound,
    /// A payload is larger than the host allows.
    TooLarge,
    /// The host does not serve what was asked for.
    Unsupported,
    /// A guest trapped: a panic, an overflowing stack.
    Trapped,
    /// A guest used more time or memory than it is granted.
    Exhausted,
    /// A replay asked for something else than what was recorded.
    Nondeterministic,
}

impl Error {
    /// An application's own error.
    pub fn new(message: impl Into<String>) -> Self {
        Self::of_kind(FailureKind::Application, message)
    }

    pub(crate) fn of_kind(kind: FailureKind, message: impl Into<String>) -> Self {
        Self::from_failure(Failure {
            kind,
            error_type: String::new(),
            message: message.into(),
            non_retryable: false,
            details: None,
        })
    }

    /// Turns recorded data into an error.
    pub fn from_failure(failure: Failure) -> Self {
        Self(Box::new(Inner { failure, next_input: None }))
    }

    /// Not a failure: the execution ends, the next one starts with `input`.
    pub(crate) fn continue_as_new(input: Payload) -> Self {
        let mut error = Self::new("continue as new");
        error.0.next_input = Some(input);
        error
    }

    /// The input of the next execution, if this is no failure but a
    /// continue-as-new.
    pub(crate) fn take_next_input(&mut self) -> Option<Payload> {
        self.0.next_input.take()
    }

    /// Names the error for retry policies and callers.
    #[must_use]
    pub fn with_type(mut self, error_type: impl Into<String>) -> Self {
        self.0.failure.error_type = error_type.into();
        self
    }

    /// No retry policy tries again.
    #[must_use]
    pub fn non_retryable(mut self) -> Self {
        self.0.failure.non_retryable = true;
        self
    }

    /// Adds data for programs. What JSON cannot express is left out, and the
    /// message says so.
    #[must_use]
    pub fn with_details<T: Serialize + ?Sized>(mut self, details: &T) -> Self {
        match Payload::json(details) {
            Ok(payload) => self.0.failure.details = Some(payload),
            Err(error) => {
                let message = &mut self.0.failure.message;
                message.push_str(&format!(" (details lost: {})", error.message()));
            }
        }
        self
    }

    /// Puts `what` was being done before the message.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        let message = &mut self.0.failure.message;
        *message = format!("{what}: {message}");
        self
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> FailureKind {
        self.0.failure.kind
    }

    /// The application's name for it; empty if it has none.
    pub fn error_type(&self) -> &str {
        &self.0.failure.error_type
    }

    /// For people.
    pub fn message(&self) -> &str {
        &self.0.failure.message
    }

    /// True: no retry policy tries again.
    pub fn is_non_retryable(&self) -> bool {
        self.0.failure.non_retryable
    }

    /// True if a timeout expired; [`error_type`](Self::error_type) names which:
    /// `schedule-to-start`, `start-to-close`, `schedule-to-close`, `heartbeat`.
    pub fn is_timeout(&self) -> bool {
        self.kind() == FailureKind::TimedOut
    }

    /// True if the operation was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.kind() == FailureKind::Cancelled
    }

    /// The data that the failing side attached.
    ///
    /// # Errors
    /// There is none, or it is no `T`.
    pub fn details<T: DeserializeOwned>(&self) -> Result<T> {
        match &self.0.failure.details {
            Some(details) => details.decode_as("details of an error"),
            None => Err(Self::new(format!("no details in: {self}"))),
        }
    }

    /// The error as plain data.
    pub fn into_failure(self) -> Failure {
        self.0.failure
    }
}

/// Returns an [`Error`] from the function, with a message as of `format!`.
///
/// ```
/// fn check(nights: u32) -> dacapo_sdk::Result<()> {
///     if nights == 0 {
///         dacapo_sdk::bail!("no nights in a stay of {nights}");
///     }
///     Ok(())
/// }
/// assert!(check(0).is_err());
/// ```
#[macro_export]
macro_rules! bail {
    ($($message:tt)+) => {
        return ::core::result::Result::Err($crate::Error::new(::std::format!($($message)+)).into())
    };
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { kind, error_type, message, .. } = &self.0.failure;
        if *kind != FailureKind::Application {
            write!(f, "{kind}: ")?;
        }
        if !error_type.is_empty() {
            write!(f, "{error_type}: ")?;
        }
        f.write_str(message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.failure, f)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self::new(message)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Application => "application",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::Terminated => "terminated",
            Self::NotFound => "not-found",
            Self::TooLarge => "too-large",
            Self::Unsupported => "unsupported",
            Self::Trapped => "trapped",
            Self::Exhausted => "exhausted",
            Self::Nondeterministic => "nondeterministic",
        })
    }
}

/// Both directions of an enum that is the same on both sides.
macro_rules! same_cases {
    ($($case:ident)+) => {
        impl From<wit::FailureKind> for FailureKind {
            fn from(kind: wit::FailureKind) -> Self {
                match kind { $(wit::FailureKind::$case => Self::$case,)+ }
            }
        }
        impl From<FailureKind> for wit::FailureKind {
            fn from(kind: FailureKind) -> Self {
                match kind { $(FailureKind::$case => Self::$case,)+ }
            }
        }
    };
}

same_cases!(Application TimedOut Cancelled Terminated NotFound TooLarge Unsupported Trapped
    Exhausted Nondeterministic);

impl From<wit::Failure> for Failure {
    fn from(failure: wit::Failure) -> Self {
        Self {
            kind: failure.kind.into(),
            error_type: failure.error_type,
            message: failure.message,
            non_retryable: failure.non_retryable,
            details: failure.details.map(Into::into),
        }
    }
}

impl From<Failure> for wit::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind.into(),
            error_type: failure.error_type,
            message: failure.message,
            non_retryable: failure.non_retryable,
            details: failure.details.map(Into::into),
        }
    }
}
