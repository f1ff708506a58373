use super::*;
use crate::db::testing;
use vesta_core::limits::Limits;
use vesta_core::manifest::{BlobRef, FORMAT, Scaling};

fn tenant(name: &str) -> TenantName {
    name.parse().expect("name")
}

fn alias(name: &str) -> AliasName {
    name.parse().expect("alias")
}

fn manifest(name: &str) -> PackageManifest {
    PackageManifest {
        format: FORMAT.into(),
        name: name.parse().expect("name"),
        component: BlobRef { digest: Digest::from_bytes([1; 32]), size: 10 },
        models: Vec::new(),
        limits: Limits::default(),
        scaling: Scaling::default(),
        outbound: Vec::new(),
        variables: BTreeMap::new(),
        public: false,
        snapshot: true,
    }
}

fn new(name: &str, to: Option<&str>) -> NewVersion {
    NewVersion { manifest: manifest(name), models: Vec::new(), alias: to.map(alias), deployment: None }
}

async fn publish(registry: &Arc<Registry>, name: &str, to: Option<&str>) -> u32 {
    registry.publish(&tenant("acme"), new(name, to), 1_000).await.expect("published").number
}

#[tokio::test]
async fn versions_are_numbered_found_by_number_and_alias_and_survive_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let db = testing::db_with_tenants(&dir, &["acme", "other"]).await;
    let registry = Registry::open(db.clone()).await.expect("open");
    let mut events = registry.subscribe();
    assert_eq!(publish(&registry, "hello", Some("live")).await, 1);
    assert_eq!(publish(&registry, "hello", None).await, 2);
    assert_eq!(publish(&registry, "hello", Some("next")).await, 3);
    assert!(matches!(events.try_recv(), Ok(RegistryEvent::VersionAdded { number: 1, .. })));
    assert!(matches!(events.try_recv(), Ok(RegistryEvent::AliasMoved { number: Some(1), .. })));

    for registry in [registry, Registry::open(db).await.expect("open")] {
        let number = |t: &str, f: &str, s: Option<&str>| registry.resolve(t, f, s).map(|v| v.number);
        assert_eq!(number("acme", "hello", None), Ok(1));
        assert_eq!(number("acme", "hello", Some("2")), Ok(2));
        assert_eq!(number("acme", "hello", Some("next")), Ok(3));
        for unknown in ["4", "", "99999999999999999999", "later"] {
            assert_eq!(number("acme", "hello", Some(unknown)), Err(ResolveError::NoVersion));
        }
        assert_eq!(number("other", "hello", None), Err(ResolveError::NoFunction));
        assert_eq!(number("acme", "nothing", None), Err(ResolveError::NoFunction));
        assert_eq!(registry.list(&tenant("acme")).len(), 1);
        assert!(registry.list(&tenant("other")).is_empty());
    }
}

#[tokio::test]
async fn an_alias_moves_back_and_protects_its_version() {
    let dir = tempfile::tempdir().expect("dir");
    let db = testing::db_with_tenants(&dir, &["acme"]).await;
    let registry = Registry::open(db).await.expect("open");
    let acme = tenant("acme");
    publish(&registry, "hello", Some("live")).await;
    publish(&registry, "hello", Some("live")).await;
    registry.set_alias(&acme, "hello", alias("live"), 1, 2_000).await.expect("rolled back");
    assert_eq!(registry.resolve("acme", "hello", None).expect("live").number, 1);

    let refused = registry.remove_version(&acme, "hello", 1, 0).await;
    assert!(matches!(refused, Err(RegistryError::AliasPoints { number: 1, .. })));
    let refused = registry.set_alias(&acme, "hello", alias("live"), 9, 0).await;
    assert!(matches!(refused, Err(RegistryError::NoVersion { number: 9, .. })));
    let refused = registry.set_alias(&acme, "hello", alias("7"), 1, 0).await;
    assert!(matches!(refused, Err(RegistryError::AliasIsNumber(_))));
    let refused = registry.remove_alias(&acme, "hello", &alias("live"), 0).await;
    assert!(matches!(refused, Err(RegistryError::LiveStays)));

    registry.remove_version(&acme, "hello", 2, 0).await.expect("removed");
    assert_eq!(registry.resolve("acme", "hello", Some("2")), Err(ResolveError::NoVersion));
    registry.set_alias(&acme, "hello", alias("next"), 1, 0).await.expect("set");
    registry.remove_alias(&acme, "hello", &alias("next"), 0).await.expect("removed");
    assert_eq!(publish(&registry, "hello", None).await, 3);
}

