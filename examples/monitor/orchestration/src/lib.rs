//! Looks at a service until it is healthy.

use std::time::Duration;

use dacapo_sdk::{Context, Result, RetryPolicy, orchestration};
use monitor_api::{Check, ProbeProxy, Verdict, Watch};

/// Checks, sleeps, and starts anew: the history never grows beyond one check.
#[orchestration]
pub async fn monitor(ctx: Context, watch: Watch) -> Result<Verdict> {
    let check = Check { service: watch.service.clone(), healthy_from: watch.healthy_from };
    let healthy = ProbeProxy::new(&ctx).check(check).retry(RetryPolicy::attempts(3)).await?;
    let checks = watch.checks + 1;
    if healthy || checks >= watch.max_checks {
        return Ok(Verdict { healthy, checks });
    }

    ctx.custom_status(&format!("not healthy after {checks} checks"));
    ctx.delay(Duration::from_millis(watch.interval_ms)).await;
    ctx.continue_as_new(Watch { checks, ..watch })
}

dacapo_sdk::export_orchestrations!(monitor);
