//! Accounts as entities, and a transfer that nobody sees half done.

use dacapo_sdk::{Context, Result, bail, entity, orchestration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is known of an account.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Account {
    balance: u64,
}

#[entity]
impl Account {
    /// Puts money in; the balance then.
    pub fn deposit(&mut self, amount: u64) -> Result<u64> {
        self.balance += amount;
        Ok(self.balance)
    }

    /// Takes money out, if there is enough; the balance then.
    pub fn withdraw(&mut self, amount: u64) -> Result<u64> {
        if amount > self.balance {
            bail!("{} is all there is, {amount} was asked for", self.balance);
        }
        self.balance -= amount;
        Ok(self.balance)
    }

    /// What is there.
    pub fn balance(&self) -> Result<u64> {
        Ok(self.balance)
    }
}

/// How much goes from whom to whom.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Transfer {
    from: String,
    to: String,
    amount: u64,
}

/// Both balances after a transfer.
#[derive(Serialize, JsonSchema)]
pub struct Balances {
    from: u64,
    to: u64,
}

/// Moves money. While it does, both accounts are locked: whoever else asks for
/// something waits, and two transfers in opposite directions do not wait for each
/// other for ever.
#[orchestration]
async fn transfer(ctx: Context, order: Transfer) -> Result<Balances> {
    let (from, to) = (ctx.entity::<Account>(order.from), ctx.entity::<Account>(order.to));
    let _both = ctx.lock([&from, &to]).await?;
    let left = from.withdraw(order.amount).await?;
    Ok(Balances { from: left, to: to.deposit(order.amount).await? })
}

dacapo_sdk::export_orchestrations!(transfer; entities: Account);
