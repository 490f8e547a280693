use std::rc::Rc;

use dacapo_sdk::{Context, Result, orchestration, query};

struct Trip {
    seats: u32,
}

#[query]
fn seats(trip: &Trip) -> Result<u32> {
    Ok(trip.seats)
}

#[orchestration(queries = [seats])]
async fn trip(ctx: Context) -> Result<()> {
    let state = Rc::new(std::cell::RefCell::new(2_u32));
    ctx.answer::<seats>(&state);
    Ok(())
}

fn main() {}
