//! The pure heart: ids, events, the state they add up to, and the turn.
//!
//! Synchronous, without a clock, without IO. Everything above asks; this answers.

pub mod calls;
pub mod divergence;
pub mod entity;
pub mod event;
pub mod execution;
pub mod fork;
pub mod ids;
pub mod keys;
pub mod large;
pub mod mail;
pub mod namespace;
pub mod panics;
pub mod payload;
pub mod request;
pub mod retry;
pub mod rewind;
pub mod summary;
pub mod task;
pub mod trace;
pub mod turn;
