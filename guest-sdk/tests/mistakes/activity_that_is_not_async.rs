use dacapo_sdk::{ActivityContext, Result, activities};

#[activities]
trait Hotel {
    fn reserve(&self, ctx: ActivityContext, guests: u32) -> Result<String>;
}

fn main() {}
