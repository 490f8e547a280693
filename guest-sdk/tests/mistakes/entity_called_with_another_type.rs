use dacapo_sdk::{Context, Result, entity, orchestration};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Account(u64);

#[entity]
impl Account {
    pub fn deposit(&mut self, amount: u64) -> Result<u64> {
        self.0 += amount;
        Ok(self.0)
    }
}

#[orchestration]
async fn pays(ctx: Context) -> Result<u64> {
    ctx.entity::<Account>("ada").deposit("five").await
}

fn main() {}
