//! The processes that read what tenants upload have given up what they do not need, and end with their host.

use crate::snapshots::prepared;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use vesta_nn::confine::probe;
use vesta_tests::process::Process;
use vesta_tests::{Host, PATIENCE, Package, wait_for};

/// How long a process may outlive its host.
const END_MAX: Duration = Duration::from_secs(2);

const PREPARING: &str = "prepare-worker";

/// A filter of system calls is in force, and no new privileges can be had.
fn is_confined(process: &Process) -> bool {
    let is = |field, value: &str| process.status(field).is_some_and(|v| v == value);
    is("Seccomp", "2") && is("NoNewPrivs", "1")
}

/// Begins a deployment that takes ten seconds, and waits for its child: the initialisation of the component
/// does not end.
fn prepare_for_long(host: &Host, name: &str) -> Process {
    Package::new(name, &prepared("loop", 1)).commit(&host.control());
    let host = host.process();
    // Until it is confined, the child has read nothing of the upload.
    wait_for("a confined child that prepares an upload", PATIENCE, || {
        host.children(PREPARING).into_iter().find(is_confined)
    })
}

/// Serves a model, and gives the host's workers once all of them are confined: that of the model, and the
/// spares.
fn serve_model(host: &Host) -> Vec<Process> {
    let (component, model) = crate::examples::digits();
    Package::new("digits", &component).model("digits", &model).deploy(&host.control());
    let body = crate::examples::digit_request(0);
    host.data().send("POST", "/fn/default/digits/", &[], body.as_bytes()).expect(200);
    wait_for("confined workers", PATIENCE, || {
        let workers = host.process().workers();
        (workers.len() >= 3 && workers.iter().all(is_confined)).then_some(workers)
    })
}

fn job_folders(host: &Host) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(host.data_dir().join("cache/jobs")).expect("the folders of jobs");
    dir.map(|entry| entry.expect("a folder").path()).collect()
}

#[test]
fn the_child_that_prepares_an_upload_is_confined_and_has_nothing_of_the_host() {
    // The host inherits a file, of which it knows nothing.
    let inherited = std::fs::File::open("/proc/version").expect("a file");
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).expect("it is inherited");
    let host = Host::start();
    let child = prepare_for_long(&host, "endless");
    assert_eq!(job_folders(&host).len(), 1);
    // Only root may look at the rest of a process that cannot be traced.
    if rustix::process::getuid().is_root() {
        let of_child = |file: &str| format!("/proc/{}/{file}", child.id());
        let environment = std::fs::read(of_child("environ")).expect("the child's environment");
        assert!(environment.is_empty(), "{}", String::from_utf8_lossy(&environment));
        for entry in std::fs::read_dir(of_child("fd")).expect("the child's descriptors").flatten() {
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            let is_own = target.starts_with("pipe:") || target.starts_with("/memfd:");
            assert!(is_own, "the child holds {target}");
        }
    }
    wait_for("the end of the child", PATIENCE, || (!child.is_alive()).then_some(()));
    wait_for("the end of its folder", PATIENCE, || job_folders(&host).is_empty().then_some(()));
}

#[test]
fn every_inference_worker_is_confined() {
    let host = Host::start();
    let workers = serve_model(&host);
    println!("{} workers, all confined", workers.len());
    // Only root may look at the rest of a process that cannot be traced.
    if rustix::process::getuid().is_root() {
        let busy: Vec<u32> = host.process().busy_workers().iter().map(Process::id).collect();
        for worker in workers {
            let open = std::fs::read_dir(format!("/proc/{}/fd", worker.id())).expect("its descriptors");
            let open: BTreeSet<PathBuf> =
                open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
            let count = |kind: &str| open.iter().filter(|to| to.to_string_lossy().starts_with(kind)).count();
            // Its own with the host, and that of its lane: not those of the process that it is forked from.
            let sockets = 1 + usize::from(busy.contains(&worker.id()));
            assert_eq!((count("socket:"), count("pipe:")), (sockets, 0), "{open:?}");
        }
    }
}

#[test]
fn no_child_and_no_worker_outlives_a_host_that_is_killed_and_what_they_left_is_removed() {
    let mut host = Host::start();
    let workers = serve_model(&host);
    let child = prepare_for_long(&host, "endless");
    host.kill_9();
    let all: Vec<Process> = workers.into_iter().chain([child]).collect();
    wait_for("the end of all processes of the host", END_MAX, || {
        (!all.iter().any(Process::is_alive)).then_some(())
    });
    let left = job_folders(&host);
    assert_eq!(left.len(), 1, "{left:?}");
    host.restart();
    let left = job_folders(&host);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_log_names_what_the_kernel_lacks_and_nothing_else() {
    let host = Host::start();
    let log = host.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("the kernel lacks a defence")).collect();
    let missing = probe();
    assert_eq!(lines.len(), missing.len(), "{missing:?}\n{log}");
    for (line, missing) in lines.iter().zip(missing) {
        assert!(line.contains(missing.defence()), "{line}");
    }
}
