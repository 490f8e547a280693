use dacapo_sdk::entity;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Account(u64);

#[entity]
impl Account {
    fn helper(&self) -> u64 {
        self.0
    }
}

fn main() {}
