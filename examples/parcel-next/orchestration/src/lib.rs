//! Follows a parcel until it is where it was sent to, and notes that it arrived.

use dacapo_sdk::{Context, Result, orchestration};
use serde::{Deserialize, Serialize};

/// Where a parcel was, in order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Journey {
    stops: Vec<String>,
}

/// Takes events `scanned` until one names the place `to`.
#[orchestration]
pub async fn parcel(ctx: Context, to: String) -> Result<Journey> {
    let mut stops = Vec::new();
    loop {
        let stop: String = ctx.wait_for_event("scanned").await?;
        ctx.custom_status(&stop);
        let has_arrived = stop == to;
        stops.push(stop);
        if has_arrived {
            // Parcels that were under way when this came reach it live, and do it.
            if ctx.patched("note-arrival") {
                ctx.set_tag("arrived", "yes");
            }
            return Ok(Journey { stops });
        }
    }
}

dacapo_sdk::export_orchestrations!(parcel);