#[tokio::test]
async fn a_number_never_comes_twice_even_for_a_function_made_again() {
    let dir = tempfile::tempdir().expect("dir");
    let db = testing::db_with_tenants(&dir, &["acme"]).await;
    let registry = Registry::open(db.clone()).await.expect("open");
    publish(&registry, "hello", Some("live")).await;
    publish(&registry, "hello", Some("live")).await;
    registry.remove_function(&tenant("acme"), "hello", 0).await.expect("removed");
    assert_eq!(registry.resolve("acme", "hello", None), Err(ResolveError::NoFunction));
    assert!(registry.referenced().is_empty());

    let registry = Registry::open(db).await.expect("open");
    assert_eq!(registry.resolve("acme", "hello", None), Err(ResolveError::NoFunction));
    assert_eq!(publish(&registry, "hello", Some("live")).await, 3);
}

#[tokio::test]
async fn ten_thousand_functions_open_within_seconds() {
    let dir = tempfile::tempdir().expect("dir");
    let db = testing::db_with_tenants(&dir, &["acme"]).await;
    let mut write = db.write().await.expect("write");
    let json = serde_json::to_string(&manifest("f")).expect("json");
    for i in 0..10_000 {
        let name = format!("f-{i}");
        let json = json.replace("\"name\":\"f\"", &format!("\"name\":\"{name}\""));
        sqlx::query("INSERT INTO functions VALUES ('acme', ?, 0, 0)")
            .bind(&name)
            .execute(&mut *write)
            .await
            .expect("row");
        sqlx::query("INSERT INTO versions VALUES ('acme', ?, 1, ?, '[]', 0, NULL)")
            .bind(&name)
            .bind(json)
            .execute(&mut *write)
            .await
            .expect("row");
        sqlx::query("INSERT INTO aliases VALUES ('acme', ?, 'live', 1)")
            .bind(&name)
            .execute(&mut *write)
            .await
            .expect("row");
    }
    write.commit().await.expect("commit");
    let start = std::time::Instant::now();
    let registry = Registry::open(db).await.expect("open");
    let took = start.elapsed();
    println!("opened 10,000 functions in {took:?}");
    assert!(took < std::time::Duration::from_secs(10));
    assert_eq!(registry.resolve("acme", "f-9999", None).expect("live").number, 1);
    let refused = registry.publish(&tenant("acme"), new("one-more", None), 0).await;
    assert!(matches!(refused, Err(RegistryError::TooManyFunctions)));
}

