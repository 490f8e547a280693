use dacapo_sdk::{Context, Result};

async fn trip(ctx: Context) -> Result<()> {
    std::thread::spawn(move || ctx.random());
    Ok(())
}

fn main() {}
