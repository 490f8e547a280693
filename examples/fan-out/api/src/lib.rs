//! What the orchestration and its activities agree on: types and services.

use dacapo_sdk::{ActivityContext, Result, activities};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// The name of the file that the report is written to.
    pub report: String,
}

/// A file and its words.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WordCount {
    pub file: String,
    pub words: u64,
}

/// All files and their words.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    pub name: String,
    pub files: Vec<WordCount>,
    pub total: u64,
}

#[activities(service = "files")]
pub trait Files {
    /// The names of the files that there are, in order.
    async fn list(&self, ctx: ActivityContext) -> Result<Vec<String>>;
    /// Counts the words of one file.
    async fn count_words(&self, ctx: ActivityContext, file: String) -> Result<WordCount>;
    /// Writes the report, all of it or nothing.
    async fn write_report(&self, ctx: ActivityContext, report: Report) -> Result<()>;
}
