//! The books: one file for each paid order in the granted folder, and the reports.

use std::path::Path;

use dacapo_sdk::{ActivityContext, Error, Result, serde_json};
use orders_api::{Books, BooksActivities, Order, Report};

struct Folder;

impl Books for Folder {
    async fn book(&self, _ctx: ActivityContext, order: Order) -> Result<()> {
        write(&format!("order-{}.json", safe(&order.id)), &serde_json::to_vec(&order)?)
    }

    async fn report(&self, _ctx: ActivityContext, name: String) -> Result<Report> {
        let mut report = Report { orders: 0, total: 0 };
        for entry in std::fs::read_dir("/books")? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("order-") {
                let order: Order = serde_json::from_slice(&std::fs::read(entry.path())?)?;
                report.orders += 1;
                report.total += order.amount;
            }
        }
        write(&format!("report-{}.json", safe(&name)), &serde_json::to_vec(&report)?)?;
        Ok(report)
    }
}

/// Written twice, it is the same file.
fn write(name: &str, bytes: &[u8]) -> Result<()> {
    let path = Path::new("/books").join(name);
    std::fs::write(&path, bytes).map_err(|error| Error::from(error).context(path.display()))
}

/// An id may be anything; a file name may not.
fn safe(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' }).collect()
}

dacapo_sdk::export_activities!(BooksActivities(Folder));
