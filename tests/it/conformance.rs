//! HTTP as its standards have it: raw exchanges, each with the answer that it must get.
//!
//! There is no kept tool for this in the package registries, so the cases stand here. RFC 9110 to 9113 are
//! named by number and section.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use vesta_tests::{Host, Package};

const PATIENCE: Duration = Duration::from_secs(3);

/// What a case must lead to.
#[derive(Debug, Clone, Copy)]
enum Must {
    /// Answers of these statuses, and the connection goes on.
    Answer(&'static [u16]),
    /// The same, and the connection ends.
    End(&'static [u16]),
    /// The connection ends, with an answer of 400, 413, 417, 431, 501 or 505, or without one.
    Refuse,
    /// The standard leaves the choice: this answer, or as [`Must::Refuse`].
    Either(u16),
    /// The head of an answer, without a body, and the connection goes on.
    Head(u16),
    /// 100, and then the answer.
    Continue,
}
use Must::{Answer, Continue, Either, End, Head, Refuse};

/// Section and name, the bytes, and the outcome. What begins with `$` is filled in.
const HTTP1: &[(&str, &str, Must)] = &[
    (
        "9112 2.2: lines may end with LF alone, or are refused",
        "GET $PATH HTTP/1.1\nhost: x\n$KEY\n\n",
        Answer(&[200]),
    ),
    (
        "9112 2.2: an empty line before a request is passed over",
        "\r\n\r\nGET $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n",
        Answer(&[200]),
    ),
    (
        "9112 2.2: whitespace before the first header",
        "GET $PATH HTTP/1.1\r\n host: x\r\n$KEY\r\n\r\n",
        Refuse,
    ),
    ("9112 2.3: another major version", "GET $PATH HTTP/3.0\r\nhost: x\r\n\r\n", Refuse),
    ("9112 2.3: a version in small letters", "GET $PATH http/1.1\r\nhost: x\r\n\r\n", Refuse),
    ("9112 3: two spaces in the request line", "GET  $PATH HTTP/1.1\r\nhost: x\r\n\r\n", Refuse),
    ("9112 3: no version", "GET $PATH\r\nhost: x\r\n\r\n", Refuse),
    ("9112 3.1: a method that is no token", "G(T $PATH HTTP/1.1\r\nhost: x\r\n\r\n", Refuse),
    (
        "9112 3.1: an unknown method reaches the function",
        "BREW $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n",
        Answer(&[200]),
    ),
    ("9112 3.2: no Host", "GET $PATH HTTP/1.1\r\n$KEY\r\n\r\n", Answer(&[400])),
    ("9112 3.2: two Hosts", "GET $PATH HTTP/1.1\r\nhost: x\r\nhost: x\r\n$KEY\r\n\r\n", Answer(&[400])),
    ("9112 3.2: a Host that is no host", "GET $PATH HTTP/1.1\r\nhost: a b\r\n$KEY\r\n\r\n", Answer(&[400])),
    ("9112 3.2: a Host with a user", "GET $PATH HTTP/1.1\r\nhost: u@x\r\n$KEY\r\n\r\n", Answer(&[400])),
    ("9112 3.2: an empty Host", "GET $PATH HTTP/1.1\r\nhost:\r\n$KEY\r\n\r\n", Answer(&[200])),
    ("9112 3.2: HTTP/1.0 needs no Host", "GET $PATH HTTP/1.0\r\n$KEY\r\n\r\n", End(&[200])),
    (
        "9112 3.2.2: the absolute form",
        "GET http://x$PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n",
        Answer(&[200]),
    ),
    (
        "9112 3.2.2: the absolute form wins over Host",
        "GET http://x$PATH HTTP/1.1\r\nhost: y\r\n$KEY\r\n\r\n",
        Answer(&[200]),
    ),
    (
        "9112 3.2.3: CONNECT is not for functions",
        "CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n$KEY\r\n\r\n",
        Answer(&[404]),
    ),
    (
        "9112 3.2.4: OPTIONS of the server as a whole",
        "OPTIONS * HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n",
        Answer(&[404]),
    ),
    ("9112 3: a fragment in the target", "GET $PATH#f HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n", Answer(&[200])),
    ("9112 5.1: a space before the colon", "GET $PATH HTTP/1.1\r\nhost: x\r\nx-a : 1\r\n\r\n", Refuse),
    ("9112 5.1: a header without a colon", "GET $PATH HTTP/1.1\r\nhost: x\r\nnothing\r\n\r\n", Refuse),
    ("9112 5.1: a header without a name", "GET $PATH HTTP/1.1\r\nhost: x\r\n: 1\r\n\r\n", Refuse),
    ("9112 5.2: a folded header", "GET $PATH HTTP/1.1\r\nhost: x\r\nx-a: 1\r\n 2\r\n\r\n", Refuse),
    ("9110 5.5: NUL in a value", "GET $PATH HTTP/1.1\r\nhost: x\r\nx-a: a\0b\r\n\r\n", Refuse),
    ("9110 5.5: CR in a value", "GET $PATH HTTP/1.1\r\nhost: x\r\nx-a: a\rb\r\n\r\n", Refuse),
    (
        "9110 5.5: bytes above ASCII in a value pass",
        "GET $PATH HTTP/1.1\r\nhost: x\r\nx-a: \u{e9}\r\n$KEY\r\n\r\n",
        Answer(&[200]),
    ),
    (
        "9112 6.1: a length and chunks",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Either(200),
    ),
    (
        "9112 6.1: chunked not last",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        Refuse,
    ),
    (
        "9112 6.1: an unknown coding",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ntransfer-encoding: rot13\r\n\r\n",
        Refuse,
    ),
    (
        "9112 6.1: chunks over HTTP/1.0",
        "POST $PATH HTTP/1.0\r\nhost: x\r\n$KEY\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Refuse,
    ),
    (
        "9112 6.3: two lengths that differ",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        Refuse,
    ),
    (
        "9112 6.3: two lengths that agree",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
        Either(200),
    ),
    (
        "9112 6.3: a negative length",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ncontent-length: -1\r\n\r\n",
        Refuse,
    ),
    (
        "9112 6.3: a length with a sign",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ncontent-length: +1\r\n\r\na",
        Refuse,
    ),
    (
        "9112 6.3: a length past 2^64",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ncontent-length: 99999999999999999999\r\n\r\na",
        Refuse,
    ),
    (
        "9112 6.3: a length over the limit is refused before it comes",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ncontent-length: 9999999999\r\n\r\n",
        End(&[413]),
    ),
    (
        "9112 7.1: chunks",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Answer(&[200]),
    ),
    (
        "9112 7.1: chunks with capitals, extensions and trailers",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ntransfer-encoding: CHUNKED\r\n\r\nA;n=v\r\n0123456789\r\n0\r\nx-t: 1\r\n\r\n",
        Answer(&[200]),
    ),
    (
        "9112 7.1: a chunk's length that is no number",
        "POST $ECHO HTTP/1.1\r\nhost: x\r\n$KEY\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n",
        Refuse,
    ),
    (
        "9112 7.1: a chunk's length past 2^64",
        "POST $ECHO HTTP/1.1\r\nhost: x\r\n$KEY\r\ntransfer-encoding: chunked\r\n\r\n11111111111111111\r\nabc\r\n0\r\n\r\n",
        Refuse,
    ),
    (
        "9112 7.1: a chunk that is longer than it says",
        "POST $ECHO HTTP/1.1\r\nhost: x\r\n$KEY\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        Refuse,
    ),
    (
        "9112 9.3: requests one behind the other",
        "GET $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\nGET /fn/default/none/ HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\nGET $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n",
        Answer(&[200, 404, 200]),
    ),
    (
        "9112 9.3: a body that is not read does not become a request",
        "POST $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\ncontent-length: 34\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\nGET $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n",
        Answer(&[200, 200]),
    ),
    (
        "9112 9.6: Connection: close ends it",
        "GET $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\nconnection: close\r\n\r\n",
        End(&[200]),
    ),
    (
        "9112 9.3: HTTP/1.0 with keep-alive goes on",
        "GET $PATH HTTP/1.0\r\nhost: x\r\n$KEY\r\nconnection: keep-alive\r\n\r\n",
        Answer(&[200]),
    ),
    (
        "9110 10.1.1: Expect: 100-continue",
        "POST $ECHO HTTP/1.1\r\nhost: x\r\n$KEY\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
        Continue,
    ),
    ("9110 9.3.2: HEAD has no body", "HEAD $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n", Head(200)),
    (
        "9110 9.3.2: a refusal of HEAD has no body",
        "HEAD /fn/default/none/ HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n",
        Head(404),
    ),
    ("9110 15.3.5: 204 has no body", "GET $STATUS?code=204 HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n", Head(204)),
    ("9110 15.4.5: 304 has no body", "GET $STATUS?code=304 HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n", Head(304)),
    (
        "9110 7.8: an upgrade that is not offered is passed over",
        "GET $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        Answer(&[200]),
    ),
    ("6585 5: a head of over 64 KiB", "$LONG", Answer(&[431])),
    ("6585 5: over 128 headers", "$MANY", End(&[431])),
];

struct Received {
    status: u16,
    body: Vec<u8>,
}

/// A connection whose answers are read by hand.
struct Client {
    socket: TcpStream,
    bytes: Vec<u8>,
}

impl Client {
    fn connect(address: &str) -> Client {
        let socket = TcpStream::connect(address).expect("connect");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Client { socket, bytes: Vec::new() }
    }

    fn send(&mut self, bytes: &[u8]) {
        // The host may have had enough already.
        let _ = self.socket.write_all(bytes);
    }

    /// More bytes; false at the end of the connection.
    fn more(&mut self) -> Result<bool, String> {
        let mut piece = [0; 4096];
        match self.socket.read(&mut piece) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.bytes.extend_from_slice(&piece[..n]);
                Ok(true)
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(false),
            Err(e) => Err(format!("nothing more came: {e}")),
        }
    }

    fn take(&mut self, n: usize) -> Result<Vec<u8>, String> {
        while self.bytes.len() < n {
            if !self.more()? {
                return Err("the connection ended amid an answer".into());
            }
        }
        Ok(self.bytes.drain(..n).collect())
    }

    fn line(&mut self) -> Result<Option<String>, String> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(end + 2)?;
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if !self.more()? {
                return if self.bytes.is_empty() {
                    Ok(None)
                } else {
                    Err("the connection ended amid a line".into())
                };
            }
        }
    }

    /// The next answer; `None` where the connection has ended.
    fn answer(&mut self, has_body: bool) -> Result<Option<Received>, String> {
        let Some(first) = self.line()? else { return Ok(None) };
        let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse::<u16>().ok());
        let status = status.ok_or(format!("not a status line: {first:?}"))?;
        let (mut length, mut chunked, mut ends) = (None, false, first.starts_with("HTTP/1.0"));
        loop {
            let line = self.line()?.ok_or("the connection ended amid a head")?;
            let Some((name, value)) = line.split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse::<usize>().ok(),
                "transfer-encoding" => chunked = value.trim() == "chunked",
                "connection" => ends |= value.trim() == "close",
                _ => {}
            }
        }
        let mut body = Vec::new();
        if has_body && status >= 200 {
            if chunked {
                loop {
                    let line = self.line()?.ok_or("the connection ended amid a body")?;
                    let n = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16);
                    let n = n.map_err(|e| format!("a chunk of {line:?}: {e}"))?;
                    if n == 0 {
                        while self.line()?.is_some_and(|line| !line.is_empty()) {}
                        break;
                    }
                    body.extend(self.take(n)?);
                    self.take(2)?;
                }
            } else if let Some(length) = length {
                body = self.take(length)?;
            } else if ends {
                while self.more()? {}
                body = std::mem::take(&mut self.bytes);
            }
        }
        Ok(Some(Received { status, body }))
    }

    fn ends(&mut self) -> Result<(), String> {
        match self.answer(true)? {
            None => Ok(()),
            Some(answer) => Err(format!("another answer: {}", answer.status)),
        }
    }
}

