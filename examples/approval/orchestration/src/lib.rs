//! Asks a person and waits, but not for ever.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use approval_api::{Approval, Decision, Expense, OutboxProxy, Question, Standing};
use dacapo_sdk::{Context, Result, bail, futures::select_biased, orchestration, query};

/// Where the question stands; asked with `dacapo query ID standing`.
#[query]
fn standing(standing: &Standing) -> Result<Standing> {
    Ok(standing.clone())
}

/// Asks for approval and waits for the event `approved` or the end of patience.
#[orchestration(updates = ["extend"], queries = [standing])]
pub async fn approval(ctx: Context, expense: Expense) -> Result<Decision> {
    let outbox = OutboxProxy::new(&ctx);
    let answer_by = ctx.now() + Duration::from_secs(expense.patience);
    let now = Rc::new(RefCell::new(Standing { subject: expense.subject.clone(), answer_by, decision: None }));
    ctx.answer::<standing>(&now);
    let extended = Rc::clone(&now);
    ctx.on_update("extend", move |seconds: u64| {
        let answer_by = extended.borrow().answer_by + Duration::from_secs(seconds);
        extended.borrow_mut().answer_by = answer_by;
        async move { Ok(answer_by) }
    })
    .validate(|seconds| if *seconds > 604_800 { bail!("no more than a week at a time") } else { Ok(()) });
    let question = Question { instance: ctx.info().instance, expense, answer_by };
    outbox.ask(question).await?;
    ctx.custom_status("waiting for approval");

    // The one that loses is cancelled: dropping a future is all it takes.
    let mut approval = ctx.wait_for_event::<Approval>("approved");
    let decision = loop {
        let at = now.borrow().answer_by;
        select_biased! {
            approval = approval => break Decision::Approved { by: approval?.by },
            // Meanwhile somebody may have asked for more time.
            () = ctx.delay_until(at) => if now.borrow().answer_by == at { break Decision::Expired { at } },
        }
    };

    now.borrow_mut().decision = Some(decision.clone());
    outbox.tell(decision.clone()).await?;
    Ok(decision)
}

dacapo_sdk::export_orchestrations!(approval);
