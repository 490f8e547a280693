use dacapo_sdk::{Result, orchestration};

#[orchestration]
async fn trip(city: String) -> Result<String> {
    Ok(city)
}

fn main() {}
