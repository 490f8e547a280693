//! dacapo.
pub mod core;
pub mod sandbox;
pub mod store;
