use dacapo_sdk::{Context, Result};

struct Approval;

async fn trip(ctx: Context) -> Result<Approval> {
    ctx.wait_for_event::<Approval>("approved").await
}

fn main() {}
