//! As much of HTTP/1.1 as one request a connection needs.

use std::io::{self, BufRead, BufReader, Read, Write};

/// No request of the examples comes near.
const MAX_BODY: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) idempotency_key: String,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// None if the connection was closed without a word.
pub(crate) fn read(stream: impl Read) -> io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    let first = line(&mut reader)?;
    let mut words = first.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        idempotency_key: String::new(),
        body: Vec::new(),
    };
    let (mut length, mut chunked) = (0, false);
    loop {
        let header = line(&mut reader)?;
        let Some((name, value)) = header.split_once(':') else {
            break;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "idempotency-key" => request.idempotency_key = value.to_owned(),
            "content-length" => length = value.parse().map_err(|_| bad("content-length"))?,
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    if chunked {
        read_chunks(&mut reader, &mut request.body)?;
    } else {
        read_exactly(&mut reader, length, &mut request.body)?;
    }
    Ok(Some(request))
}

pub(crate) fn write(mut stream: impl Write, answer: &Answer) -> io::Result<()> {
    let Answer { status, body } = answer;
    let length = body.len();
    // Formatted first, so that it goes out in one piece.
    let text = format!(
        "HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes())
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let head = line(reader)?;
        let size = head.split(';').next().unwrap_or("").trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| bad("chunk size"))?;
        read_exactly(reader, size, body)?;
        // The line end after a chunk, or (no trailers) after the last one.
        line(reader)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn read_exactly(reader: &mut impl BufRead, length: u64, body: &mut Vec<u8>) -> io::Result<()> {
    if body.len() as u64 + length > MAX_BODY {
        return Err(bad("body, it is too large"));
    }
    let read = reader.take(length).read_to_end(body)?;
    if (read as u64) < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.take(16 * 1024).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("bad {what}"))
}
