//! A disk that is really full: what cannot be written is refused, and works again once there is room.

use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use vesta_tests::{Host, Neighbour, PATIENCE, Package, skip, wait_for};

/// A file system of its own, in memory. Mounting needs root.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mib: u32) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().expect("a folder");
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path());
        mount.status().is_ok_and(|status| status.success()).then_some(SmallDisk(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Leaves not a byte.
    fn fill(&self) {
        let mut file =
            std::fs::File::options().create(true).append(true).open(self.ballast()).expect("a file");
        for size in [1 << 20, 4 << 10, 1] {
            while std::io::Write::write(&mut file, &vec![1; size]).is_ok_and(|n| n > 0) {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.ballast()).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[test]
fn after_a_full_disk_everything_works_again_without_a_restart() {
    let Some(disk) = SmallDisk::mount(256) else {
        return skip("a small file system cannot be mounted: this needs root");
    };
    let mut host = Host::builder().data(&disk.path().join("data")).start();
    let (operator, control) = (host.operator(), host.control());
    Package::rogue("hello").deploy(&control);
    let neighbour = Neighbour::start(&host);
    let made = operator.post_json("/api/v1/keys?tenant=default", &json!({})).expect(201).json();
    let (prefix, key) = (made["prefix"].as_str().expect("a prefix"), made["key"].as_str().expect("a key"));
    let create = |name: &str| operator.post_json("/api/v1/tenants", &json!({ "name": name }));
    let revoke = || operator.delete(&format!("/api/v1/keys/{prefix}?tenant=default"));

    disk.fill();
    // The write-ahead log has room of its own for a while.
    let made = (0..5_000).take_while(|n| create(&format!("early-{n}")).status == 201).count();
    println!("{made} tenants were made after the disk was full");
    // More often than there are connections: each would be of no use afterwards.
    for n in 0..10 {
        create(&format!("refused-{n}")).expect_problem(507, "storage-full");
        revoke().expect_problem(507, "storage-full");
        assert_eq!(Package::rogue("late").begin(&control).status, 507);
    }
    assert!(!host.is_ready());
    operator.get("/api/v1/tenants").expect(200);
    host.control().with_key(key).get("/api/v1/whoami").expect(200);

    disk.empty();
    let begun = Instant::now();
    wait_for("a tenant to be made", PATIENCE, || (create("after").status == 201).then_some(()));
    let healed = begun.elapsed();
    revoke().expect(204);
    host.control().with_key(key).get("/api/v1/whoami").expect(401);
    assert_eq!(Package::rogue("late").deploy(&control), 1);
    wait_for("to be ready", PATIENCE, || host.is_ready().then_some(()));
    println!("writes work again after {healed:?}; ready after {:?}", begun.elapsed());
    assert!(healed < Duration::from_secs(2), "{healed:?}");

    let served = neighbour.stop();
    let refused = served.statuses.iter().filter(|s| **s == 503).count();
    println!(
        "the neighbour: {} calls, {refused} of them refused while nothing could be recorded, p99 {:?}",
        served.statuses.len(),
        served.p99()
    );
    assert!(served.statuses.iter().all(|s| matches!(s, 200 | 503)), "{:?}", served.statuses);
    host.kill_9();
    host.restart();
    let names = operator_tenants(&host);
    assert!(names.contains(&"after".to_owned()), "{names:?}");
    assert!(!names.iter().any(|n| n.starts_with("refused")), "{names:?}");
    assert_eq!(names.iter().filter(|n| n.starts_with("early-")).count(), made);
    host.control().with_key(key).get("/api/v1/whoami").expect(401);
    drop(host);
}

fn operator_tenants(host: &Host) -> Vec<String> {
    let json = host.operator().get("/api/v1/tenants").expect(200).json();
    let tenants = json["tenants"].as_array().expect("tenants");
    tenants.iter().map(|t| t["name"].as_str().expect("a name").to_owned()).collect()
}
