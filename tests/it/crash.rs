//! kill -9 in the middle of load: whoever got a whole response has exactly one record.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vesta_tests::{Host, Package, load};

const KILLS: u64 = 20;
const CLIENTS: usize = 8;

#[test]
fn kill_9_loses_no_record_of_a_finished_response_and_doubles_none() {
    let mut host = Host::start();
    Package::rogue("killed").deploy(&host.control());
    let mut received_ever = 0;
    let mut charged_ever = 0;
    for round in 0..KILLS {
        host.invoke("killed", "/ok").expect(200);
        received_ever += 1;
        let responses = Arc::new(Mutex::new(Vec::new()));
        let (address, key) = (host.invoke_address().to_string(), host.tenant_key().to_string());
        let keep = responses.clone();
        let clients = std::thread::spawn(move || {
            let to = address.clone();
            // Every third response is long enough to be streamed, so that both ways of ending are met.
            let make = move |n: usize| {
                let path = if n.is_multiple_of(3) {
                    "/fn/default/killed/big?bytes=100000&chunked"
                } else {
                    "/fn/default/killed/ok"
                };
                load::request("GET", &to, path, &key, "")
            };
            let each = move |r: load::Received| {
                if r.whole && r.status == 200 {
                    keep.lock().expect("no panic").push((r.invocation().to_string(), r.body.len()));
                }
            };
            load::runtime().block_on(load::run(&address, CLIENTS, usize::MAX, make, each))
        });
        std::thread::sleep(Duration::from_millis(150 + 37 * (round % 7)));
        host.kill_9();
        clients.join().expect("no panic");
        host.restart();

        let responses = std::mem::take(&mut *responses.lock().expect("no panic"));
        assert!(responses.len() > 5, "round {round}: only {} responses before the kill", responses.len());
        let ids: HashSet<_> = responses.iter().map(|(id, _)| id.clone()).collect();
        assert_eq!(ids.len(), responses.len(), "an id was given twice");
        for (id, bytes) in &responses {
            let record = host.record(id);
            assert_eq!(record["outcome"], "ok", "round {round}: {record}");
            assert_eq!(record["bytes_out"].as_u64(), Some(*bytes as u64), "round {round}: {record}");
        }
        received_ever += responses.len() as u64;
        let total = host.control().get("/api/v1/usage").expect(200).json()["total"].clone();
        let recorded = total["invocations"].as_u64().expect("invocations");
        // What was cut off by a kill may have been recorded: at most one for each client and round.
        let cut_off_max = CLIENTS as u64 * (round + 1);
        assert!(
            (received_ever..=received_ever + cut_off_max).contains(&recorded),
            "round {round}: {received_ever} responses received in all, and {recorded} recorded"
        );
        let charged = vesta_tests::api::attos(total["charge"].as_str().expect("a charge"));
        assert!(charged > charged_ever, "the bill only grows");
        charged_ever = charged;
    }
    println!("{received_ever} responses over {KILLS} kills, each recorded once");
}
