use dacapo_sdk::{ActivityContext, Context, Result, activities};

#[activities]
trait Hotel {
    async fn reserve(&self, ctx: ActivityContext, guests: u32) -> Result<String>;
}

async fn trip(ctx: Context) -> Result<u32> {
    let room: u32 = HotelProxy::new(&ctx).reserve(2).await?;
    Ok(room)
}

fn main() {}
