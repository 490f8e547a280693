use dacapo_sdk::{ActivityContext, Result, activities};

#[activities]
trait Hotel {
    async fn reserve(&self, ctx: ActivityContext) -> Result<()>;
    #[activity(name = "reserve")]
    async fn book(&self, ctx: ActivityContext) -> Result<()>;
}

fn main() {}