#[tokio::test]
async fn memory_and_subscribers_follow_what_another_host_changed() {
    let dir = tempfile::tempdir().expect("dir");
    let db = testing::db_with_tenants(&dir, &["acme"]).await;
    let (here, there) =
        (Registry::open(db.clone()).await.expect("open"), Registry::open(db.clone()).await.expect("open"));
    let mut events = there.subscribe();
    publish(&here, "hello", Some("live")).await;
    publish(&here, "hello", Some("live")).await;
    here.remove_version(&tenant("acme"), "hello", 1, 0).await.expect("removed");
    assert_eq!(there.resolve("acme", "hello", None), Err(ResolveError::NoFunction));
    changes::follow(&*there).await.expect("followed");
    assert_eq!(there.resolve("acme", "hello", None).expect("live").number, 2);
    // What came and went in between is not told of.
    assert!(matches!(events.try_recv(), Ok(RegistryEvent::VersionAdded { number: 2, .. })));
    assert!(matches!(events.try_recv(), Ok(RegistryEvent::AliasMoved { number: Some(2), .. })));
    assert!(events.try_recv().is_err());

    // A change is checked against what the other host did.
    assert_eq!(publish(&there, "hello", Some("live")).await, 3);
    let refused = here.remove_version(&tenant("acme"), "hello", 3, 0).await;
    assert!(matches!(refused, Err(RegistryError::AliasPoints { .. })), "{refused:?}");

    // One that is far behind reads everything.
    publish(&here, "other", Some("live")).await;
    here.remove_function(&tenant("acme"), "hello", 0).await.expect("removed");
    let mut write = db.write().await.expect("write");
    let sql = "DELETE FROM changes WHERE seq < (SELECT MAX(seq) FROM changes)";
    sqlx::query(sql).execute(&mut *write).await.expect("delete");
    write.commit().await.expect("commit");
    changes::follow(&*there).await.expect("followed");
    assert_eq!(there.resolve("acme", "hello", None), Err(ResolveError::NoFunction));
    assert_eq!(there.resolve("acme", "other", None).expect("live").number, 1);
    let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    let removed =
        |n| told.iter().any(|e| matches!(e, RegistryEvent::VersionRemoved { number, .. } if *number == n));
    assert!(removed(2) && removed(3), "{told:?}");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_costs_one_version_and_not_the_start() {
    let dir = tempfile::tempdir().expect("dir");
    let db = testing::db_with_tenants(&dir, &["acme"]).await;
    let registry = Registry::open(db.clone()).await.expect("open");
    for name in ["hello", "hello", "other"] {
        publish(&registry, name, Some("live")).await;
    }
    let mut write = db.write().await.expect("write");
    for sql in [
        "UPDATE versions SET manifest = '{' WHERE function = 'hello' AND number = 1",
        "INSERT INTO functions VALUES ('acme', 'No Name', 0, 0)",
        "INSERT INTO functions VALUES ('acme', 'no-time', 'yesterday', 0)",
        "INSERT INTO versions VALUES ('acme', 'no-time', 1, '{}', '[]', 0, NULL)",
        "INSERT INTO aliases VALUES ('acme', 'other', 'No Alias', 1)",
    ] {
        sqlx::query(sql).execute(&mut *write).await.expect(sql);
    }
    write.commit().await.expect("commit");

    let registry = Registry::open(db.clone()).await.expect("open");
    assert_eq!(registry.resolve("acme", "hello", None).expect("live").number, 2);
    assert_eq!(registry.resolve("acme", "hello", Some("1")), Err(ResolveError::NoVersion));
    assert_eq!(registry.resolve("acme", "other", None).expect("live").number, 1);
    assert_eq!(registry.list(&tenant("acme")).len(), 2);
    let hello = registry.get(&tenant("acme"), "hello").expect("there");
    assert_eq!(hello.damaged, BTreeSet::from([1]));
    // Nobody knows which blobs it refers to.
    assert!(registry.has_damaged());
    assert_eq!(publish(&registry, "hello", None).await, 3);
    assert!(registry.get(&tenant("acme"), "hello").expect("there").damaged.contains(&1));
    registry.remove_version(&tenant("acme"), "hello", 1, 0).await.expect("removed");
    assert!(registry.get(&tenant("acme"), "hello").expect("there").damaged.is_empty());
}

#[tokio::test]
async fn the_oldest_version_without_an_alias_goes_before_there_are_too_many() {
    let dir = tempfile::tempdir().expect("dir");
    let db = testing::db_with_tenants(&dir, &["acme"]).await;
    let registry = Registry::open(db).await.expect("open");
    let acme = tenant("acme");
    publish(&registry, "hello", Some("first")).await;
    publish(&registry, "hello", None).await;
    publish(&registry, "hello", Some("third")).await;
    for _ in 3..VERSIONS_MAX {
        publish(&registry, "hello", Some("live")).await;
    }
    let numbers =
        || registry.get(&acme, "hello").expect("there").versions.keys().copied().collect::<Vec<_>>();
    assert_eq!(numbers().len(), VERSIONS_MAX);
    publish(&registry, "hello", Some("live")).await;
    assert_eq!((numbers().len(), &numbers()[..3]), (VERSIONS_MAX, &[1, 3, 4][..]));
    // An alias that moves away protects its version no longer.
    publish(&registry, "hello", Some("first")).await;
    assert_eq!((numbers().len(), &numbers()[..3]), (VERSIONS_MAX, &[3, 4, 5][..]));
}
