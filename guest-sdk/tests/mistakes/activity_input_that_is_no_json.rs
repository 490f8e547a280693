use dacapo_sdk::{ActivityContext, Result, activities};

pub struct Guests(u32);

#[activities]
pub trait Hotel {
    async fn reserve(&self, ctx: ActivityContext, guests: Guests) -> Result<String>;
}

fn main() {}
