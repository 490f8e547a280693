use dacapo_sdk::{Result, entity};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Account(u64);

#[entity]
impl Account {
    pub fn id(&self) -> Result<u64> {
        Ok(self.0)
    }
}

fn main() {}
