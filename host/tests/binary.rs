//! That this test exists makes `cargo test` build the binary, which the integration tests in tests/ run.

use std::process::Command;

#[test]
fn the_binary_says_its_version_and_refuses_what_it_does_not_know() {
    let vesta = || Command::new(env!("CARGO_BIN_EXE_vesta"));
    let version = vesta().arg("--version").output().expect("run vesta");
    assert!(version.status.success());
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("vesta {}\n", env!("CARGO_PKG_VERSION")));
    let unknown = vesta().arg("no-such-command").output().expect("run vesta");
    assert_eq!(unknown.status.code(), Some(2));
}
