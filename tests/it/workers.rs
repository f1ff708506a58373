//! The processes in which models run: killed, stopped, lying, taken over, or not there at all. The host and
//! whoever waits for it go on.

use crate::hostile_models::{crash, deep, endless, nobody_else_notices};
use crate::onnx;
use prost::Message;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vesta_tests::books::Books;
use vesta_tests::process::Process;
use vesta_tests::{Host, PATIENCE, Package, load, wait_for};

/// A run of the sound model in [`crate::onnx`].
const RUN: &str = "/run?model=m&in=x:f32:1x4:1";

fn sound(name: &str) -> Package {
    Package::rogue(name).model("m", &onnx::sound().encode_to_vec())
}

fn signal(process: Process, name: &str) {
    let status = std::process::Command::new("kill").args([name, &process.id().to_string()]).status();
    // It may have ended meanwhile.
    let _ = status.expect("run kill");
}

fn exists(process: Process) -> bool {
    std::fs::exists(format!("/proc/{}", process.id())).expect("/proc")
}

#[test]
fn workers_killed_under_load_cost_nobody_an_answer_or_a_second_bill() {
    const KILLS: usize = 200;
    const CLIENTS: usize = 8;
    let host = Host::start();
    let (component, model) = crate::examples::digits();
    Package::new("digits", &component).model("digits", &model).deploy(&host.control());
    let body = crate::examples::digit_request(0);
    let right = host.data().send("POST", "/fn/default/digits/", &[], body.as_bytes()).expect(200).text();
    let usage = || host.control().get("/api/v1/usage").expect(200).json()["total"].clone();
    let (usage_before, before) = (usage(), Books::of(&host));

    let done = Arc::new(AtomicBool::new(false));
    let ids = Arc::new(Mutex::new(Vec::new()));
    let (address, key) = (host.invoke_address().to_string(), host.tenant_key().to_string());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, key, body) = (address.clone(), key.clone(), body.clone());
            let (done, ids, right) = (done.clone(), ids.clone(), right.clone());
            std::thread::spawn(move || {
                let api = vesta_tests::Api::new(&format!("http://{address}"), Some(&key));
                while !done.load(Ordering::Relaxed) {
                    let reply = api.send("POST", "/fn/default/digits/", &[], body.as_bytes());
                    assert_eq!((reply.status, reply.text()), (200, right.clone()), "{reply:?}");
                    ids.lock().expect("no panic").push(reply.invocation());
                }
            })
        })
        .collect();
    let mut killed = HashSet::new();
    let begun = Instant::now();
    // The kernel tells the CPU time of processes that have ended in steps of 10 ms.
    while killed.len() < KILLS || begun.elapsed() < Duration::from_secs(10) {
        for worker in host.process().busy_workers() {
            if killed.insert(worker.id()) {
                std::thread::sleep(Duration::from_millis(10));
                signal(worker, "-9");
            }
        }
        assert!(!clients.iter().any(std::thread::JoinHandle::is_finished), "a client has failed");
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("every request is answered");
    }
    let ids = std::mem::take(&mut *ids.lock().expect("no panic"));
    let usage_after = usage();
    let spent = Books::of(&host).since(&before);
    let number = |usage: &serde_json::Value| usage["invocations"].as_u64().expect("invocations");
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "an id was given twice");
    assert_eq!(number(&usage_after) - number(&usage_before), ids.len() as u64, "one record each");
    println!(
        "{} answers over {} kills; kernel {:.2} s = billed {:.2} + platform {:.2} + unattributed {:.2} %",
        ids.len(),
        killed.len(),
        spent.kernel,
        spent.billed,
        spent.platform,
        spent.unattributed() * 100.0
    );
    assert!(spent.unattributed().abs() <= 0.01, "{spent:?}");
    // A run that was cut off costs nobody anything: what is billed of runs is what as many runs take.
    let of = |usage: &serde_json::Value| usage["inference_cpu_ns"].as_u64().expect("inference_cpu_ns");
    let each_us = (of(&usage_after) - of(&usage_before)) as f64 / ids.len() as f64 / 1e3;
    let calm: Vec<f64> = (0..50)
        .map(|_| host.data().send("POST", "/fn/default/digits/", &[], body.as_bytes()).expect(200))
        .map(|reply| host.record(&reply.invocation())["inference_cpu_ns"].as_f64().expect("a number") / 1e3)
        .collect();
    let calm_us = calm.iter().sum::<f64>() / calm.len() as f64;
    println!("billed of a run: {each_us:.0} us under kills, {calm_us:.0} us without");
    assert!(each_us < 2.0 * calm_us + 100.0, "runs that were cut off are billed");
}

