use super::deploy::{DeployError, DeployLimits, DeployState, Deployment, Deployments};
use super::testing::Billed;
use super::*;
use crate::db::testing;
use crate::registry::Registry;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use vesta_core::clock::{Clock, Instant};
use vesta_core::id::AliasName;
use vesta_core::manifest::{Encoding, FORMAT, ModelRef, Precision};
use vesta_core::usage::CpuTime;

struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Instant {
        Duration::ZERO
    }
    fn unix_ns(&self) -> i64 {
        self.0.load(Ordering::SeqCst) * 1_000_000
    }
}

/// What it takes to compile one, in nanoseconds.
const COMPILE_NS: u64 = 1_000_000_000;

/// Refuses components that begin with "bad"; notes what it is told to discard.
#[derive(Default)]
struct TestPrepare {
    discarded: std::sync::Mutex<Vec<Digest>>,
}

impl Prepare for TestPrepare {
    fn fits(&self, _: &PackageManifest) -> Result<(), PrepareError> {
        Ok(())
    }

    fn component<'a>(
        &'a self,
        _: &'a PackageManifest,
        blob: &'a Path,
        spent: &'a CpuTime,
    ) -> BoxFuture<'a, Result<(), PrepareError>> {
        spent.add(COMPILE_NS);
        Box::pin(async move {
            let bytes = std::fs::read(blob).expect("the blob is there");
            assert_ne!(bytes, b"panic");
            let error = PrepareError {
                code: "not-a-component".into(),
                detail: "it begins with bad".into(),
                platform: false,
            };
            if bytes.starts_with(b"bad") { Err(error) } else { Ok(()) }
        })
    }
    fn model<'a>(
        &'a self,
        model: &'a ModelRef,
        _: &'a Path,
        _: &'a CpuTime,
    ) -> BoxFuture<'a, Result<serde_json::Value, PrepareError>> {
        Box::pin(async move { Ok(serde_json::json!({ "name": model.name })) })
    }
    fn discard(&self, digest: &Digest) {
        self.discarded.lock().expect("lock").push(*digest);
    }
}

struct House {
    dir: tempfile::TempDir,
    clock: Arc<TestClock>,
    prepare: Arc<TestPrepare>,
    registry: Arc<Registry>,
    artifacts: Arc<Artifacts>,
    deployments: Arc<Deployments>,
    billed: Arc<Billed>,
}

impl House {
    async fn new() -> House {
        Self::open(tempfile::tempdir().expect("dir")).await
    }

    async fn open(dir: tempfile::TempDir) -> House {
        let db = testing::db_with_tenants(&dir, &["acme", "other"]).await;
        let registry = Registry::open(db.clone()).await.expect("registry");
        let artifacts = Arc::new(Artifacts::open(dir.path(), db.clone()).await.expect("artifacts"));
        let clock = Arc::new(TestClock(AtomicI64::new(10_000_000)));
        let prepare = Arc::new(TestPrepare::default());
        let billed = Arc::new(Billed::default());
        let limits = DeployLimits { open_max: 3, package_bytes_max: 1_000_000, ..DeployLimits::default() };
        let deployments = Deployments::open(
            db,
            artifacts.clone(),
            registry.clone(),
            prepare.clone(),
            billed.clone(),
            clock.clone(),
            limits,
        );
        let deployments = deployments.await.expect("deployments");
        House { dir, clock, prepare, registry, artifacts, deployments, billed }
    }

    async fn upload(&self, tenant: &str, id: &str, bytes: &[u8]) -> Result<(), DeployError> {
        self.upload_as(tenant, id, blob(bytes).digest, bytes).await
    }

    async fn upload_as(
        &self,
        tenant: &str,
        id: &str,
        digest: Digest,
        bytes: &[u8],
    ) -> Result<(), DeployError> {
        let chunks: Vec<_> = bytes.chunks(7).map(|c| Ok::<_, String>(Bytes::copy_from_slice(c))).collect();
        let stream = futures_util::stream::iter(chunks);
        self.deployments.upload(&name(tenant), id, digest, None, stream).await
    }

    async fn begin(&self, tenant: &str, component: &[u8], model: &[u8]) -> Deployment {
        let begun = self.deployments.begin(&name(tenant), manifest(component, model)).await;
        begun.expect("begun")
    }

