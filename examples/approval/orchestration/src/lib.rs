//! Asks a person and waits, but not for ever.

use std::time::Duration;

use approval_api::{Approval, Decision, Expense, OutboxProxy, Question};
use dacapo_sdk::{Context, Result, futures::select_biased, orchestration};

/// Asks for approval and waits for the event `approved` or the end of patience.
#[orchestration]
pub async fn approval(ctx: Context, expense: Expense) -> Result<Decision> {
    let outbox = OutboxProxy::new(&ctx);
    let patience = Duration::from_secs(expense.patience);
    let answer_by = ctx.now() + patience;
    let question = Question { instance: ctx.info().instance, expense, answer_by };
    outbox.ask(question).await?;
    ctx.custom_status("waiting for approval");

    // The one that loses is cancelled: dropping a future is all it takes.
    let decision = select_biased! {
        approval = ctx.wait_for_event::<Approval>("approved") => {
            Decision::Approved { by: approval?.by }
        }
        () = ctx.delay_until(answer_by) => Decision::Expired { at: answer_by },
    };

    outbox.tell(decision.clone()).await?;
    Ok(decision)
}

dacapo_sdk::export_orchestrations!(approval);
