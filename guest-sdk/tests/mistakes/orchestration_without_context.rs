use dacapo_sdk::{Result, orchestration};

#[orchestration]
async fn trip() -> Result<()> {
    Ok(())
}

fn main() {}