    async fn finished(&self, tenant: &str, id: &str) -> Deployment {
        loop {
            let deployment = self.deployments.get(&name(tenant), id).expect("deployment");
            if matches!(deployment.state, DeployState::Ready | DeployState::Failed) {
                return deployment;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn deploy(&self, tenant: &str, component: &[u8], model: &[u8]) -> Deployment {
        let begun = self.begin(tenant, component, model).await;
        for missing in &begun.missing {
            let bytes = if missing.digest == blob(component).digest { component } else { model };
            self.upload(tenant, &begun.id, bytes).await.expect("uploaded");
        }
        let live: AliasName = "live".parse().expect("alias");
        self.deployments.commit(&name(tenant), &begun.id, Some(live)).expect("committed");
        self.finished(tenant, &begun.id).await
    }

    fn files(&self) -> usize {
        let folders = std::fs::read_dir(self.dir.path().join("blobs")).expect("blobs");
        folders.map(|f| std::fs::read_dir(f.expect("folder").path()).expect("folder").count()).sum()
    }

    fn temporary_files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("uploads")).expect("uploads").count()
    }

    fn wait(&self, ms: i64) {
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
    }
}

fn name(tenant: &str) -> TenantName {
    tenant.parse().expect("name")
}

fn blob(bytes: &[u8]) -> BlobRef {
    let digest = Digest::from_bytes(sha2::Sha256::digest(bytes).into());
    BlobRef { digest, size: bytes.len() as u64 }
}

fn manifest(component: &[u8], model: &[u8]) -> PackageManifest {
    PackageManifest {
        format: FORMAT.into(),
        name: "hello".parse().expect("name"),
        component: blob(component),
        models: vec![ModelRef {
            name: "m".into(),
            encoding: Encoding::Onnx,
            blob: blob(model),
            threads: 1,
            batch: Default::default(),
            engine: Default::default(),
            samples: Vec::new(),
            precision: Precision::Full,
        }],
        limits: vesta_core::limits::Limits::default(),
        scaling: vesta_core::manifest::Scaling::default(),
        outbound: Vec::new(),
        variables: std::collections::BTreeMap::new(),
        public: false,
        snapshot: true,
    }
}

#[tokio::test]
async fn each_deployment_that_ends_is_billed_once_with_all_that_was_done_for_it() {
    let house = House::new().await;
    let good = house.deploy("acme", b"component", b"model").await;
    let bad = house.deploy("acme", b"bad component", b"model").await;
    let open = house.begin("acme", b"never committed", b"model").await;
    house.upload("acme", &open.id, b"never committed").await.expect("uploaded");
    house.wait(3_600_001);
    house.deployments.collect().await.expect("collected");
    house.deployments.collect().await.expect("collected again");
    let billed = house.billed.all.lock().expect("no panic");
    let told: Vec<_> = billed.iter().map(|d| (d.id.to_string(), d.ended.clone().ok())).collect();
    assert_eq!(told, [(good.id, Some(1)), (bad.id, None), (open.id, None)]);
    for deployed in &billed[..2] {
        assert!(deployed.cpu_ns > COMPILE_NS, "its blobs were received, too: {deployed:?}");
    }
    assert!((1..COMPILE_NS).contains(&billed[2].cpu_ns), "{:?}", billed[2]);
    assert_eq!(billed[0].tenant, name("acme"));
}

#[tokio::test]
async fn a_deployment_uploads_only_what_its_tenant_has_not_uploaded_and_becomes_a_version() {
    let house = House::new().await;
    let first = house.deploy("acme", b"component one", b"model").await;
    assert_eq!((first.state, first.version), (DeployState::Ready, Some(1)));
    let steps: Vec<_> = first.steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(steps, ["compile", "model m"]);
    let live = house.registry.resolve("acme", "hello", None).expect("live");
    assert_eq!(live.models, [serde_json::json!({ "name": "m" })]);

    let second = house.begin("acme", b"component two", b"model").await;
    assert_eq!(second.missing, [blob(b"component two")]);
    let refused = house.deployments.commit(&name("acme"), &second.id, None);
    assert!(matches!(refused, Err(DeployError::Incomplete(1))));
    // A blob that is here is not read again; one of another package is refused.
    assert!(house.upload("acme", &second.id, b"model").await.is_ok());
    let refused = house.upload("acme", &second.id, b"stranger").await;
    assert!(matches!(refused, Err(DeployError::NoBlob(_))));
}

#[tokio::test]
async fn knowing_a_digest_gives_nothing_and_the_same_bytes_are_stored_once() {
    let house = House::new().await;
    house.deploy("acme", b"component", b"model").await;
    let foreign = house.begin("other", b"component", b"model").await;
    assert_eq!(foreign.missing.len(), 2);
    let wrong = house.upload_as("other", &foreign.id, blob(b"model").digest, b"guess").await;
    assert!(matches!(wrong, Err(DeployError::Receive(ReceiveError::WrongDigest { .. }))));
    assert_eq!(house.deployments.get(&name("other"), &foreign.id).expect("it").missing.len(), 2);
    // Nor does another tenant see the deployment.
    let refused = house.deployments.get(&name("acme"), &foreign.id);
    assert!(matches!(refused, Err(DeployError::NoDeployment)));
    let refused = house.upload("acme", &foreign.id, b"model").await;
    assert!(matches!(refused, Err(DeployError::NoDeployment)));

    house.upload("other", &foreign.id, b"model").await.expect("uploaded");
    house.upload("other", &foreign.id, b"component").await.expect("uploaded");
    house.deployments.commit(&name("other"), &foreign.id, None).expect("committed");
    assert_eq!(house.finished("other", &foreign.id).await.version, Some(1));
    assert_eq!((house.files(), house.temporary_files()), (2, 0));
}

#[tokio::test]
async fn a_short_long_or_broken_upload_leaves_nothing_and_can_be_tried_again() {
    let house = House::new().await;
    let begun = house.begin("acme", b"component", b"model").await;
    let digest = blob(b"component").digest;
    let short = house.upload_as("acme", &begun.id, digest, b"compon").await;
    assert!(matches!(short, Err(DeployError::Receive(ReceiveError::Short { got: 6, size: 9 }))));
    let long = house.upload_as("acme", &begun.id, digest, b"component and more").await;
    assert!(matches!(long, Err(DeployError::Receive(ReceiveError::TooLong { size: 9 }))));
    let chunks = [Ok(Bytes::from_static(b"comp")), Err("reset")];
    let acme = name("acme");
    let broken = house.deployments.upload(&acme, &begun.id, digest, None, futures_util::stream::iter(chunks));
    assert!(matches!(broken.await, Err(DeployError::Receive(ReceiveError::Broken(_)))));
    let unread = futures_util::stream::pending::<Result<Bytes, String>>();
    let stated = house.deployments.upload(&acme, &begun.id, digest, Some(10), unread);
    assert!(matches!(stated.await, Err(DeployError::Receive(ReceiveError::TooLong { .. }))));
    assert_eq!((house.files(), house.temporary_files()), (0, 0));
    house.upload("acme", &begun.id, b"component").await.expect("uploaded");
    assert_eq!(house.files(), 1);
}

#[tokio::test]
async fn a_refused_package_fails_with_its_reason_and_a_panic_is_the_platforms_failure() {
    let house = House::new().await;
    let refused = house.deploy("acme", b"bad component", b"model").await;
    assert_eq!(refused.state, DeployState::Failed);
    let error = refused.error.expect("reason");
    assert_eq!((error.code.as_str(), error.platform), ("not-a-component", false));
    let broken = house.deploy("acme", b"panic", b"model").await;
    assert!(broken.error.expect("reason").platform);
    assert!(house.registry.resolve("acme", "hello", None).is_err());
}

#[tokio::test]
async fn deployments_are_bounded_expire_and_are_told_of_after_a_restart() {
    let house = House::new().await;
    let first = house.begin("acme", b"1", b"model").await;
    house.begin("acme", b"2", b"model").await;
    house.begin("acme", b"3", b"model").await;
    let refused = house.deployments.begin(&name("acme"), manifest(b"4", b"model")).await;
    assert!(matches!(refused, Err(DeployError::TooManyOpen(3))));
    let mut huge = manifest(b"5", b"model");
    huge.component.size = u64::MAX;
    let refused = house.deployments.begin(&name("other"), huge).await;
    assert!(matches!(refused, Err(DeployError::PackageTooLarge { .. })));

    house.wait(3_600_001);
    let last = house.begin("acme", b"4", b"model").await;
    let expired = house.deployments.get(&name("acme"), &first.id).expect("it");
    assert_eq!(expired.error.expect("reason").code, "deployment-expired");
    let refused = house.upload("acme", &first.id, b"1").await;
    assert!(matches!(refused, Err(DeployError::NotUploading)));

    let mut house = house;
    // After a second restart, too.
    for _ in 0..2 {
        house = House::open(house.dir).await;
        let told = house.deployments.get(&name("acme"), &last.id).expect("it");
        assert_eq!(told.state, DeployState::Failed);
        assert_eq!(told.error.expect("reason").code, "host-restarted");
        let told = house.deployments.get(&name("acme"), &first.id).expect("it");
        assert_eq!(told.error.expect("reason").code, "deployment-expired");
    }
}

#[tokio::test]
async fn a_deployment_that_had_published_when_the_host_ended_has_succeeded() {
    let house = House::new().await;
    let done = house.deploy("acme", b"component", b"model").await;
    let db = testing::db(&house.dir).await;
    // As if the host had ended after the version was published, and before the deployment was.
    let mut write = db.write().await.expect("write");
    for sql in [
        "INSERT INTO open_deployments SELECT id, tenant, function, created_unix_ms FROM ended_deployments",
        "DELETE FROM ended_deployments",
    ] {
        sqlx::query(sql).execute(&mut *write).await.expect(sql);
    }
    write.commit().await.expect("commit");
    let house = House::open(house.dir).await;
    let told = house.deployments.get(&name("acme"), &done.id).expect("it");
    assert_eq!((told.state, told.version), (DeployState::Ready, Some(1)));
}

#[tokio::test]
async fn deployments_that_cannot_be_read_are_passed_over_and_old_ones_are_forgotten() {
    let house = House::new().await;
    let db = testing::db(&house.dir).await;
    let mut write = db.write().await.expect("write");
    sqlx::query("INSERT INTO open_deployments VALUES ('x', 'No Name', 'hello', 0)")
        .execute(&mut *write)
        .await
        .expect("insert");
    write.commit().await.expect("commit");
    let house = House::open(house.dir).await;
    for _ in 0..70 {
        let begun = house.begin("acme", b"1", b"model").await;
        house.deployments.abandon(&begun.id, "no reason").await;
        house.wait(1);
    }
    let ended: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM ended_deployments WHERE tenant = 'acme'")
        .fetch_one(db.pool())
        .await
        .expect("count");
    assert_eq!(ended, 64);
}

#[tokio::test]
async fn no_blob_goes_while_a_version_cannot_be_read() {
    let house = House::new().await;
    house.deploy("acme", b"component", b"model").await;
    let db = testing::db(&house.dir).await;
    let mut write = db.write().await.expect("write");
    sqlx::query("UPDATE versions SET models = '['").execute(&mut *write).await.expect("update");
    write.commit().await.expect("commit");
    let house = House::open(house.dir).await;
    house.wait(3_600_001);
    assert_eq!(house.deployments.collect().await.expect("collect"), 0);
    assert_eq!(house.files(), 2);
    house.registry.remove_function(&name("acme"), "hello", 0).await.expect("removed");
    assert_eq!(house.deployments.collect().await.expect("collect"), 2);
}

#[tokio::test]
async fn blobs_go_when_nobody_refers_to_them_and_not_before() {
    let house = House::new().await;
    house.deploy("acme", b"component", b"model").await;
    house.deploy("other", b"component", b"model").await;
    house.deploy("acme", b"bad component", b"model").await;
    let open = house.begin("acme", b"component two", b"model two").await;
    house.upload("acme", &open.id, b"model two").await.expect("uploaded");
    assert_eq!(house.deployments.collect().await.expect("collect"), 0);
    assert_eq!(house.files(), 4);

    // A refused package's blob stays for an hour, an open deployment's as long as it is open.
    house.wait(3_500_000);
    let open = house.begin("acme", b"component two", b"model two").await;
    house.wait(200_000);
    assert_eq!(house.deployments.collect().await.expect("collect"), 1);
    assert_eq!(*house.prepare.discarded.lock().expect("lock"), [blob(b"bad component").digest]);
    assert!(house.artifacts.blob_path(&blob(b"model two").digest).exists());

    // One tenant's function goes: the bytes stay for the other, but this one must upload them again.
    house.registry.remove_function(&name("acme"), "hello", 0).await.expect("removed");
    assert_eq!(house.deployments.collect().await.expect("collect"), 0);
    assert_eq!(house.begin("acme", b"component", b"model").await.missing.len(), 2);
    house.registry.remove_function(&name("other"), "hello", 0).await.expect("removed");
    house.wait(3_600_001);
    assert_eq!(house.deployments.collect().await.expect("collect"), 3);
    assert_eq!(house.files(), 0);
    let gone = house.deployments.get(&name("acme"), &open.id).expect("it");
    assert_eq!(gone.state, DeployState::Failed);
}
