//! Mistakes that the compiler finds, and what it says about them. Where a message is
//! the macros' own it says what was expected; where it is the compiler's it points at
//! the type at fault. `TRYBUILD=overwrite` writes down what is said now.

#[test]
fn mistakes_do_not_compile_and_are_explained() {
    trybuild::TestCases::new().compile_fail("tests/mistakes/*.rs");
}
