//! Waits for the parts of something, each in an orchestration of its own.

use dacapo_sdk::futures::future::join_all;
use dacapo_sdk::futures::{FutureExt as _, select_biased};
use dacapo_sdk::{Context, ParentClose, Result, bail, orchestration};
use serde::{Deserialize, Serialize};

/// What is to be put together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    parts: Vec<String>,
}

/// The payload of the event `delivered`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    by: String,
}

/// Waits for one part, and tells whoever called it.
#[orchestration]
pub async fn part(ctx: Context, name: String) -> Result<Delivery> {
    let delivery = select_biased! {
        delivery = ctx.wait_for_event::<Delivery>("delivered") => delivery?,
        reason = ctx.cancelled().fuse() => bail!("the {name} is not needed: {reason}"),
    };
    if let Some(assembly) = ctx.info().parent {
        ctx.signal(assembly, "arrived", &name).await?;
    }
    Ok(delivery)
}

/// Calls for all parts and waits until they have come.
#[orchestration]
pub async fn assembly(ctx: Context, order: Order) -> Result<Vec<Delivery>> {
    let id = ctx.info().instance;
    let call =
        |name: &String| ctx.call::<part>(name).instance(format!("{id}-{name}")).parent_close(ParentClose::Cancel);
    let mut parts = join_all(order.parts.iter().map(call)).fuse();
    loop {
        select_biased! {
            deliveries = parts => return deliveries.into_iter().collect(),
            name = ctx.wait_for_event::<String>("arrived") => ctx.custom_status(&format!("{} has come", name?)),
        }
    }
}

dacapo_sdk::export_orchestrations!(assembly, part);
