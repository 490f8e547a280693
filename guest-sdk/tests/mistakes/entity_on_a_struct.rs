use dacapo_sdk::entity;
use serde::{Deserialize, Serialize};

#[entity]
#[derive(Clone, Default, Serialize, Deserialize)]
struct Account(u64);

fn main() {}