#[test]
fn a_worker_that_was_taken_over_can_do_nothing() {
    let host = Host::builder().worker("taken-over").start();
    sound("taken-over").deploy(&host.control());
    let said = host.invoke("taken-over", RUN).expect(200).text();
    let attempts: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once(" = ")).collect();
    println!("{} attempts, each refused:\n{said}", attempts.len());
    assert!(attempts.len() > 70, "{said}");
    for word in
        ["data/secret", "environ", "execute a program", "make a TCP socket", "ptrace the parent", "fork"]
    {
        assert!(attempts.iter().any(|(name, _)| name.contains(word)), "nobody tried {word}: {said}");
    }
    for (attempt, outcome) in attempts {
        assert!(matches!(outcome, "EPERM" | "EACCES"), "{attempt}: {outcome}");
    }
    assert!(host.is_ready());
}

#[test]
fn a_worker_that_lies_is_ended_and_believed_in_nothing() {
    /// As in `tests/worker/src/nonsense.rs`; this one tells its answer truly and lies about what it took.
    const LIES: u64 = 15;
    const EXPENSIVE: u64 = 10;
    let host = Host::builder().worker("nonsense").start();
    Package::rogue("honest").deploy(&host.control());
    for lie in 0..LIES {
        let name = format!("lie-{lie}");
        // Limits of its own, so that it has a worker of its own.
        sound(&name).limit("inference_ms", 1_000 + lie).deploy(&host.control());
        let begun = Instant::now();
        let reply = host.invoke(&name, &format!("/run?model=m&in=x:f32:1x4:{lie}")).expect(200);
        let (text, took) = (reply.text(), begun.elapsed());
        println!("lie {lie}: {took:?} {text}");
        assert!(took < Duration::from_secs(5), "lie {lie} takes {took:?}");
        let record = host.record(&reply.invocation());
        let billed: u64 =
            ["inference_cpu_ns", "cold_start_cpu_ns"].map(|f| record[f].as_u64().expect(f)).iter().sum();
        assert!(billed < 1_000_000_000, "lie {lie} is billed: {record}");
        match lie {
            EXPENSIVE | 12 => assert!(text.starts_with("y "), "lie {lie}: {text}"),
            7 | 11 => assert!(text.starts_with("error"), "lie {lie}: {text}"),
            _ => assert!(text.contains("model-crashed"), "lie {lie}: {text}"),
        }
        host.invoke("honest", "/ok").expect(200);
    }
    let log = host.log();
    assert!(log.contains("answered nonsense"), "{log}");
}

#[test]
fn a_stopped_worker_holds_up_its_caller_until_the_limit_and_nobody_else() {
    let host = Host::start();
    sound("stopped").limit("wall_ms", 1_000).deploy(&host.control());
    host.invoke("stopped", RUN).expect(200);
    let workers = host.process().busy_workers();
    assert_eq!(workers.len(), 1);
    signal(workers[0], "-STOP");
    let begun = Instant::now();
    host.invoke("stopped", RUN).expect_problem(504, "wall-limit");
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(2_500), "the limit is 1 s, and the answer came after {took:?}");
    wait_for("the stopped worker to be ended", PATIENCE, || (!exists(workers[0])).then_some(()));
    host.invoke("stopped", RUN).expect(200);
}

#[test]
fn a_model_that_crashes_is_told_set_aside_and_seen_by_nobody_else() {
    let host = Host::builder().worker("crashes-at-first-run").start();
    sound("crashes").deploy(&host.control());
    Package::rogue("sound").deploy(&host.control());
    let forks = host.process().fork_server().expect("a fork server");
    let said = host.invoke("crashes", RUN).expect(200).text();
    assert!(said.contains("model-crashed") && said.contains("signal"), "{said}");
    wait_for("the model to be set aside", PATIENCE, || {
        let said = host.invoke("crashes", RUN).expect(200).text();
        assert!(said.contains("model-crashed"), "{said}");
        host.invoke("sound", "/ok").expect(200);
        said.contains("set aside").then_some(())
    });
    // What a crash tells of the memory's layout is true of no worker to come.
    wait_for("another fork server", PATIENCE, || {
        host.process().fork_server().is_some_and(|now| now.id() != forks.id()).then_some(())
    });
    let logs = host.control().get("/api/v1/functions/crashes/logs").expect(200).text();
    assert!(logs.contains("model-crashed"), "{logs}");
    let shown = host.control().get("/api/v1/functions/crashes").expect(200).json();
    let aside = &shown["standing"]["models_set_aside"][0];
    assert_eq!(aside["model"], "m", "{shown}");
    assert!(aside["reason"].as_str().is_some_and(|r| r.contains("signal")), "{shown}");
    assert!(aside["retry_after_ms"].as_u64() > Some(0), "{shown}");
    // It is tried again after a while.
    wait_for("the model to be tried again", PATIENCE, || {
        (!host.invoke("crashes", RUN).expect(200).text().contains("set aside")).then_some(())
    });
}

