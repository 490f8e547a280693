//! Orchestrations that are asked for things while they run.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dacapo_sdk::{Context, Result, bail, futures, orchestration};

/// A cart that is filled by updates, emptied by events: `end` returns it, `anew`
/// goes on with it in another execution.
#[orchestration(updates = ["add", "add_kept", "blow_up", "large"])]
async fn cart(ctx: Context, items: Vec<String>) -> Result<Vec<String>> {
    let items = Rc::new(RefCell::new(items));
    let (adding, seen) = (Rc::clone(&items), Rc::clone(&items));
    ctx.on_update("add", move |item: String| {
        let items = Rc::clone(&adding);
        async move {
            items.borrow_mut().push(item);
            Ok(items.borrow().len())
        }
    })
    .validate(move |item| {
        if seen.borrow().contains(item) {
            bail!("{item} is there already");
        }
        Ok(())
    });
    let (keeper, keeping) = (ctx.clone(), Rc::clone(&items));
    ctx.on_update("add_kept", move |item: String| {
        let (ctx, items) = (keeper.clone(), Rc::clone(&keeping));
        async move {
            let kept: String = ctx.call_activity("step.keep_text", &item).await?;
            items.borrow_mut().push(kept);
            Ok(items.borrow().len())
        }
    });
    ctx.on_update("blow_up", |(): ()| async { if true { panic!("as asked") } else { Ok(()) } });
    ctx.on_update("large", |size: usize| async move { Ok("x".repeat(size)) });
    let end = ctx.wait_for_event::<()>("end");
    let anew = ctx.wait_for_event::<()>("anew");
    match futures::future::select(end, anew).await {
        futures::future::Either::Left((ended, _)) => {
            ended?;
            Ok(items.take())
        }
        futures::future::Either::Right((asked, _)) => {
            asked?;
            ctx.continue_as_new(items.take())
        }
    }
}

/// Answers updates only after a while.
#[orchestration]
async fn opens_late(ctx: Context) -> Result<()> {
    ctx.delay(Duration::from_secs(1)).await;
    ctx.on_update("echo", |text: String| async move { Ok(text) });
    ctx.wait_for_event("end").await
}

dacapo_sdk::export_orchestrations!(cart, opens_late);
