use dacapo_sdk::{Context, Result, orchestration};

#[orchestration]
async fn trip(ctx: Context, from: String, to: String) -> Result<String> {
    Ok(from + &to)
}

fn main() {}
