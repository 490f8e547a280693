//! Settles an insurance claim: a rule around every call, a choice that is recorded, work
//! beside the main flow, and a query of where it stands.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use claims_api::{Claim, OfficeProxy, Payment};
use dacapo_sdk::{CallInterceptor, Called, Context, Error, Payload, Result, orchestration};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Nothing above the cover is paid, wherever in the program it is asked for.
struct WithinCover(u64);

impl CallInterceptor for WithinCover {
    fn before(&self, called: Called<'_>, input: Payload) -> Result<Payload> {
        if called.name == "office.pay" {
            let Payment { amount, .. } = input.decode()?;
            if amount > self.0 {
                let message = format!("{amount} EUR are more than the cover of {} EUR", self.0);
                return Err(Error::new(message).with_type("NotCovered"));
            }
        }
        Ok(input)
    }
}

/// Most claims are paid at once; large ones, and one in twenty of the others, wait for
/// the event `verdict` with the amount that a person thinks right.
#[orchestration]
pub async fn claim(ctx: Context, claim: Claim) -> Result<u64> {
    ctx.intercept(WithinCover(claim.cover));
    let stands = Rc::new(Cell::new("being looked at"));
    let now = Rc::clone(&stands);
    ctx.on_query("stands", move |()| Ok(now.get()));

    // Another rate in the next version changes no claim that is under way.
    let in_the_sample = ctx.record("in-the-sample", || ctx.random_range(1..=20) == 1)?;
    let amount = if in_the_sample || claim.amount > 1_000 {
        let reminding = ctx.spawn(remind_daily(ctx.clone(), claim.holder.clone()));
        let verdict = ctx.wait_for_event::<u64>("verdict").await?;
        reminding.abort();
        verdict
    } else {
        claim.amount
    };

    stands.set("being paid");
    OfficeProxy::new(&ctx).pay(Payment { holder: claim.holder, amount }).await?;
    Ok(amount)
}

/// Until somebody has decided.
async fn remind_daily(ctx: Context, holder: String) -> Result<()> {
    let office = OfficeProxy::new(&ctx);
    loop {
        office.remind(holder.clone()).await?;
        ctx.delay(DAY).await;
    }
}

dacapo_sdk::export_orchestrations!(claim);
