use dacapo_sdk::{Result, entity};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Account(u64);

#[entity]
impl Account {
    pub fn balance(&self) -> Result<u64> {
        Ok(self.0)
    }
}

fn main() {}
