//! Every integration test, in one binary: it links once.

mod store_contract;
mod store_faults;
mod store_format;
mod store_medium;
mod store_support;