struct Texts {
    key: String,
}

impl Texts {
    fn fill(&self, text: &str) -> String {
        let head = "GET $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\n";
        let long = format!("{head}x-long: {}\r\n\r\n", "a".repeat(70_000));
        let many = format!("{head}{}\r\n", (0..130).map(|n| format!("x-{n}: 1\r\n")).collect::<String>());
        text.replace("$LONG", &long)
            .replace("$MANY", &many)
            .replace("$PATH", "/fn/default/http/ok")
            .replace("$ECHO", "/fn/default/http/echo")
            .replace("$STATUS", "/fn/default/http/status")
            .replace("$KEY", &format!("authorization: Bearer {}", self.key))
    }
}

/// Whether a case leads to where it must.
fn http1(address: &str, texts: &Texts, bytes: &str, must: Must) -> Result<(), String> {
    let mut client = Client::connect(address);
    client.send(texts.fill(bytes).as_bytes());
    let answered = |client: &mut Client, statuses: &[u16], has_body| {
        for wanted in statuses {
            match client.answer(has_body)? {
                Some(got) if got.status == *wanted => {}
                Some(got) => return Err(format!("{} instead of {wanted}", got.status)),
                None => return Err(format!("no answer instead of {wanted}")),
            }
        }
        Ok(())
    };
    let goes_on = |client: &mut Client| {
        client.send(texts.fill("GET $PATH HTTP/1.1\r\nhost: x\r\n$KEY\r\n\r\n").as_bytes());
        match client.answer(true)? {
            Some(Received { status: 200, body }) if body == b"ok\n" => Ok(()),
            Some(got) => Err(format!("then {}", got.status)),
            None => Err("the connection does not go on".into()),
        }
    };
    match must {
        Answer(statuses) => answered(&mut client, statuses, true).and_then(|()| goes_on(&mut client)),
        Head(status) => answered(&mut client, &[status], false).and_then(|()| goes_on(&mut client)),
        Continue => answered(&mut client, &[100, 200], true).and_then(|()| goes_on(&mut client)),
        End(statuses) => answered(&mut client, statuses, true).and_then(|()| client.ends()),
        Refuse | Either(_) => match (client.answer(true)?.map(|got| got.status), must) {
            (Some(status), Either(wanted)) if status == wanted => Ok(()),
            (Some(400 | 413 | 417 | 431 | 501 | 505), _) => client.ends(),
            (None, _) => Ok(()),
            (Some(status), _) => Err(format!("{status} instead of a refusal")),
        },
    }
}

