use dacapo_sdk::{ActivityContext, Context, Result, activities};

#[activities]
trait Hotel {
    async fn reserve(&self, ctx: ActivityContext, guests: u32) -> Result<String>;
}

async fn trip(ctx: Context) -> Result<String> {
    HotelProxy::new(&ctx).reserve("Ritz").await
}

fn main() {}
