use dacapo_sdk::Context;

struct Seats(u32);

fn offer(ctx: &Context) {
    ctx.on_update("seats", |n: u32| async move { Ok(Seats(n)) });
}

fn main() {}
