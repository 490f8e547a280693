use dacapo_sdk::{Result, entity};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Account(u64);

#[entity]
impl Account {
    pub fn transfer(&mut self, to: String, amount: u64) -> Result<u64> {
        self.0 -= amount;
        Ok(self.0)
    }
}

fn main() {}
