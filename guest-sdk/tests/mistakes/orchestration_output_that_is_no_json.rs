use dacapo_sdk::{Context, Result, orchestration};

struct Receipt;

#[orchestration]
async fn trip(ctx: Context) -> Result<Receipt> {
    Ok(Receipt)
}

fn main() {}
