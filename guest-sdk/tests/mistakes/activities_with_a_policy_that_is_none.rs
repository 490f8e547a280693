use dacapo_sdk::{ActivityContext, Result, activities};

#[activities(retry = 3)]
trait Hotel {
    async fn reserve(&self, ctx: ActivityContext) -> Result<()>;
}

fn main() {}
