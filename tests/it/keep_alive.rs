//! What keep-alive has learned of a function outlives the host's process, and is acted on.

use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use vesta_core::keepalive::{Asked, BASE_PRICE, History, IndexPolicy, KeepAlive, SavedHistory};
use vesta_tests::{Host, PATIENCE, Package, guests, wait_for};

fn deploy(host: &Host, name: &str) {
    // As long as it is worth its memory.
    let package = Package::new(name, &guests::example("hello").component);
    package.set("/scaling", json!({ "minimum": 0 })).deploy(&host.control());
}

fn function(host: &Host, name: &str) -> Value {
    host.control().get(&format!("/api/v1/functions/{name}")).expect(200).json()
}

fn learned(host: &Host, name: &str) -> Value {
    function(host, name)["standing"]["keep_alive"].clone()
}

fn stop(host: &mut Host) {
    host.terminate();
    assert!(host.wait(PATIENCE).success());
}

/// Runs a statement on the database of a host that is down; how many rows it touched.
fn execute(host: &Host, sql: &'static str, values: &[&str]) -> u64 {
    let path = host.data_dir().join("vesta.db").display().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let pool = sqlx::SqlitePool::connect(&path).await.expect("the database");
        let query = values.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
        let done = query.execute(&pool).await.expect("the statement");
        pool.close().await;
        done.rows_affected()
    })
}

#[test]
fn what_was_learned_of_a_function_outlives_a_restart() {
    let mut host = Host::start();
    for name in ["kept", "cut", "damaged", "deleted"] {
        deploy(&host, name);
        host.invoke(name, "/").expect(200);
    }
    let before = learned(&host, "kept");
    assert!(before["cold_ms"].as_f64() > Some(0.0) && before["resident_mb"].as_f64() > Some(0.0), "{before}");
    host.control().delete("/api/v1/functions/deleted").expect(204);
    stop(&mut host);
    let cut = "UPDATE histories SET history = '{\"format\":' WHERE function = ?";
    assert_eq!(execute(&host, cut, &["cut"]), 1);
    assert_eq!(execute(&host, cut, &["deleted"]), 0, "gone with its version");
    // A flipped bit: it is no text any more.
    let damage = "UPDATE histories SET history = CAST(X'FF7B' AS TEXT) WHERE function = ?";
    assert_eq!(execute(&host, damage, &["damaged"]), 1);

    host.restart();
    let after = learned(&host, "kept");
    for field in ["cold_ms", "resident_mb", "gaps", "reason"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert!(after["age_ms"].as_u64() > before["age_ms"].as_u64(), "{before} {after}");
    assert!(host.log().contains("cannot be read"), "{}", host.log());
    for name in ["cut", "damaged"] {
        assert_eq!(function(&host, name)["standing"], Value::Null);
        assert_eq!(host.invoke(name, "/").expect(200).text(), "Hello, world!");
    }
}

#[test]
fn a_timer_is_warm_when_it_is_due_though_the_host_was_restarted() {
    let mut host = Host::start();
    deploy(&host, "timer");
    host.invoke("timer", "/").expect(200);
    stop(&mut host);
    // It was called every six hours, and is due to be warmed in 12 s.
    let mut history = History::new();
    history.started(Duration::from_millis(50), 20 << 20);
    let calls = (0..40).map(|n| Duration::from_secs(n * 6 * 3600));
    let last = calls.inspect(|call| history.arrived(*call)).last().expect("40 calls");
    let plan = IndexPolicy.plan(&history, &Asked::default(), BASE_PRICE);
    let now = last + plan.prewarm_at().expect("it comes back") - Duration::from_secs(12);
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let saved = serde_json::to_string(&SavedHistory::of(&history, now, unix_ms)).expect("JSON");
    assert_eq!(execute(&host, "UPDATE histories SET history = ? WHERE function = ?", &[&saved, "timer"]), 1);

    host.restart();
    assert_eq!(learned(&host, "timer")["reason"], "prewarm");
    assert_eq!(function(&host, "timer")["state"], "cold", "it is not due yet");
    wait_for("the timer to be warm", PATIENCE, || {
        (function(&host, "timer")["state"] == "warm").then_some(())
    });
    let reply = host.invoke("timer", "/").expect(200);
    assert_eq!(reply.timing("cold"), Some(0.0), "nobody waited for its start");
    assert_eq!(host.record(&reply.invocation())["cold_start_cpu_ns"], 0, "nor pays for it");
}
