//! Counts the words of many files at once.

use dacapo_sdk::{Context, Result, futures::future::try_join_all, orchestration};
use fan_out_api::{FilesProxy, Job, Report};

/// One activity for each file, all at once; then the sum, and a report.
#[orchestration]
pub async fn fan_out(ctx: Context, job: Job) -> Result<Report> {
    let files = FilesProxy::new(&ctx);

    let names = files.list().await?;
    ctx.custom_status(&format!("counting {} files", names.len()));
    let counts = try_join_all(names.into_iter().map(|name| files.count_words(name))).await?;

    let report = Report { name: job.report, total: counts.iter().map(|count| count.words).sum(), files: counts };
    files.write_report(report.clone()).await?;
    Ok(report)
}

dacapo_sdk::export_orchestrations!(fan_out);
