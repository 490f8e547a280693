use dacapo_sdk::{Context, Result, orchestration};

struct Order {
    id: u32,
}

#[orchestration]
async fn trip(ctx: Context, order: Order) -> Result<u32> {
    Ok(order.id)
}

fn main() {}
