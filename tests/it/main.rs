//! Every integration test, in one binary: it links once.

mod alone;
mod cli_entities;
mod cli_new;
mod cli_run;
mod cli_server;
mod cli_support;
mod crash_kill;
mod guests;
mod harness;
mod s_bad_input;
mod s_calls;
mod s_determinism;
mod s_entities;
mod s_instances;
mod s_life;
mod s_replay;
mod s_signals;
mod s_time;
mod s_updates;
mod snapshot;
mod store_contract;
mod store_faults;
mod store_format;
mod store_medium;
mod store_support;