/// What differs from the standard, and why that is so. One that does not differ any more must not stand here.
const KNOWN: &[(&str, &str)] = &[
    ("4.3: a header block that is none", DECODING),
    ("4.3: an index that is not there", DECODING),
    ("6.3: a short PRIORITY", DECODING),
    ("6.4: a short RST_STREAM", DECODING),
    ("6.5: SETTINGS of 5 bytes", DECODING),
    ("6.5: an acknowledgement with bytes", DECODING),
    ("6.5.2: a window past 2^31", DECODING),
    ("6.7: PING of 7 bytes", DECODING),
    ("6.9: an update of 3 bytes", DECODING),
];
const DECODING: &str = "the crate h2 ends the connection with PROTOCOL_ERROR, and not with the code of the mistake, where a frame cannot be decoded";

fn told(failures: Vec<String>, cases: &[&str]) {
    let known = KNOWN.iter().filter(|(case, _)| cases.contains(case)).count();
    println!(
        "of {} cases {} are as they must be, and {known} known to differ",
        cases.len(),
        cases.len() - known - failures.len()
    );
    assert!(failures.is_empty(), "{failures:#?}");
}

fn judged(name: &str, result: Result<(), String>, failures: &mut Vec<String>) {
    let known = KNOWN.iter().find(|(case, _)| *case == name);
    match (result, known) {
        (Err(why), None) => failures.push(format!("{name}: {why}")),
        (Ok(()), Some(_)) => failures.push(format!("{name}: is right, and listed as known to differ")),
        _ => {}
    }
}

