//! The command line, from login to delete, as people and as scripts use it.

use std::os::unix::fs::PermissionsExt;
use vesta_tests::cli::Cli;
use vesta_tests::{Host, guests};

#[test]
fn a_function_lives_its_life_by_command() {
    let host = Host::start();
    let cli = Cli::of(&host, host.tenant_key());
    let hello = guests::example("hello").dir.display().to_string();

    let text = cli.run(&["deploy", &hello]).ok();
    assert!(text.stdout.contains("hello") && text.stdout.contains("/fn/default/hello"), "{}", text.stdout);
    let second = cli.run(&["deploy", &hello, "--no-build", "--json"]).ok().json();
    assert_eq!(second["version"], 2, "{second}");
    assert_eq!(second["uploaded"].as_array().map(Vec::len), Some(0), "nothing is uploaded twice: {second}");

    let listed = cli.run(&["list", "--json"]).ok().json();
    assert_eq!(listed["functions"][0]["name"], "hello");
    assert!(cli.run(&["list"]).ok().stdout.contains("hello"));
    assert!(cli.run(&["inspect", "hello"]).ok().stdout.contains("hello"));

    let said = cli.run(&["invoke", "hello/?name=Ada"]).ok();
    assert_eq!(said.stdout.trim_end(), "Hello, Ada!");
    let json = cli.run(&["invoke", "hello", "--data", "{\"name\":\"Ada\"}", "--json"]).ok().json();
    assert_eq!(json["body"], "{\"message\":\"Hello, Ada!\"}", "{json}");
    assert!(json["cost"].as_str().is_some_and(|c| c.starts_with("0.")), "{json}");
    assert_eq!(json["status"], 200);

    let usage = cli.run(&["usage", "--json"]).ok().json();
    assert_eq!(usage["total"]["invocations"], 2, "{usage}");
    let table = cli.run(&["usage"]).ok().stdout;
    assert!(table.contains("hello") && table.contains("USD"), "{table}");

    cli.run(&["rollback", "hello"]).ok();
    let inspected = cli.run(&["inspect", "hello", "--json"]).ok().json();
    assert_eq!(inspected["live"], 1, "{inspected}");
    let logs = cli.run(&["logs", "hello"]).ok().stdout;
    assert!(logs.contains("greeting a guest"), "{logs}");

    cli.run(&["delete", "hello", "--yes"]).ok();
    assert_eq!(cli.run(&["inspect", "hello"]).fails(&["hello"]).code, 3);
}

#[test]
fn exit_codes_tell_scripts_what_went_wrong() {
    let host = Host::shared();
    let url = format!("http://{}", host.control_address());
    let stranger = Cli::stranger();
    assert_eq!(stranger.run(&["no-such-command"]).fails(&["no-such-command"]).code, 2);
    assert_eq!(stranger.run(&["deploy", "--no-such-flag"]).fails(&["--no-such-flag"]).code, 2);
    let wrong = stranger.run(&["list", "--url", &url, "--key", "vk_aaaaaaaaaaaa_wrong"]);
    assert_eq!(wrong.fails(&["error"]).code, 4);
    assert_eq!(stranger.run(&["list", "--url", "http://127.0.0.1:9"]).fails(&["127.0.0.1:9"]).code, 6);
    let user = Cli::of(&host, host.tenant_key());
    assert_eq!(user.run(&["invoke", "never-deployed"]).fails(&["never-deployed"]).code, 3);
    assert_eq!(user.run(&["tenant", "create", "upstart"]).fails(&["error"]).code, 4);
    assert_eq!(user.run(&["rollback", "never-deployed"]).fails(&["never-deployed"]).code, 3);
}

#[test]
fn login_keeps_the_key_privately_and_refuses_a_wrong_one() {
    let host = Host::shared();
    let cli = Cli::of(&host, host.tenant_key());
    let files = walk(&cli.home());
    let config =
        files.iter().find(|f| f.ends_with("vesta/config.toml")).unwrap_or_else(|| panic!("{files:?}"));
    assert!(std::fs::read_to_string(config).expect("the file").contains(host.tenant_key()));
    assert_eq!(std::fs::metadata(config).expect("the file").permissions().mode() & 0o777, 0o600);
    let url = format!("http://{}", host.control_address());
    let refused = Cli::stranger();
    assert_eq!(refused.run(&["login", &url, "--key", "vk_aaaaaaaaaaaa_wrong"]).fails(&["error"]).code, 4);
    assert!(walk(&refused.home()).iter().all(|f| !f.ends_with("config.toml")), "nothing is kept");
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten().map(|e| e.path());
    entries.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] }).collect()
}

#[test]
fn an_operator_makes_tenants_and_acts_for_them() {
    let host = Host::start();
    let operator = Cli::of(&host, host.operator_key());
    let made = operator.run(&["tenant", "create", "acme", "--json"]).ok().json();
    let key = made["key"].as_str().expect("the tenant's key");
    let acme = Cli::of(&host, key);
    let hello = guests::example("hello").dir.display().to_string();
    acme.run(&["deploy", &hello]).ok();
    let seen = operator.run(&["list", "--tenant", "acme", "--json"]).ok().json();
    assert_eq!(seen["functions"][0]["name"], "hello");
    assert_eq!(operator.run(&["list", "--json"]).ok().json()["functions"], serde_json::json!([]));
    assert_eq!(acme.run(&["invoke", "hello"]).ok().stdout.trim_end(), "Hello, world!");
}

#[test]
fn help_version_and_completions_need_no_host() {
    let cli = Cli::stranger();
    assert!(cli.run(&["--version"]).ok().stdout.starts_with("vesta "));
    let help = cli.run(&["--help"]).ok().stdout;
    for command in [
        "serve", "new", "build", "deploy", "list", "invoke", "logs", "usage", "rollback", "delete", "login",
        "demo",
    ] {
        assert!(help.contains(command), "{command} is missing:\n{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(cli.run(&["completions", shell]).ok().stdout.contains("vesta"), "{shell}");
    }
}

#[test]
fn a_new_function_builds_as_it_comes() {
    let host = Host::shared();
    let cli = Cli::of(&host, host.tenant_key());
    cli.run(&["new", "fresh"]).ok();
    let dir = cli.home().join("fresh");
    assert!(dir.join("vesta.toml").is_file() && dir.join("Cargo.toml").is_file());
    cli.run(&["new", "fresh"]).fails(&["fresh"]);
    cli.run(&["new", "Not A Name"]).fails(&["Not A Name"]);
}
