//! What must run for as long as the host: where it ends, the host ends.

use vesta_tests::{Host, PATIENCE, wait_for};

#[test]
fn a_background_task_that_panics_fails_readiness_and_ends_the_host_with_an_error() {
    for task in ["reaper", "housekeeping"] {
        // Builds of the profile `release` do not know this variable.
        let mut host = Host::builder().environment("VESTA_TEST_PANIC", task).start();
        let control = host.control().without_key();
        let said = wait_for("not to be ready", PATIENCE, || {
            let reply = control.try_send("GET", "/readyz", &[], b"").expect("the host still answers");
            (reply.status == 503).then(|| reply.text())
        });
        assert!(said.contains(task), "{said}");
        let status = host.wait(PATIENCE);
        assert_eq!(status.code(), Some(1), "{status}");
        let log = host.log();
        assert!(
            log.contains(&format!("{task} has ended")) && log.contains("VESTA_TEST_PANIC names"),
            "{log}"
        );
    }
}
