//! What the service does and remembers. The same idempotency key gets the same
//! answer, also after a restart: the log of requests is all the state there is.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::http::{Answer, Request};

pub(crate) struct Desk {
    log: File,
    /// Requests seen, by path and idempotency key.
    attempts: HashMap<(String, String), u64>,
    /// Final answers, by path and idempotency key.
    answers: HashMap<(String, String), Answer>,
    /// Things made so far, by the letters of their ids.
    made: HashMap<String, u64>,
}

impl Desk {
    /// Goes on from what the log tells.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut log = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let mut past = Vec::new();
        log.read_to_end(&mut past)?;
        if past.last().is_some_and(|&last| last != b'\n') {
            // Killed in the middle of a line, which then says nothing.
            log.write_all(b"\n")?;
        }
        let mut desk = Self { log, attempts: HashMap::new(), answers: HashMap::new(), made: HashMap::new() };
        for line in past.split(|&byte| byte == b'\n') {
            if let Ok(entry) = serde_json::from_slice(line) {
                desk.recall(&entry);
            }
        }
        Ok(desk)
    }

    /// Answers a request, and writes both down first.
    pub(crate) fn answer(&mut self, request: &Request) -> io::Result<Answer> {
        let place = (request.path.clone(), request.idempotency_key.clone());
        let attempt = self.attempts.get(&place).map_or(1, |seen| seen + 1);
        let known = self.answers.get(&place).cloned();
        let replayed = known.is_some();
        let answer = known.unwrap_or_else(|| self.decide(request, attempt));
        let entry = json!({
            "method": request.method,
            "path": request.path,
            "key": request.idempotency_key,
            "attempt": attempt,
            "status": answer.status,
            "repeated": replayed,
            "request": serde_json::from_slice::<Value>(&request.body).unwrap_or(Value::Null),
            "answer": answer.body,
        });
        let mut line = entry.to_string();
        line.push('\n');
        self.log.write_all(line.as_bytes())?;
        self.recall(&entry);
        Ok(answer)
    }

    fn decide(&self, request: &Request, attempt: u64) -> Answer {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/hotel/reservations") => self.make("H"),
            ("POST", "/hotel/cancellations" | "/notifications") => answer(200, &Value::Null),
            ("POST", "/flight/reservations") => {
                let desk = &body["desk"];
                if desk["declined"] == true {
                    answer(422, &json!("the flight is fully booked"))
                } else if attempt <= desk["failures"].as_u64().unwrap_or(0) {
                    answer(503, &json!("the flight desk is busy"))
                } else {
                    self.make("F")
                }
            }
            ("POST", "/invoices") => self.make("INV"),
            // Healthy from the nth request on: `/health/NAME?from=n`.
            ("GET", path) if path.starts_with("/health/") => {
                let from = request.query.strip_prefix("from=").and_then(|n| n.parse().ok());
                let asked = self.made.get(path).map_or(1, |seen| seen + 1);
                answer(200, &json!({ "healthy": asked >= from.unwrap_or(1) }))
            }
            _ => answer(404, &json!("no such thing")),
        }
    }

    /// Something new; `recall` counts it.
    fn make(&self, letters: &str) -> Answer {
        let number = self.made.get(letters).map_or(1, |made| made + 1);
        answer(201, &json!({ "id": format!("{letters}-{number}") }))
    }

    /// What the log tells, be it read or just written.
    fn recall(&mut self, entry: &Value) {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let (path, key, body) = (text("path"), text("key"), text("answer"));
        let place = (path.clone(), key.clone());
        *self.attempts.entry(place.clone()).or_default() += 1;
        if entry["repeated"] == true {
            return;
        }
        let status = entry["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        let status = status.unwrap_or(500);
        if path.starts_with("/health/") {
            *self.made.entry(path).or_default() += 1;
        } else if status == 201 {
            let made: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
            let letters = made["id"].as_str().and_then(|id| id.split_once('-'));
            if let Some((letters, _)) = letters {
                *self.made.entry(letters.to_owned()).or_default() += 1;
            }
        }
        if status < 500 && !key.is_empty() {
            self.answers.insert(place, Answer { status, body });
        }
    }
}

fn answer(status: u16, body: &Value) -> Answer {
    Answer { status, body: body.to_string() }
}
