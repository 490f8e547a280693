//! An orchestration that would reach outside and sleep; refused at upload.

use std::io::Read;

use dacapo_sdk::{Context, Result, orchestration};

/// Asks a server, after a while.
#[orchestration]
async fn reaches_out(_ctx: Context, address: String) -> Result<String> {
    std::thread::sleep(std::time::Duration::from_millis(5));
    let mut answer = String::new();
    std::net::TcpStream::connect(address)?.read_to_string(&mut answer)?;
    Ok(answer)
}

dacapo_sdk::export_orchestrations!(reaches_out);
