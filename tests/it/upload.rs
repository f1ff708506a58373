//! What is uploaded, once, and what is refused.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use vesta_tests::package::{digest, finished};
use vesta_tests::{Host, Package};

fn files_below(dir: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(dir).map(|d| d.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.iter().map(|e| if e.path().is_dir() { files_below(&e.path()) } else { 1 }).sum()
}

#[test]
fn a_blob_is_uploaded_once_a_tenant_and_stored_once_for_all() {
    let host = Host::start();
    let package = Package::rogue("first");
    package.deploy(&host.control());
    let blobs = host.data_dir().join("blobs");
    assert_eq!(files_below(&blobs), 1);

    let again = Package::rogue("second").begin(&host.control()).expect(201).json();
    assert_eq!(again["missing"], json!([]), "this tenant has uploaded the bytes before");

    // Knowing a digest gives nobody else's bytes: another tenant has to bring them.
    let neighbour = host.control().with_key(&host.tenant("neighbour"));
    let theirs = package.begin(&neighbour).expect(201).json();
    assert_eq!(theirs["missing"].as_array().map(Vec::len), Some(1), "{theirs}");
    let id = theirs["id"].as_str().expect("an id");
    let early = neighbour.post_json(&format!("/api/v1/deployments/{id}/commit"), &json!({ "alias": "live" }));
    assert!(matches!(early.status, 409 | 422), "{early:?}");
    package.deploy(&neighbour);
    assert_eq!(files_below(&blobs), 1, "the disk holds it once");
}

#[test]
fn wrong_bytes_are_refused_and_leave_nothing() {
    let host = Host::shared();
    let package = Package::rogue("wrong-bytes").set("/variables", json!({ "A": "1" }));
    let tenant = host.control().with_key(&host.tenant("wrong-bytes"));
    let begun = package.begin(&tenant).expect(201).json();
    let id = begun["id"].as_str().expect("an id");
    let good = &package.blobs()[0];
    let path = format!("/api/v1/deployments/{id}/blobs/{}", digest(good));
    let mut forged = good.clone();
    forged[100] ^= 1;
    let wrong = tenant.put(&path, &forged).expect(422);
    assert!(wrong.detail().contains("sha256:"), "{}", wrong.text());
    tenant.put(&path, &good[..good.len() - 1]).expect(400);
    tenant.put(&path, &[&good[..], b"x"].concat()).expect(413);
    let unknown = format!("/api/v1/deployments/{id}/blobs/{}", digest(b"other"));
    let unknown = tenant.put(&unknown, b"other");
    assert!(matches!(unknown.status, 404 | 422), "{unknown:?}");
    tenant.put(&format!("/api/v1/deployments/{id}/blobs/sha256:zz"), b"x").expect(400);
    tenant.put(&path, good).expect(204);
}

#[test]
fn a_truncated_upload_is_not_a_blob() {
    let host = Host::shared();
    let tenant = host.control().with_key(&host.tenant("truncated"));
    let package = Package::rogue("truncated");
    let begun = package.begin(&tenant).expect(201).json();
    let id = begun["id"].as_str().expect("an id");
    let blob = &package.blobs()[0];
    let mut socket = TcpStream::connect(host.control_address()).expect("connect");
    let head = format!(
        "PUT /api/v1/deployments/{id}/blobs/{} HTTP/1.1\r\nhost: vesta\r\nauthorization: Bearer {}\r\n\
         content-length: {}\r\n\r\n",
        digest(blob),
        tenant.key().expect("a key"),
        blob.len()
    );
    socket.write_all(head.as_bytes()).expect("send the head");
    socket.write_all(&blob[..1000]).expect("send a part");
    socket.shutdown(std::net::Shutdown::Write).expect("go away");
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    let after = tenant.get(&format!("/api/v1/deployments/{id}")).expect(200).json();
    assert_eq!(after["state"], "uploading");
    assert_eq!(after["missing"].as_array().map(Vec::len), Some(1), "{after}");
    package.deploy(&tenant);
}

#[test]
fn a_manifest_that_makes_no_sense_is_refused_with_its_field() {
    let host = Host::shared();
    let api = host.control();
    let refused = |package: Package, field: &str| {
        let reply = package.begin(&api);
        assert!(matches!(reply.status, 400 | 413 | 422), "{field}: {reply:?}");
        assert!(reply.text().contains(field), "no {field} in {}", reply.text());
    };
    let sound = || Package::rogue("nonsense");
    refused(sound().limit("memory_bytes", 1), "limits.memory_bytes");
    refused(sound().limit("cpu_ms", u64::MAX), "limits.cpu_ms");
    refused(sound().limit("concurrency", 0), "limits.concurrency");
    refused(sound().set("/limits/cpu_ms", json!("fast")), "cpu_ms");
    refused(sound().set("/scaling/minimum", json!(1_000_000)), "scaling.minimum");
    refused(sound().set("/format", json!("vesta-package/9")), "format");
    refused(sound().set("/name", json!("Not A Name")), "Not A Name");
    refused(sound().set("/name", json!("../../etc")), "etc");
    refused(sound().set("/outbound", json!(["http://x/"])), "outbound");
    refused(sound().set("/variables", json!({ "1A": "x" })), "variables.1A");
    refused(sound().set("/component/digest", json!("sha256:12")), "sha256:12");
    refused(sound().set("/component/size", json!(0)), "component");
    refused(sound().set("/component/size", json!(u64::MAX)), "package");
    refused(sound().set("/public", json!("yes")), "public");
    let mut surprise = sound().manifest().clone();
    surprise["surprise"] = json!(1);
    let reply = api.post_json("/api/v1/deployments", &surprise);
    assert!(matches!(reply.status, 400 | 422) && reply.text().contains("surprise"), "{reply:?}");
    let broken =
        api.send("POST", "/api/v1/deployments", &[("content-type", "application/json")], b"{\"format\":");
    broken.expect(400);
    let big = vec![b' '; 64 << 20];
    let reply = api.try_send("POST", "/api/v1/deployments", &[("content-type", "application/json")], &big);
    assert!(reply.as_ref().map_or(true, |r| r.status == 413), "{reply:?}");
}

/// The archive of a package: a tar with `manifest.json` and `blobs/<hex>`.
fn archive(package: &Package, add: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    file(&mut tar, "manifest.json", package.manifest().to_string().as_bytes());
    add(&mut tar);
    for blob in package.blobs() {
        let hex = digest(blob).replace("sha256:", "");
        file(&mut tar, &format!("blobs/{hex}"), blob);
    }
    tar.into_inner().expect("a tar in memory")
}

/// Writes an entry's name as it is: the builder's own check would refuse the bad ones.
fn entry(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, link: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    tar.append(&header, bytes).expect("a tar in memory");
}

fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    entry(tar, name, tar::EntryType::Regular, "", bytes);
}

