use dacapo_sdk::{Result, query};

#[query]
async fn seats(trip: &u32) -> Result<u32> {
    Ok(*trip)
}

fn main() {}
