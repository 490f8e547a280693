use dacapo_sdk::entity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Account(u64);

#[entity]
impl Account {
    pub fn balance(&self) -> u64 {
        self.0
    }
}

fn main() {}
