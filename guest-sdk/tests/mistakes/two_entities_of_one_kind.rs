use dacapo_sdk::{Result, entity};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Account(u64);

#[entity]
impl Account {
    pub fn balance(&self) -> Result<u64> {
        Ok(self.0)
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Ledger(u64);

#[entity(kind = "account")]
impl Ledger {
    pub fn balance(&self) -> Result<u64> {
        Ok(self.0)
    }
}

dacapo_sdk::export_orchestrations!(; entities: Account, Ledger);

fn main() {}
