use dacapo_sdk::{ActivityContext, Result, activities};

#[activities(name = "hotel")]
trait Hotel {
    #[activity(retries = 3)]
    async fn reserve(&self, ctx: ActivityContext) -> Result<()>;
}

fn main() {}
