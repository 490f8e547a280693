use dacapo_sdk::{Context, Result, orchestration};

#[orchestration]
fn trip(ctx: Context, city: String) -> Result<String> {
    Ok(city)
}

fn main() {}
