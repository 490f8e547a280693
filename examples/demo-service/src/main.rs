//! The world outside: a small HTTP service for the examples' activities. It
//! reserves, cancels, issues and notifies, once per idempotency key, and keeps
//! what it did in `$DACAPO_SERVICE_DATA/requests.jsonl`.
//!
//! The first line on stdout is `listening on http://127.0.0.1:PORT`. If stdin is
//! a pipe, the service ends with it, so that it does not outlive its starter.

mod desk;
mod http;

use std::error::Error;
use std::io::{IsTerminal, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use desk::Desk;

fn main() -> Result<(), Box<dyn Error>> {
    let data = std::env::var_os("DACAPO_SERVICE_DATA").map_or_else(|| ".".into(), PathBuf::from);
    std::fs::create_dir_all(&data)?;
    let desk = Arc::new(Mutex::new(Desk::open(&data.join("requests.jsonl"))?));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on http://{}", listener.local_addr()?)?;
    stdout.flush()?;

    std::thread::spawn(end_with_stdin);
    for stream in listener.incoming() {
        let (stream, desk) = (stream?, Arc::clone(&desk));
        std::thread::spawn(move || {
            if let Err(error) = serve(stream, &desk) {
                eprintln!("demo-service: {error}");
            }
        });
    }
    Ok(())
}

/// One request a connection.
fn serve(mut stream: TcpStream, desk: &Mutex<Desk>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let Some(request) = http::read(&mut stream)? else {
        return Ok(());
    };
    let answer = desk.lock().unwrap_or_else(PoisonError::into_inner).answer(&request)?;
    http::write(&mut stream, &answer)
}

fn end_with_stdin() {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() || !is_pipe() {
        return;
    }
    let mut buffer = [0; 256];
    while matches!(stdin.read(&mut buffer), Ok(read) if read > 0) {}
    std::process::exit(0);
}

/// `/dev/null` reaches its end at once and is nobody's sign of life.
#[cfg(unix)]
fn is_pipe() -> bool {
    use std::os::unix::fs::FileTypeExt;

    let stdin = std::fs::metadata("/dev/stdin").map(|metadata| metadata.file_type());
    stdin.is_ok_and(|kind| kind.is_fifo() || kind.is_socket())
}

#[cfg(not(unix))]
fn is_pipe() -> bool {
    true
}