#[test]
fn exchanges_over_http1_are_as_their_standard_has_them() {
    let host = Host::shared();
    Package::rogue("http").deploy(&host.control());
    let texts = Texts { key: host.tenant_key().into() };
    let mut failures = Vec::new();
    for (name, bytes, must) in HTTP1 {
        let result = http1(host.invoke_address(), &texts, bytes, *must);
        judged(name, result, &mut failures);
    }
    // The host is as it was.
    host.invoke("http", "/ok").expect(200);
    told(failures, &HTTP1.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
}

/// Frame types and error codes of RFC 9113, sections 6 and 7.
mod frame {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PROTOCOL: u32 = 1;
    pub const FLOW_CONTROL: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE: u32 = 6;
    pub const COMPRESSION: u32 = 9;
}
use frame::*;

fn frame(ty: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([ty, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Headers as literals without indexing (RFC 7541, section 6.2.2).
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        bytes.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            bytes.push(text.len() as u8);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// What a case over HTTP/2 must lead to.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Status(String),
    /// The connection ends with one of these codes, or without one.
    GoAway(&'static [u32]),
    /// The stream, or the connection, ends with one of these codes; or the answer is 400.
    Reset(&'static [u32]),
    /// A PING comes back.
    Pong,
}
use Outcome::{GoAway, Pong, Reset, Status};

/// Frames of a case: the host's answer to them is looked at.
fn http2_cases(path: &str, echo: &str, key: &str) -> Vec<(&'static str, Vec<Vec<u8>>, Outcome)> {
    let authorization = format!("Bearer {key}");
    let usual = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "x")];
    let with = |more: &[(&str, &str)]| {
        let mut headers = usual.to_vec();
        headers.push(("authorization", &authorization));
        headers.extend(more);
        block(&headers)
    };
    let request = |block: Vec<u8>| frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    let only = |headers: &[(&str, &str)]| request(block(headers));
    let get = || request(with(&[]));
    let setting = |id: u16, value: u32| {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(value.to_be_bytes());
        frame(SETTINGS, 0, 0, &payload)
    };
    let update = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let post = |more: &[(&str, &str)]| {
        let mut headers =
            vec![(":method", "POST"), (":scheme", "http"), (":path", echo), (":authority", "x")];
        headers.push(("authorization", &authorization));
        headers.extend(more);
        frame(HEADERS, END_HEADERS, 1, &block(&headers))
    };
    let ok = || Status("200".into());
    const P: &[u32] = &[PROTOCOL];
    let half = with(&[]);
    let (first, second) = half.split_at(half.len() / 2);
    vec![
        ("8.1: a request", vec![get()], ok()),
        ("8.1: a request with a body", vec![post(&[]), frame(DATA, END_STREAM, 1, b"abc")], ok()),
        (
            "8.1: trailers of a request",
            vec![
                post(&[]),
                frame(DATA, 0, 1, b"abc"),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-t", "1")])),
            ],
            ok(),
        ),
        ("4.1: an unknown frame is passed over", vec![frame(0x42, 0xff, 0, b"abc"), get()], ok()),
        ("4.1: unknown flags are passed over", vec![frame(PING, 0xfe, 0, &[0; 8]), get()], ok()),
        (
            "4.2: a frame over the size",
            vec![post(&[]), frame(DATA, 0, 1, &[0; 16_385])],
            GoAway(&[FRAME_SIZE]),
        ),
        ("4.3: a header block that is none", vec![request(vec![0xff; 8])], GoAway(&[COMPRESSION])),
        ("4.3: an index that is not there", vec![request(vec![0xfe])], GoAway(&[COMPRESSION])),
        ("5.1: DATA of an idle stream", vec![frame(DATA, 0, 1, b"abc")], GoAway(P)),
        ("5.1: RST_STREAM of an idle stream", vec![frame(RST_STREAM, 0, 1, &[0; 4])], GoAway(P)),
        ("5.1: WINDOW_UPDATE of an idle stream", vec![update(1, 1)], GoAway(P)),
        (
            "5.1: DATA after the end",
            vec![get(), frame(DATA, END_STREAM, 1, b"abc")],
            Reset(&[STREAM_CLOSED, PROTOCOL]),
        ),
        ("5.1: HEADERS after the end", vec![get(), get()], Reset(&[STREAM_CLOSED, PROTOCOL])),
        ("5.1.1: an even stream", vec![frame(HEADERS, END_HEADERS | END_STREAM, 2, &with(&[]))], GoAway(P)),
        (
            "5.1.1: an earlier stream",
            vec![
                frame(HEADERS, END_HEADERS | END_STREAM, 5, &with(&[])),
                frame(HEADERS, END_HEADERS | END_STREAM, 3, &with(&[])),
            ],
            Reset(&[PROTOCOL, STREAM_CLOSED]),
        ),
        ("6.1: DATA of stream 0", vec![frame(DATA, 0, 0, b"abc")], GoAway(P)),
        (
            "6.1: more padding than bytes",
            vec![post(&[]), frame(DATA, PADDED | END_STREAM, 1, &[9, 0])],
            GoAway(P),
        ),
        (
            "6.2: HEADERS of stream 0",
            vec![frame(HEADERS, END_HEADERS | END_STREAM, 0, &with(&[]))],
            GoAway(P),
        ),
        (
            "6.2: more padding than bytes",
            vec![frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[9, 0])],
            GoAway(P),
        ),
        ("6.3: PRIORITY of stream 0", vec![frame(PRIORITY, 0, 0, &[0; 5])], GoAway(P)),
        ("6.3: a short PRIORITY", vec![post(&[]), frame(PRIORITY, 0, 1, &[0; 4])], Reset(&[FRAME_SIZE])),
        ("6.4: RST_STREAM of stream 0", vec![frame(RST_STREAM, 0, 0, &[0; 4])], GoAway(P)),
        ("6.4: a short RST_STREAM", vec![post(&[]), frame(RST_STREAM, 0, 1, &[0; 3])], GoAway(&[FRAME_SIZE])),
        ("6.5: SETTINGS of a stream", vec![frame(SETTINGS, 0, 1, &[])], GoAway(P)),
        ("6.5: SETTINGS of 5 bytes", vec![frame(SETTINGS, 0, 0, &[0; 5])], GoAway(&[FRAME_SIZE])),
        ("6.5: an acknowledgement with bytes", vec![frame(SETTINGS, ACK, 0, &[0; 6])], GoAway(&[FRAME_SIZE])),
        ("6.5.2: ENABLE_PUSH of 2", vec![setting(2, 2)], GoAway(P)),
        ("6.5.2: a window past 2^31", vec![setting(4, 1 << 31)], GoAway(&[FLOW_CONTROL])),
        ("6.5.2: a frame size of 1", vec![setting(5, 1)], GoAway(P)),
        ("6.5.2: an unknown setting is passed over", vec![setting(0x99, 7), get()], ok()),
        (
            "6.6: PUSH_PROMISE of a client",
            vec![post(&[]), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])],
            GoAway(P),
        ),
        ("6.7: PING", vec![frame(PING, 0, 0, b"12345678")], Pong),
        ("6.7: PING of a stream", vec![frame(PING, 0, 1, &[0; 8])], GoAway(P)),
        ("6.7: PING of 7 bytes", vec![frame(PING, 0, 0, &[0; 7])], GoAway(&[FRAME_SIZE])),
        ("6.8: GOAWAY of a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], GoAway(P)),
        ("6.9: an update by 0", vec![update(0, 0)], GoAway(P)),
        ("6.9: an update of a stream by 0", vec![post(&[]), update(1, 0)], Reset(P)),
        ("6.9: an update of 3 bytes", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])], GoAway(&[FRAME_SIZE])),
        (
            "6.9.1: a window past 2^31",
            vec![update(0, (1 << 31) - 1), update(0, (1 << 31) - 1)],
            GoAway(&[FLOW_CONTROL]),
        ),
        (
            "6.9.1: a stream's window past 2^31",
            vec![post(&[]), update(1, (1 << 31) - 1), update(1, (1 << 31) - 1)],
            Reset(&[FLOW_CONTROL]),
        ),
        (
            "6.10: CONTINUATION",
            vec![frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 1, second)],
            ok(),
        ),
        (
            "6.10: CONTINUATION without HEADERS",
            vec![frame(CONTINUATION, END_HEADERS, 1, &with(&[]))],
            GoAway(P),
        ),
        (
            "6.10: another frame in between",
            vec![frame(HEADERS, END_STREAM, 1, first), frame(PING, 0, 0, &[0; 8])],
            GoAway(P),
        ),
        (
            "6.10: another stream's CONTINUATION",
            vec![frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 3, second)],
            GoAway(P),
        ),
        ("8.2.1: a name with capitals", vec![request(with(&[("X-A", "1")]))], Reset(P)),
        ("8.2.1: a value with CR", vec![request(with(&[("x-a", "a\rb")]))], Reset(P)),
        ("8.2.2: connection", vec![request(with(&[("connection", "keep-alive")]))], Reset(P)),
        ("8.2.2: transfer-encoding", vec![request(with(&[("transfer-encoding", "chunked")]))], Reset(P)),
        ("8.2.2: te other than trailers", vec![request(with(&[("te", "gzip")]))], Reset(P)),
        ("8.2.2: te: trailers", vec![request(with(&[("te", "trailers")]))], ok()),
        ("8.3: an unknown pseudo-header", vec![request(with(&[(":test", "1")]))], Reset(P)),
        (
            "8.3: a pseudo-header behind others",
            vec![only(&[("x-a", "1"), usual[0], usual[1], usual[2]])],
            Reset(P),
        ),
        ("8.3: a pseudo-header of answers", vec![request(with(&[(":status", "200")]))], Reset(P)),
        ("8.3.1: no method", vec![only(&usual[1..])], Reset(P)),
        ("8.3.1: no path", vec![only(&[usual[0], usual[1], usual[3]])], Reset(P)),
        ("8.3.1: an empty path", vec![only(&[usual[0], usual[1], (":path", ""), usual[3]])], Reset(P)),
        ("8.3.1: two methods", vec![only(&[usual[0], usual[0], usual[1], usual[2], usual[3]])], Reset(P)),
        ("8.3.1: a host other than :authority", vec![request(with(&[("host", "y")]))], Status("400".into())),
        ("8.3.1: a host that is :authority", vec![request(with(&[("host", "x")]))], ok()),
        (
            "8.3.1: an authority with a user",
            vec![only(&[
                usual[0],
                usual[1],
                usual[2],
                (":authority", "u@x"),
                ("authorization", &authorization),
            ])],
            Status("400".into()),
        ),
        (
            "8.1.1: fewer bytes than content-length",
            vec![post(&[("content-length", "9")]), frame(DATA, END_STREAM, 1, b"abc")],
            Reset(P),
        ),
        (
            "8.1.1: more bytes than content-length",
            vec![post(&[("content-length", "1")]), frame(DATA, END_STREAM, 1, b"abc")],
            Reset(P),
        ),
    ]
}

