//! Version 3: changed without a thought for what runs.

use dacapo_sdk::{Context, Result, orchestration};

/// The argument of the first call is another; some orders end at once or panic.
#[orchestration]
async fn ship(ctx: Context, order: String) -> Result<String> {
    match order.as_str() {
        "nothing" => return Ok("nothing to ship".to_owned()),
        "broken" => panic!("cannot ship what is broken"),
        _ => {}
    }
    let paid: String = ctx.call_activity("step.one", &order.to_uppercase()).await?;
    ctx.wait_for_event::<()>("go").await?;
    let sent: String = ctx.call_activity("step.two", &order).await?;
    Ok(format!("{paid}, {sent}"))
}

dacapo_sdk::export_orchestrations!(ship);
