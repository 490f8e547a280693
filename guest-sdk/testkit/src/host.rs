//! The other end: `dacapo testkit`, a process that has the sandbox.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A process that answers one line with one line, and ends with this.
#[derive(Debug)]
pub(crate) struct Host {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Host {
    #[track_caller]
    pub(crate) fn start(dacapo: &Path) -> Self {
        let child = Command::new(dacapo).arg("testkit").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| {
            panic!(
                "cannot run {}: {error}; install dacapo (`cargo install --path host`) or name the program in $DACAPO",
                dacapo.display()
            )
        });
        let requests = child.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self { child, requests, answers }
    }

    /// What the host says, or its error.
    pub(crate) fn try_ask(&mut self, request: &Value) -> Result<Value, String> {
        let mut line = String::new();
        let asked = writeln!(self.requests, "{request}").and_then(|()| self.requests.flush());
        asked.and_then(|()| self.answers.read_line(&mut line)).map_err(|error| format!("dacapo is gone: {error}"))?;
        let mut answer: Value = serde_json::from_str(&line)
            .map_err(|_| format!("dacapo ended or is of another version: it answered {line:?}"))?;
        match answer.get_mut("error") {
            Some(error) => Err(error.as_str().unwrap_or_default().to_owned()),
            None => Ok(answer["ok"].take()),
        }
    }

    /// What the host says.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        match self.try_ask(request) {
            Ok(answer) => answer,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
