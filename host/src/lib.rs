//! dacapo.
pub mod core;
pub mod engine;
pub mod sandbox;
pub mod store;
