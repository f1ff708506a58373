//! SIGTERM: what runs is let finish, nothing new is taken, and the process ends well.

use std::time::Duration;
use vesta_tests::{Host, PATIENCE, Package, wait_for};

#[test]
fn no_request_in_flight_is_lost() {
    let mut host = Host::start();
    Package::rogue("busy").deploy(&host.control());
    host.invoke("busy", "/ok").expect(200);
    let data = host.data();
    let running = |path: &'static str| {
        let data = data.clone();
        std::thread::spawn(move || data.try_send("GET", path, &[], b""))
    };
    let mut flying: Vec<_> = (0..6).map(|_| running("/fn/default/busy/sleep?ms=3000")).collect();
    flying.extend((0..2).map(|_| running("/fn/default/busy/trickle?chunks=30&ms=100")));
    std::thread::sleep(Duration::from_millis(800));
    let control = host.control().without_key();
    control.get("/healthz").expect(200);
    control.get("/readyz").expect(200);
    host.terminate();
    wait_for("not to be ready", Duration::from_secs(10), || {
        match control.try_send("GET", "/readyz", &[], b"") {
            Ok(reply) => (reply.status == 503).then_some(()),
            Err(_) => Some(()),
        }
    });
    match data.try_send("GET", "/fn/default/busy/ok", &[], b"") {
        Ok(reply) => assert_eq!(reply.status, 503, "nothing new is taken: {reply:?}"),
        Err(_) => assert!(flying.iter().any(|f| !f.is_finished()), "refused while others run"),
    }
    let mut ids = Vec::new();
    for one in flying {
        let reply = one.join().expect("no panic").expect("a whole response").expect(200);
        ids.push(reply.invocation());
    }
    let status = host.wait(PATIENCE);
    assert!(status.success(), "{status}");
    host.restart();
    for id in ids {
        assert_eq!(host.record(&id)["outcome"], "ok");
    }
}

#[test]
fn an_idle_host_ends_at_once() {
    let mut host = Host::start();
    Package::rogue("idle").deploy(&host.control());
    host.invoke("idle", "/ok").expect(200);
    host.terminate();
    let status = host.wait(Duration::from_secs(10));
    assert!(status.success(), "{status}");
}
