//! A data directory that is damaged in part: what is whole is served, and what is missing is not made anew.

use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use vesta_tests::{Host, Package, cli::Cli, load};

/// Runs statements on the database of a host that does not run.
fn sql(host: &Host, statements: &'static [&'static str]) {
    let path = host.data_dir().join("vesta.db");
    load::runtime().block_on(async {
        let options = SqliteConnectOptions::new().filename(path);
        let mut connection = SqliteConnection::connect_with(&options).await.expect("open");
        for statement in statements {
            sqlx::query(*statement).execute(&mut connection).await.expect(statement);
        }
        connection.close().await.expect("close");
    });
}

#[test]
fn a_row_that_cannot_be_read_costs_one_version_and_not_the_start() {
    let mut host = Host::start();
    for name in ["whole", "damaged", "damaged"] {
        Package::rogue(name).deploy(&host.control());
    }
    let id = Package::rogue("cut").begin(&host.control()).expect(201).json()["id"].clone();
    let id = id.as_str().expect("an id").to_owned();
    host.kill_9();
    sql(
        &host,
        &[
            "UPDATE versions SET manifest = 'nonsense' WHERE function = 'damaged' AND number = 2",
            "INSERT INTO tenants (name, created_unix_ms) VALUES ('No Name', 0)",
            "INSERT INTO open_deployments VALUES ('nonsense', 'No Name', 'x', 0)",
        ],
    );
    for _ in 0..2 {
        host.restart();
        host.invoke("whole", "/ok").expect(200);
        host.invoke("damaged@1", "/ok").expect(200);
        host.invoke("damaged", "/ok").expect(404);
        let seen = host.control().get("/api/v1/functions/damaged").expect(200).json();
        assert_eq!(seen["damaged_versions"], serde_json::json!([2]), "{seen}");
        // A deployment that a restart has cut off is known to have failed, after each restart.
        let cut = host.control().get(&format!("/api/v1/deployments/{id}")).expect(200).json();
        assert_eq!(cut["state"], "failed", "{cut}");
        assert_eq!(cut["error"]["type"], "urn:vesta:problem:host-restarted", "{cut}");
        let log = host.log();
        let named = log.lines().any(|l| l.contains("versions") && l.contains("default/damaged/2"));
        assert!(named, "{log}");
        host.kill_9();
    }
    host.restart();
    assert_eq!(Package::rogue("damaged").deploy(&host.control()), 3);
    host.control().delete("/api/v1/functions/damaged/versions/2").expect(204);
    host.invoke("damaged", "/ok").expect(200);
}

#[test]
fn a_missing_database_or_secret_beside_the_rest_is_not_a_new_directory() {
    let mut host = Host::start();
    Package::rogue("kept").deploy(&host.control());
    let data = host.data_dir();
    let address = ["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    for missing in ["vesta.db", "secret"] {
        host.terminate();
        host.wait(vesta_tests::PATIENCE);
        let aside = host.scratch().join("aside");
        std::fs::rename(data.join(missing), &aside).expect("moved");
        let mut arguments = vec!["serve", "--data", data.to_str().expect("a plain path")];
        arguments.extend(address);
        Cli::stranger().run(&arguments).fails(&[missing, "not a new directory", "backup"]);
        assert!(!data.join(missing).exists());
        std::fs::rename(&aside, data.join(missing)).expect("moved back");
        host.restart();
        host.invoke("kept", "/ok").expect(200);
    }
}

#[test]
fn a_foreign_file_in_the_journals_folder_is_named_and_passed_over() {
    let mut host = Host::start();
    Package::rogue("billed").deploy(&host.control());
    host.kill_9();
    let journal = host.data_dir().join("journal");
    for name in ["5.jsonl", "18446744073709551615.jsonl", "notes.txt"] {
        std::fs::write(journal.join(name), "not a record\n").expect("written");
    }
    std::fs::create_dir(journal.join("0000000000009999.jsonl")).expect("a folder");
    host.restart();
    let id = host.invoke("billed", "/ok").expect(200).invocation();
    assert_eq!(host.record(&id)["outcome"], "ok");
    let log = host.log();
    for name in ["/5.jsonl", "18446744073709551615.jsonl", "notes.txt", "0000000000009999.jsonl"] {
        assert!(log.lines().any(|l| l.contains("foreign file") && l.contains(name)), "no {name}: {log}");
        assert!(journal.join(name.trim_start_matches('/')).exists());
    }
}
