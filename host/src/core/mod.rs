//! The pure heart: ids, events, the state they add up to, and the turn.
//!
//! Synchronous, without a clock, without IO. Everything above asks; this answers.

pub mod entity;
pub mod event;
pub mod execution;
pub mod ids;
pub mod mail;
pub mod payload;
pub mod request;
pub mod retry;
pub mod summary;
pub mod turn;
