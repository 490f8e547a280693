//! Reads the files, writes the report: with ordinary `std::fs`, in the two
//! directories that were granted.

use std::fmt::Write as _;
use std::fs;

use dacapo_sdk::{ActivityContext, Error, Result};
use fan_out_api::{Files, FilesActivities, Report, WordCount};

struct Granted;

impl Files for Granted {
    async fn list(&self, _ctx: ActivityContext) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir("/inbox").map_err(|e| Error::from(e).context("/inbox"))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        // A directory has no order of its own.
        names.sort();
        Ok(names)
    }

    async fn count_words(&self, _ctx: ActivityContext, file: String) -> Result<WordCount> {
        let text = fs::read_to_string(format!("/inbox/{file}")).map_err(|error| Error::from(error).context(&file))?;
        let words = text.split_whitespace().count() as u64;
        Ok(WordCount { file, words })
    }

    async fn write_report(&self, _ctx: ActivityContext, report: Report) -> Result<()> {
        let mut text = String::new();
        for WordCount { file, words } in &report.files {
            writeln!(text, "{words:>8} {file}")?;
        }
        writeln!(text, "{:>8} in all", report.total)?;
        let path = format!("/reports/{}", report.name);
        let unfinished = format!("{path}.unfinished");
        fs::write(&unfinished, text).map_err(|error| Error::from(error).context(&unfinished))?;
        fs::rename(&unfinished, &path)?;
        Ok(())
    }
}

dacapo_sdk::export_activities!(FilesActivities(Granted));