/// The host's answer to some frames.
fn http2(address: &str, frames: &[Vec<u8>], wanted: &Outcome) -> Result<(), String> {
    let mut client = Client::connect(address);
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client.send(&frame(SETTINGS, 0, 0, &[]));
    for frame in frames {
        client.send(frame);
    }
    let until = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while Instant::now() < until {
        let Ok(head) = client.take(9) else {
            return match wanted {
                GoAway(_) | Reset(_) if client.bytes.is_empty() => Ok(()),
                _ => Err(format!("the connection ended, after {seen:?}")),
            };
        };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = client.take(length)?;
        let (ty, flags) = (head[3], head[4]);
        let code =
            |at: usize| payload.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().expect("four")));
        match ty {
            SETTINGS if flags & ACK == 0 => client.send(&frame(SETTINGS, ACK, 0, &[])),
            PING if flags & ACK != 0 && *wanted == Pong => return Ok(()),
            HEADERS => {
                let status = status(&payload);
                match wanted {
                    Status(wanted) if *wanted == status => return Ok(()),
                    Reset(_) if status == "400" => return Ok(()),
                    Status(_) => return Err(status),
                    // Of a request before the one that is looked at.
                    _ => seen.push(format!("status {status}")),
                }
            }
            RST_STREAM => match (wanted, code(0)) {
                (Reset(codes), Some(code)) if codes.contains(&code) => return Ok(()),
                // After a whole answer: no need for the rest of the request.
                (_, Some(0)) => {}
                (_, code) => seen.push(format!("RST_STREAM {code:?}")),
            },
            GOAWAY => match (wanted, code(4)) {
                (GoAway(codes) | Reset(codes), Some(code)) if codes.contains(&code) => return Ok(()),
                (_, code) => return Err(format!("GOAWAY {code:?}, after {seen:?}")),
            },
            _ => {}
        }
    }
    Err(format!("nothing came of it, after {seen:?}"))
}

/// The status at the beginning of a header block: hyper sends one of the static table, or a literal.
fn status(block: &[u8]) -> String {
    match block.first() {
        Some(index @ 0x88..=0x8e) => {
            ["200", "204", "206", "304", "400", "404", "500"][usize::from(index - 0x88)].into()
        }
        _ => format!("{:02x?}", &block[..block.len().min(8)]),
    }
}

#[test]
fn exchanges_over_http2_are_as_their_standard_has_them() {
    let host = Host::shared();
    Package::rogue("http2").deploy(&host.control());
    let cases = http2_cases("/fn/default/http2/ok", "/fn/default/http2/echo", host.tenant_key());
    let mut failures = Vec::new();
    for (name, frames, wanted) in &cases {
        let result = http2(host.invoke_address(), frames, wanted);
        judged(name, result.map_err(|why| format!("{why}; wanted {wanted:?}")), &mut failures);
    }
    host.invoke("http2", "/ok").expect(200);
    told(failures, &cases.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
}