#[test]
fn a_package_in_one_file_is_deployed_by_one_post() {
    let host = Host::shared();
    let package = Package::rogue("one-file");
    let begun =
        host.control().post("/api/v1/packages?alias=live", &archive(&package, |_| ())).expect(202).json();
    let done = finished(&host.control(), begun["id"].as_str().expect("an id"));
    assert_eq!(done["state"], "ready", "{done}");
    host.invoke("one-file", "/ok").expect(200);
}

#[test]
fn a_malicious_archive_is_refused_and_writes_nothing() {
    use tar::EntryType;
    let host = Host::shared();
    let package = Package::rogue("evil-archive");
    let outside = host.scratch().join("data/escaped");
    let evil: Vec<(&str, Vec<u8>)> = vec![
        ("..", archive(&package, |t| file(t, "../escaped", b"x"))),
        ("inner ..", archive(&package, |t| file(t, "blobs/../../escaped", b"x"))),
        ("absolute", archive(&package, |t| file(t, "/tmp/vesta-escaped", b"x"))),
        ("symbolic link", archive(&package, |t| entry(t, "blobs/a", EntryType::Symlink, "/etc/passwd", b""))),
        ("hard link", archive(&package, |t| entry(t, "blobs/a", EntryType::Link, "/etc/passwd", b""))),
        ("device", archive(&package, |t| entry(t, "blobs/a", EntryType::Char, "", b""))),
        ("fifo", archive(&package, |t| entry(t, "blobs/a", EntryType::Fifo, "", b""))),
        ("directory", archive(&package, |t| entry(t, "blobs/evil", EntryType::Directory, "", b""))),
        ("unknown file", archive(&package, |t| file(t, "surprise", b"x"))),
        ("second manifest", archive(&package, |t| file(t, "manifest.json", b"{}"))),
        ("not a tar", b"certainly not an archive".repeat(100)),
        ("empty", Vec::new()),
    ];
    for (what, bytes) in evil {
        let reply = host.control().post("/api/v1/packages?alias=live", &bytes);
        assert!(matches!(reply.status, 400 | 422), "{what}: {reply:?}");
        let code = reply.json()["type"].as_str().unwrap_or_default().to_string();
        assert!(code.starts_with("urn:vesta:problem:"), "{what}: {}", reply.text());
        assert!(!reply.detail().is_empty(), "{what}: {}", reply.text());
    }
    assert!(!outside.exists() && !std::path::Path::new("/tmp/vesta-escaped").exists());
    host.invoke("evil-archive", "/").expect(404);
}

