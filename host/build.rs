//! Says whether this build knows the faults that tests ask for: not where it is built for installing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(vesta_test_faults)");
    if std::env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        println!("cargo::rustc-cfg=vesta_test_faults");
    }
}
