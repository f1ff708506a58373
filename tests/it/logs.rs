//! What a function writes on its outputs is attributed to it.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use vesta_tests::cli::Cli;
use vesta_tests::{Host, PATIENCE, Package, wait_for};

fn lines(host: &Host, function: &str) -> Vec<Value> {
    let text = host.control().get(&format!("/api/v1/functions/{function}/logs?limit=100")).expect(200).text();
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

#[test]
fn structured_and_plain_lines_are_kept_with_their_function_and_invocation() {
    let host = Host::shared();
    Package::rogue("talks").deploy(&host.control());
    let id = host.invoke("talks", "/log?lines=3").expect(200).invocation();
    let all = wait_for("log lines", PATIENCE, || {
        let all = lines(&host, "talks");
        all.iter()
            .any(|l| l["message"].as_str().is_some_and(|m| m.starts_with("without an end")))
            .then_some(all)
    });
    let find = |message: &str| {
        let line = all.iter().find(|l| l["message"].as_str().is_some_and(|m| m.starts_with(message)));
        line.unwrap_or_else(|| panic!("no line {message:?} in {all:?}"))
    };
    let structured = find("structured 1");
    assert_eq!(structured["level"], "info");
    assert_eq!(structured["fields"]["number"], 1);
    for line in &all {
        assert_eq!(line["function"], "talks", "{line}");
        assert_eq!(line["version"], 1, "{line}");
        assert_eq!(line["invocation"], id.as_str(), "{line}");
        assert!(line["message"].as_str().is_some_and(|m| m.len() <= 8 * 1024 + 64), "a long line is cut");
    }
    assert_eq!(find("plain on stderr")["level"], "warn");
    assert_eq!(find("plain on stdout")["level"], "info");
    assert_eq!(find("{\"level\": \"error\"")["level"], "warn", "broken JSON is a plain line");
    find("xxxx");
}

#[test]
fn too_many_lines_are_cut_with_a_word_about_it() {
    let host = Host::shared();
    Package::rogue("chatters").deploy(&host.control());
    host.invoke("chatters", "/log?lines=5000").expect(200);
    let host = &host;
    wait_for("the line that says so", PATIENCE, || {
        let text = host.control().get("/api/v1/functions/chatters/logs?limit=1000").text();
        let bytes: usize = text.len();
        assert!(bytes < 1 << 20, "{bytes} bytes of log for one invocation of at most 64 KiB");
        text.lines().last().is_some_and(|l| l.contains("cut") || l.contains("64 KiB")).then_some(())
    });
}

#[test]
fn logs_can_be_followed() {
    let host = Host::shared();
    Package::rogue("followed").deploy(&host.control());
    let cli = Cli::of(&host, host.tenant_key());
    let mut command = cli.command(&["logs", "followed", "--follow", "--json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("run vesta logs");
    let stdout = child.stdout.take().expect("a pipe");
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    let line = wait_for("a followed line", PATIENCE, || {
        host.invoke("followed", "/log?lines=1").expect(200);
        receive.recv_timeout(std::time::Duration::from_millis(500)).ok()
    });
    let _ = child.kill();
    let _ = child.wait();
    let json: Value = serde_json::from_str(&line).expect("a line of JSON");
    assert_eq!(json["function"], "followed", "{json}");
}
