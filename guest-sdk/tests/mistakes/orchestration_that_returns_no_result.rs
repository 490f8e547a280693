use dacapo_sdk::{Context, orchestration};

#[orchestration]
async fn trip(ctx: Context) -> String {
    ctx.new_guid().to_string()
}

fn main() {}
