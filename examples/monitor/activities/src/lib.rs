//! Asks a service how it is, by HTTP.

use dacapo_sdk::{ActivityContext, Result, http, serde_json::Value};
use monitor_api::{Check, Probe, ProbeActivities};

struct Http;

impl Probe for Http {
    async fn check(&self, ctx: ActivityContext, check: Check) -> Result<bool> {
        let Check { service, healthy_from } = check;
        let url = std::env::var("HEALTH_URL")?;
        let request = http::get(format!("{url}/health/{service}?from={healthy_from}"));
        let answer = request.idempotency_key(&ctx).send().await?;
        let health: Value = answer.success()?.json()?;
        Ok(health["healthy"] == true)
    }
}

dacapo_sdk::export_activities!(ProbeActivities(Http));