#[test]
fn a_fork_server_that_is_killed_or_stopped_is_replaced() {
    let host = Host::start();
    for (round, end) in ["-KILL", "-STOP"].into_iter().enumerate() {
        // The host listens before its first fork server is ready.
        let forks = wait_for("a fork server", PATIENCE, || host.process().fork_server());
        signal(forks, end);
        // More than the spares that there are. With a limit of its own each has a worker of its own.
        for n in 0..4 {
            let (name, limit) = (format!("after-{round}-{n}"), 1_000 + 10 * round as u64 + n);
            sound(&name).limit("inference_ms", limit).deploy(&host.control());
            let begun = Instant::now();
            host.invoke(&name, RUN).expect(200);
            assert!(begun.elapsed() < Duration::from_secs(4), "{end}: {:?}", begun.elapsed());
        }
        wait_for("its end", PATIENCE, || (!exists(forks)).then_some(()));
        assert_ne!(host.process().fork_server().map(|p| p.id()), Some(forks.id()));
        assert_eq!(host.process().busy_workers().len(), 4 * (round + 1), "{end}: all serve on");
    }
}

#[test]
fn short_runs_one_after_another_leave_the_threads_to_others() {
    const GUESTS: usize = 4;
    let host = Host::start();
    sound("short").limit("cpu_ms", 60_000).limit("wall_ms", 60_000).deploy(&host.control());
    Package::rogue("other").deploy(&host.control());
    host.invoke("short", RUN).expect(200);
    host.invoke("other", "/ok").expect(200);
    let took = |requests: usize| {
        let mut took: Vec<f64> = Vec::new();
        for _ in 0..requests {
            let begun = Instant::now();
            host.invoke("other", "/ok").expect(200);
            took.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        took.sort_by(f64::total_cmp);
        [took[requests / 2], took[requests * 99 / 100]]
    };
    let alone = took(200);
    let short = "/infer?model=m&input=x&shape=1x4&bytes=16&times=40000";
    std::thread::scope(|scope| {
        let guests: Vec<_> = (0..GUESTS).map(|_| scope.spawn(|| host.invoke("short", short))).collect();
        std::thread::sleep(Duration::from_millis(200));
        let beside = took(200);
        assert!(!guests.iter().all(|guest| guest.is_finished()), "they run meanwhile");
        println!("another function's p50 and p99: alone {alone:.2?} ms, beside short runs {beside:.2?} ms");
        // Each guest may have a thread for half a millisecond of waiting, and as much of computing.
        assert!(beside[0] < 4.0 * GUESTS as f64, "{beside:?}");
        for guest in guests {
            guest.join().expect("no panic").expect(200);
        }
    });
}

#[test]
fn a_crash_at_the_hundredth_run_costs_nobody_an_answer() {
    let host = Host::builder().worker("crashes-at-hundredth-run").start();
    sound("wears-out").deploy(&host.control());
    let (address, key) = (host.invoke_address().to_string(), host.tenant_key().to_string());
    let to = address.clone();
    let make = move |_| load::request("GET", &to, &format!("/fn/default/wears-out{RUN}"), &key, "");
    let each = |reply: load::Received| assert!(reply.text().starts_with("y "), "{}", reply.text());
    assert_eq!(load::runtime().block_on(load::run(&address, 8, 1_000, make, each)), 1_000);
}

#[test]
fn a_crash_at_load_is_told_and_does_not_hurt_others() {
    let host = Host::builder().worker("crashes-at-load").start();
    sound("unloadable").deploy(&host.control());
    Package::rogue("other").deploy(&host.control());
    let reply = host.invoke("unloadable", RUN);
    assert!(reply.status >= 500 && reply.text().contains("signal"), "{reply:?}");
    host.invoke("other", "/ok").expect(200);
}

#[test]
fn without_workers_a_model_is_refused_with_the_reason_and_the_rest_is_served() {
    for (worker, why) in
        [("dies-as-a-spare", "ended"), ("dies-before-it-forks", "ended"), ("nowhere", "No such file")]
    {
        let host = match worker {
            "nowhere" => Host::builder().config("inference_program = \"/nowhere/vesta\"\n").start(),
            rogue => Host::builder().worker(rogue).start(),
        };
        sound("modelled").deploy(&host.control());
        Package::rogue("plain").deploy(&host.control());
        let begun = Instant::now();
        let reply = host.invoke("modelled", RUN);
        let said = reply.text();
        assert!(reply.status >= 500 && said.contains(why), "{worker}: {} {said}", reply.status);
        assert!(begun.elapsed() < Duration::from_secs(10), "{worker}: {:?}", begun.elapsed());
        host.invoke("plain", "/ok").expect(200);
    }
}

#[test]
fn with_the_engines_own_checks_off_workers_die_and_nothing_else() {
    let host = Host::builder().worker("unchecked").config("model_depth_max = 100000\n").start();
    let mut models = crate::hostile_models::hostile();
    for hostile in &mut models {
        // What wraps may give an answer, a crash or an error here; it gives them to its own tenant.
        if hostile.name.starts_with("wrapping") {
            hostile.ends = &["error", "y "];
        }
    }
    // This worker crashes when it is asked to.
    models.extend([crash(), deep()]);
    nobody_else_notices(&host, &models);
}

#[test]
fn the_end_of_the_host_ends_its_workers_and_their_runs() {
    let mut host = Host::builder().config("drain_seconds = 1\n").start();
    let endless = endless();
    let start = |host: &Host| {
        let api = host.data();
        let path = endless.path("default");
        let waiting = std::thread::spawn(move || api.get(&path));
        wait_for("a run", PATIENCE, || (!host.process().busy_workers().is_empty()).then_some(()));
        waiting
    };
    Package::rogue("endless").model("m", &endless.model).limit("wall_ms", 60_000).deploy(&host.control());
    for end in ["kill -9", "SIGTERM"] {
        let waiting = start(&host);
        let workers = host.process().workers();
        assert!(workers.len() >= 2, "a busy one and spares");
        let begun = Instant::now();
        match end {
            "SIGTERM" => {
                host.terminate();
                assert!(host.wait(PATIENCE).success(), "{}", host.log());
            }
            _ => host.kill_9(),
        }
        wait_for(end, Duration::from_secs(5), || (!workers.iter().any(|w| exists(*w))).then_some(()));
        println!("{end}: all ended after {:?}", begun.elapsed());
        // Its connection is gone, or its run.
        let _ = waiting.join();
        host.restart();
    }
}

#[test]
fn a_hundred_models_are_served_with_memory_for_ten() {
    const MODELS: usize = 100;
    const MIB: u64 = 1 << 20;
    let host = Host::builder().config("memory = \"320MiB\"\ninference_slots = 2\n").start();
    for n in 0..MODELS {
        crate::memory::with_model(&format!("model-{n}"), 16, n as u8).deploy(&host.control());
    }
    let (mut most, mut served) = (0, 0);
    for n in (0..MODELS).chain((0..MODELS).rev()) {
        let reply = host.invoke(&format!("model-{n}"), crate::memory::INFER);
        assert_eq!(reply.status, 200, "model-{n}: {}", reply.text());
        served += 1;
        most = most.max(host.process().busy_workers().len());
        // What a run has taken is known with the next look at the kernel, once a second; then others go.
        wait_for("memory within the budget", Duration::from_secs(2), || {
            (host.metric("vesta_memory_bytes") <= (320 * MIB) as f64).then_some(())
        });
    }
    println!("{served} requests; at most {most} models at once");
    assert!((2..=20).contains(&most), "{most}");
    assert!(host.process().private_bytes() <= 320 * MIB);
}

#[test]
fn one_tenants_long_runs_leave_a_slot_to_another() {
    let host = Host::builder().config("inference_slots = 1\n").start();
    let endless = endless();
    let mallory = host.tenant("mallory");
    endless.package().limit("inference_ms", 300).deploy(&host.control().with_key(&mallory));
    sound("short").deploy(&host.control());
    host.invoke("short", RUN).expect(200);
    let (address, path) = (host.invoke_address().to_string(), endless.path("mallory"));
    let to = address.clone();
    let make = move |_| load::request("GET", &to, &path, &mallory, "");
    let flood =
        std::thread::spawn(move || load::runtime().block_on(load::run(&address, 8, 40, make, |_| {})));
    std::thread::sleep(Duration::from_millis(200));
    let mut slowest = Duration::ZERO;
    while !flood.is_finished() {
        let begun = Instant::now();
        host.invoke("short", RUN).expect(200);
        slowest = slowest.max(begun.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("beside runs of 300 ms on one slot, a short one takes {slowest:?} at most");
    // 300 ms of CPU time are more by the wall where other tests run beside: but not 39 runs.
    assert!(slowest < Duration::from_millis(2_000), "{slowest:?}");
    assert_eq!(flood.join().expect("no panic"), 40);
}
