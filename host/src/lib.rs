//! **dacapo** runs orchestrations: long-running processes written as plain async
//! code, compiled to WebAssembly, journaled step by step.
//!
//! The whole of it in ten lines:
//!
//! 1. An instance's owner takes what came in for it: results, events, fired timers.
//! 2. Its guest is in memory, or is made again by replaying its history.
//! 3. The guest runs until all it does is wait; every import is recorded.
//! 4. The turn is sealed: deliveries, answers, commands, outcome; hashed into the
//!    chain of turns.
//! 5. Many sealed turns become one commit, with one sync of the disk.
//! 6. Only now is anything let out: activities run, timers are armed, callers are
//!    answered.
//! 7. An activity's outcome comes in, and it begins again: da capo.
//!
//! Killed anywhere, it goes on from the last commit as if nothing had happened.
//!
//! The modules in reading order: [`core`] is pure, [`sandbox`] runs guests,
//! [`store`] keeps histories, [`engine`] is the loop above, [`replay`] runs a
//! history again. Imports point one way, from the last to the first.

pub mod core;
pub mod sandbox;
pub mod store;

pub mod engine;

pub mod replay;

pub mod bench;

pub mod server;

pub mod project;

pub mod cli;
