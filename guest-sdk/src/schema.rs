//! JSON Schemas of types that have one, none for those that have not: chosen by
//! which method call resolves first, so that `JsonSchema` stays optional.

use std::marker::PhantomData;

/// Asks for the schema of `T`, as `(&Probe::<T>::new()).schema()` with both
/// traits in scope.
#[derive(Debug)]
pub struct Probe<T>(PhantomData<fn() -> T>);

impl<T> Probe<T> {
    /// Asks for the schema of `T`.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

/// Resolves first, for types with a schema.
pub trait WithSchema {
    /// The schema as JSON text.
    fn schema(&self) -> Option<String>;
}

impl<T: schemars::JsonSchema> WithSchema for Probe<T> {
    fn schema(&self) -> Option<String> {
        serde_json::to_string(&schemars::schema_for!(T)).ok()
    }
}

/// Resolves for all other types.
pub trait WithoutSchema {
    /// None.
    fn schema(&self) -> Option<String>;
}

impl<T> WithoutSchema for &Probe<T> {
    fn schema(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::needless_borrow)]
    fn a_schema_where_there_is_one() {
        struct Plain;
        assert!((&Probe::<u32>::new()).schema().unwrap().contains("integer"));
        assert_eq!((&Probe::<Plain>::new()).schema(), None);
    }
}
