use dacapo_sdk::{Context, Result, orchestration};

#[orchestration(nmae = "trip-v2")]
async fn trip(ctx: Context) -> Result<()> {
    Ok(())
}

fn main() {}
