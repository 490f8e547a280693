use dacapo_sdk::{Result, activities};

#[activities]
trait Hotel {
    async fn reserve(&self) -> Result<String>;
}

fn main() {}
