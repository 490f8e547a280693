//! Where an instance stands in a distributed trace (W3C Trace Context).
//!
//! Nothing of it is recorded: the trace follows from the instance, and every span in it
//! from what the span is about. So a trace goes on after a restart and on another host,
//! and a span that is told twice is the same span.

use super::ids::{ExecutionNumber, Hash, InstanceId, OperationId};

/// A trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(pub [u8; 16]);

/// A span of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// The trace of an instance; `birth` tells it from others that had its id, see
    /// [`super::mail::birth`].
    pub fn of(instance: &InstanceId, birth: u64) -> Self {
        let named = [b"dacapo trace ".as_slice(), &birth.to_le_bytes(), instance.as_str().as_bytes()].concat();
        Self(first(Hash::of(&named)))
    }

    /// The span of the instance as a whole.
    pub fn root(self) -> SpanId {
        self.span(0, &[])
    }

    /// The span of a turn.
    pub fn turn(self, execution: ExecutionNumber, turn: u32) -> SpanId {
        self.span(1, &[execution, turn])
    }

    /// The span of an attempt of an activity.
    pub fn attempt(self, execution: ExecutionNumber, operation: OperationId, attempt: u32) -> SpanId {
        self.span(2, &[execution, operation, attempt])
    }

    fn span(self, kind: u8, numbers: &[u32]) -> SpanId {
        let mut named = [&self.0[..], &[kind]].concat();
        numbers.iter().for_each(|number| named.extend_from_slice(&number.to_le_bytes()));
        SpanId(first(Hash::of(&named)))
    }
}

/// Zeros are no valid id; a hash that begins so will not be met.
fn first<const N: usize>(hash: Hash) -> [u8; N] {
    *hash.0.first_chunk().expect("a hash is longer than an id")
}

/// The header `traceparent` for what is done in a span.
pub fn traceparent(trace: TraceId, span: SpanId) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("00-{}-{}-01", hex(&trace.0), hex(&span.0))
}

/// Reads a header `traceparent`; none if it is not valid.
pub fn parse(text: &str) -> Option<(TraceId, SpanId)> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_known = version == "00" && parts.next().is_none() || version.len() == 2 && !matches!(version, "00" | "ff");
    let lower_hex = |text: &str, len| text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_known || !lower_hex(version, 2) || !lower_hex(trace, 32) || !lower_hex(span, 16) || !lower_hex(flags, 2) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
    let span = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
    Some((TraceId(trace.to_be_bytes()), SpanId(span.to_be_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_follow_from_what_they_are_about() {
        let id = |text| InstanceId::new(text).unwrap();
        let trace = TraceId::of(&id("order-1"), 7);
        assert_eq!(trace, TraceId::of(&id("order-1"), 7));
        assert!(trace != TraceId::of(&id("order-1"), 8) && trace != TraceId::of(&id("order-2"), 7));
        let spans = [trace.root(), trace.turn(1, 1), trace.turn(1, 2), trace.turn(2, 1), trace.attempt(1, 1, 1)];
        assert_eq!(spans.iter().collect::<std::collections::BTreeSet<_>>().len(), spans.len());
        let written = traceparent(trace, trace.root());
        assert_eq!((written.len(), parse(&written)), (55, Some((trace, trace.root()))));
    }

    #[test]
    fn headers_that_are_not_valid_are_none() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(parse(good).is_some());
        assert!(parse(&good.replace("00-", "01-")).is_some(), "later versions begin the same");
        for bad in [
            "",
            "00",
            &good.replace("00-", "ff-"),
            &format!("{good}-more"),
            &good.replace('a', "A"),
            &good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &good.replace("b7ad6b7169203331", &"0".repeat(16)),
            &good[1..],
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