#[test]
fn an_archive_that_is_cut_lies_or_swells_is_refused() {
    let host = Host::shared();
    let post = |bytes: &[u8]| host.control().try_send("POST", "/api/v1/packages?alias=live", &[], bytes);
    let whole = archive(&Package::rogue("cut-archive"), |_| ());
    for at in [100, 600, 5000, whole.len() / 2] {
        let reply = post(&whole[..at]).expect("an answer");
        assert!(matches!(reply.status, 400 | 422), "cut at {at}: {reply:?}");
    }
    // The manifest promises other bytes than come.
    let mut lying = Package::rogue("lying-archive").manifest().clone();
    lying["component"]["digest"] = Value::from(digest(b"something else"));
    let mut tar = tar::Builder::new(Vec::new());
    file(&mut tar, "manifest.json", lying.to_string().as_bytes());
    let hex = digest(b"something else").replace("sha256:", "");
    file(&mut tar, &format!("blobs/{hex}"), b"other bytes");
    let reply = post(&tar.into_inner().expect("a tar")).expect("an answer");
    assert!(matches!(reply.status, 400 | 422), "{reply:?}");
    // A bomb: an entry that says it has 1 TiB; the host must not wait for it or make room for it.
    let mut header = tar::Header::new_ustar();
    header.set_path("manifest.json").expect("a path");
    header.set_size(1 << 40);
    header.set_cksum();
    let mut bomb = header.as_bytes().to_vec();
    bomb.extend(vec![b' '; 8 << 20]);
    if let Ok(reply) = post(&bomb) {
        assert!(matches!(reply.status, 400 | 413 | 422), "{reply:?}");
    }
}

#[test]
fn a_tenant_has_its_share_of_the_disk() {
    const MIB: usize = 1 << 20;
    let host = Host::builder().config("tenant_disk = \"8MiB\"\n").start();
    let (one, other) = (host.tenant("one"), host.tenant("other"));
    let (one, other) = (host.control().with_key(&one), host.control().with_key(&other));
    let large = |n: u8| Package::rogue(&format!("large{n}")).model("m", &vec![n; 3 * MIB]);
    // Also what is announced and not there yet counts.
    large(1).begin(&one).expect(201);
    large(2).commit(&one);
    let refused = large(3).begin(&one).expect_problem(507, "tenant-disk");
    assert!(refused.detail().contains("8388608") && refused.detail().contains("tenant_disk"), "{refused:?}");
    // What it has uploaded is no more, and small packages fit.
    large(2).begin(&one).expect(201);
    Package::rogue("small").deploy(&one);
    large(4).commit(&other);
}
