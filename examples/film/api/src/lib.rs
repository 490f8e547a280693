//! What the orchestration and its workers agree on.

use dacapo_sdk::{ActivityContext, Result, activities};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is to be rendered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Film {
    pub title: String,
    pub frames: u32,
    /// Steps of work for each frame.
    pub steps: u32,
}

/// One frame of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    pub title: String,
    pub number: u32,
    pub steps: u32,
}

#[activities(service = "renderer")]
pub trait Renderer {
    /// Renders one frame; returns where it is.
    async fn render(&self, ctx: ActivityContext, frame: Frame) -> Result<String>;
}
