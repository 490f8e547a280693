//! Asks a person and waits, but not for ever.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use approval_api::{Approval, Decision, Expense, OutboxProxy, Question};
use dacapo_sdk::{Context, Result, bail, futures::select_biased, orchestration};

/// Asks for approval and waits for the event `approved` or the end of patience.
#[orchestration(updates = ["extend"])]
pub async fn approval(ctx: Context, expense: Expense) -> Result<Decision> {
    let outbox = OutboxProxy::new(&ctx);
    let patience = Duration::from_secs(expense.patience);
    let answer_by = Rc::new(Cell::new(ctx.now() + patience));
    let extended = Rc::clone(&answer_by);
    ctx.on_update("extend", move |seconds: u64| {
        extended.set(extended.get() + Duration::from_secs(seconds));
        let answer_by = extended.get();
        async move { Ok(answer_by) }
    })
    .validate(|seconds| if *seconds > 604_800 { bail!("no more than a week at a time") } else { Ok(()) });
    let question = Question { instance: ctx.info().instance, expense, answer_by: answer_by.get() };
    outbox.ask(question).await?;
    ctx.custom_status("waiting for approval");

    // The one that loses is cancelled: dropping a future is all it takes.
    let mut approval = ctx.wait_for_event::<Approval>("approved");
    let decision = loop {
        let at = answer_by.get();
        select_biased! {
            approval = approval => break Decision::Approved { by: approval?.by },
            // Meanwhile somebody may have asked for more time.
            () = ctx.delay_until(at) => if answer_by.get() == at { break Decision::Expired { at } },
        }
    };

    outbox.tell(decision.clone()).await?;
    Ok(decision)
}

dacapo_sdk::export_orchestrations!(approval);
