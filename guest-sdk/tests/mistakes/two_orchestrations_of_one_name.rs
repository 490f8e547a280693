use dacapo_sdk::{Context, Result, orchestration};

#[orchestration]
async fn trip(_ctx: Context) -> Result<()> {
    Ok(())
}

#[orchestration(name = "trip")]
async fn journey(_ctx: Context) -> Result<()> {
    Ok(())
}

dacapo_sdk::export_orchestrations!(trip, journey);

fn main() {}
