//! Deployments: from a manifest over its missing blobs to a published version.
//!
//! ```text
//!  begin ──▶ uploading ── commit, nothing missing ──▶ preparing ── published ──▶ ready
//!                │ expired, host stopped                  │ refused, host stopped
//!                └──────────────────────▶ failed ◀────────┘
//! ```

use super::prepare::metered;
use super::{
    ArtifactError, Artifacts, DeployBill, Deployed, Prepare, PrepareError, ReceiveError, References, store,
};
use crate::db::{Db, DbError};
use crate::registry::{NewVersion, Registry, RegistryError};
use bytes::Bytes;
use dashmap::DashMap;
use futures_util::Stream;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempPath;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use vesta_core::clock::Clock;
use vesta_core::id::AliasName;
use vesta_core::manifest::{BlobRef, ManifestError, PackageManifest};
use vesta_core::usage::CpuTime;
use vesta_core::{Digest, FunctionName, InvocationId, TenantName};

/// Finished deployments that are still told about, for each tenant.
const FINISHED_MAX: usize = 64;

/// Packages in one file that are received at once.
const ARCHIVES_MAX: usize = 4;
/// Preparations of one tenant at once, where it is alone.
const TURNS: usize = 2;
/// What an archive may have beside its blobs: manifest, headers, padding.
const ARCHIVE_OVERHEAD: u64 = 2 << 20;

/// A received package in one file; it goes away when dropped.
pub struct Archive {
    path: TempPath,
    _turn: OwnedSemaphorePermit,
}

impl Archive {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Bounds of deployments.
#[derive(Debug, Clone, Copy)]
pub struct DeployLimits {
    /// Deployments of one tenant that are under way at once.
    pub open_max: usize,
    /// All blobs of one package together, in bytes.
    pub package_bytes_max: u64,
    /// All blobs of one tenant together, in bytes.
    pub tenant_bytes_max: u64,
    /// Age at which an upload that was not committed is given up, in milliseconds.
    pub open_ms_max: i64,
    /// How long a blob stays that nobody refers to, in milliseconds: the time to mend a refused package.
    pub unused_ms_max: i64,
}

impl Default for DeployLimits {
    /// 16 deployments, 2 GiB, as much as the disk has, one hour, one hour.
    fn default() -> Self {
        Self {
            open_max: 16,
            package_bytes_max: 2 << 30,
            tenant_bytes_max: u64::MAX,
            open_ms_max: 3_600_000,
            unused_ms_max: 3_600_000,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeployState {
    /// Waits for blobs, or for the commit.
    Uploading,
    /// Compiles the component and checks the models.
    Preparing,
    /// Published as a version.
    Ready,
    /// Ended without a version.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    Running,
    Done,
    Failed,
}

/// One piece of the preparation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `compile`, or `model NAME`.
    pub name: String,
    pub state: StepState,
    /// Wall-clock time that it took, or has taken so far, in milliseconds.
    pub ms: u64,
}

/// A deployment as it stands.
#[derive(Debug, Clone)]
pub struct Deployment {
    pub id: String,
    pub tenant: TenantName,
    pub function: FunctionName,
    pub created_unix_ms: i64,
    pub state: DeployState,
    /// Blobs still to be uploaded.
    pub missing: Vec<BlobRef>,
    pub steps: Vec<Step>,
    /// The version that came of it.
    pub version: Option<u32>,
    pub error: Option<PrepareError>,
    manifest: Option<Arc<PackageManifest>>,
    receiving: HashSet<Digest>,
    /// How it ended is being written down.
    is_ending: bool,
    /// What it has cost so far.
    spent: Arc<CpuTime>,
}

impl Deployment {
    fn is_open(&self) -> bool {
        matches!(self.state, DeployState::Uploading | DeployState::Preparing)
    }

    fn end(&mut self, ended: Result<u32, PrepareError>) {
        match ended {
            Ok(number) => {
                self.version = Some(number);
                self.state = DeployState::Ready;
            }
            Err(error) => {
                if let Some(step) = self.steps.last_mut().filter(|s| s.state == StepState::Running) {
                    step.state = StepState::Failed;
                }
                self.state = DeployState::Failed;
                self.error = Some(error);
            }
        }
    }

    /// What the database holds of it.
    fn row(&self) -> store::Row {
        store::Row {
            id: self.id.clone(),
            tenant: self.tenant.clone(),
            function: self.function.clone(),
            created_unix_ms: self.created_unix_ms,
        }
    }
}

/// Why the deployments of an earlier run could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Why a request about a deployment was refused.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the package has more than the {max} bytes that this host allows")]
    PackageTooLarge { max: u64 },
    #[error(
        "the tenant's packages hold {held} bytes and {more} would come; {max} are the most that a tenant may have (tenant_disk in the host's configuration): delete versions that are not needed"
    )]
    TenantDisk { held: u64, more: u64, max: u64 },
    #[error("{0} deployments are under way, the most at once: finish one, or wait until it expires")]
    TooManyOpen(usize),
    #[error("there is no such deployment, or it ended long ago")]
    NoDeployment,
    #[error("{0} is no blob of this deployment's package")]
    NoBlob(Digest),
    #[error("this blob is being uploaded already")]
    UploadInProgress,
    #[error("the deployment takes no uploads any more: it was committed, failed or expired")]
    NotUploading,
    #[error("{0} blobs have not been uploaded yet")]
    Incomplete(usize),
    #[error("alias {0:?} consists of digits, which name versions")]
    AliasIsNumber(AliasName),
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Store(#[from] ArtifactError),
}

impl From<DbError> for DeployError {
    fn from(e: DbError) -> Self {
        DeployError::Store(e.into())
    }
}

/// All deployments of one host. That they are under way, and how they ended, is in the database too, so that
/// it is known after a restart.
pub struct Deployments {
    db: Db,
    artifacts: Arc<Artifacts>,
    registry: Arc<Registry>,
    prepare: Arc<dyn Prepare>,
    bill: Arc<dyn DeployBill>,
    clock: Arc<dyn Clock>,
    limits: DeployLimits,
    all: DashMap<String, Deployment>,
    archives: Arc<Semaphore>,
    /// Whose turn it is among a tenant's deployments: one's do not take all of what prepares.
    turns: DashMap<TenantName, Arc<Semaphore>>,
    /// Held while a deployment begins and while blobs are collected: no blob goes that a deployment counts
    /// on.
    gate: Arc<Mutex<()>>,
}

impl Deployments {
    /// Those that were under way when the host stopped have failed, unless their version was published.
    pub async fn open(
        db: Db,
        artifacts: Arc<Artifacts>,
        registry: Arc<Registry>,
        prepare: Arc<dyn Prepare>,
        bill: Arc<dyn DeployBill>,
        clock: Arc<dyn Clock>,
        limits: DeployLimits,
    ) -> Result<Arc<Self>, OpenError> {
        for row in store::open_deployments(&db).await? {
            let published = registry.published_by(&row.tenant, &row.function, &row.id).await?;
            let restarted = failure("host-restarted", "the host was restarted; deploy again", true);
            store::deployment_ended(&db, &row, &published.ok_or(restarted), FINISHED_MAX).await?;
        }
        let all = DashMap::new();
        for (row, ended) in store::ended_deployments(&db).await? {
            let mut deployment = Deployment::new(row.id, row.tenant, row.function, row.created_unix_ms);
            deployment.end(ended);
            all.insert(deployment.id.clone(), deployment);
        }
        let archives = Arc::new(Semaphore::new(ARCHIVES_MAX));
        let gate = Arc::default();
        let turns = DashMap::new();
        Ok(Arc::new(Self {
            db,
            artifacts,
            registry,
            prepare,
            bill,
            clock,
            limits,
            all,
            archives,
            turns,
            gate,
        }))
    }

    /// Runs work on deployments to its end, though whoever waits for it goes away.
    pub async fn to_the_end<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        self.db.to_the_end(work).await
    }

    /// The bounds in force.
    pub fn limits(&self) -> &DeployLimits {
        &self.limits
    }

    /// Checks a manifest and begins a deployment of it.
    pub async fn begin(
        self: &Arc<Self>,
        tenant: &TenantName,
        manifest: PackageManifest,
    ) -> Result<Deployment, DeployError> {
        manifest.check()?;
        let bytes = manifest.blobs().iter().fold(0u64, |sum, blob| sum.saturating_add(blob.size));
        if bytes > self.limits.package_bytes_max {
            return Err(DeployError::PackageTooLarge { max: self.limits.package_bytes_max });
        }
        let (this, tenant) = (self.clone(), tenant.clone());
        // Before a place among the changes is taken: others need not wait while blobs are collected.
        let gate = self.gate.clone().lock_owned().await;
        let begin = async move {
            let _gate = gate;
            this.begin_checked(&tenant, manifest).await
        };
        self.db.to_the_end(begin).await
    }

    async fn begin_checked(
        &self,
        tenant: &TenantName,
        manifest: PackageManifest,
    ) -> Result<Deployment, DeployError> {
        self.expire().await;
        self.forget_oldest(tenant);
        let open = self.all.iter().filter(|d| d.tenant == *tenant && d.is_open()).count();
        if open >= self.limits.open_max {
            return Err(DeployError::TooManyOpen(open));
        }
        let now = self.now_unix_ms();
        // An id that sorts by time and cannot be guessed.
        let id = InvocationId::new(now.unsigned_abs(), rand::random()).to_string();
        let mut deployment = Deployment::new(id.clone(), tenant.clone(), manifest.name.clone(), now);
        deployment.missing = self.artifacts.missing(tenant, &manifest).await?;
        self.has_room(tenant, &deployment.missing).await?;
        deployment.manifest = Some(Arc::new(manifest));
        store::deployment_opened(&self.db, &deployment.row()).await?;
        self.all.insert(id, deployment.clone());
        Ok(deployment)
    }

    /// Whether a tenant's blobs, those that it is about to upload and these fit into its share of the disk.
    async fn has_room(&self, tenant: &TenantName, missing: &[BlobRef]) -> Result<(), DeployError> {
        let sum = |blobs: &[BlobRef]| blobs.iter().fold(0u64, |sum, blob| sum.saturating_add(blob.size));
        let held = store::uploaded_bytes(&self.db, tenant).await.map_err(ArtifactError::Db)?;
        let others = self.all.iter().filter(|d| d.tenant == *tenant && d.is_open());
        let held = others.fold(held, |held, other| held.saturating_add(sum(&other.missing)));
        let (more, max) = (sum(missing), self.limits.tenant_bytes_max);
        if more > 0 && held.saturating_add(more) > max {
            return Err(DeployError::TenantDisk { held, more, max });
        }
        Ok(())
    }

    /// How a tenant's deployment stands.
    pub fn get(&self, tenant: &TenantName, id: &str) -> Result<Deployment, DeployError> {
        let found = self.all.get(id).filter(|d| d.tenant == *tenant);
        found.map(|d| d.clone()).ok_or(DeployError::NoDeployment)
    }

    /// Takes the bytes of one missing blob. One that is here already is not read.
    pub async fn upload<E: std::fmt::Display>(
        self: &Arc<Self>,
        tenant: &TenantName,
        id: &str,
        digest: Digest,
        stated_bytes: Option<u64>,
        bytes: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<(), DeployError> {
        let Some(blob) = self.reserve(tenant, id, digest)? else { return Ok(()) };
        let receiving = Receiving { deployments: self.clone(), id: id.to_owned(), digest };
        let size = blob.size;
        match stated_bytes {
            Some(stated) if stated > size => return Err(ReceiveError::TooLong { size }.into()),
            Some(stated) if stated < size => return Err(ReceiveError::Short { got: stated, size }.into()),
            _ => {}
        }
        let spent = self.spent(id);
        let verified = metered(self.bill.as_ref(), &spent, self.artifacts.receive(&blob, bytes)).await?;
        let tenant = tenant.clone();
        let keep = async move {
            let this = &receiving.deployments;
            this.artifacts.keep(&tenant, &blob, verified, this.now_unix_ms()).await?;
            if let Some(mut deployment) = this.all.get_mut(&receiving.id) {
                deployment.missing.retain(|b| b.digest != digest);
            }
            Ok(())
        };
        self.db.to_the_end(keep).await
    }

    /// The missing blob of that digest, kept for one upload at a time; `None` when it is here.
    fn reserve(&self, tenant: &TenantName, id: &str, digest: Digest) -> Result<Option<BlobRef>, DeployError> {
        let mut deployment = self.all.get_mut(id).ok_or(DeployError::NoDeployment)?;
        if deployment.tenant != *tenant {
            return Err(DeployError::NoDeployment);
        }
        if deployment.state != DeployState::Uploading {
            return Err(DeployError::NotUploading);
        }
        let Some(blob) = deployment.missing.iter().find(|b| b.digest == digest).cloned() else {
            let manifest = deployment.manifest.as_ref();
            let known = manifest.is_some_and(|m| m.blobs().iter().any(|b| b.digest == digest));
            return if known { Ok(None) } else { Err(DeployError::NoBlob(digest)) };
        };
        if !deployment.receiving.insert(digest) {
            return Err(DeployError::UploadInProgress);
        }
        Ok(Some(blob))
    }

    /// Takes a package in one file to look into; at most [`ARCHIVES_MAX`] at a time.
    pub async fn receive_archive<E: std::fmt::Display>(
        &self,
        bytes: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<Archive, DeployError> {
        let turn = self.archives.clone().try_acquire_owned();
        let turn = turn.map_err(|_| DeployError::TooManyOpen(ARCHIVES_MAX))?;
        let bytes_max = self.limits.package_bytes_max.saturating_add(ARCHIVE_OVERHEAD);
        let path = self.artifacts.receive_file(bytes, bytes_max).await.map_err(|e| match e {
            ReceiveError::TooLong { .. } => {
                DeployError::PackageTooLarge { max: self.limits.package_bytes_max }
            }
            e => e.into(),
        })?;
        Ok(Archive { path, _turn: turn })
    }

    /// Gives up a deployment whose package turned out to be unsound.
    pub async fn abandon(&self, id: &str, detail: &str) {
        self.finish(id, Err(failure("package-refused", detail, false))).await;
    }

    /// Ends the upload and begins the preparation; the version is published under the alias when it succeeds.
    /// Committing again changes nothing.
    pub fn commit(
        self: &Arc<Self>,
        tenant: &TenantName,
        id: &str,
        alias: Option<AliasName>,
    ) -> Result<Deployment, DeployError> {
        if let Some(alias) = &alias
            && alias.as_str().bytes().all(|b| b.is_ascii_digit())
        {
            return Err(DeployError::AliasIsNumber(alias.clone()));
        }
        let (snapshot, manifest) = {
            let mut deployment = self.all.get_mut(id).ok_or(DeployError::NoDeployment)?;
            if deployment.tenant != *tenant {
                return Err(DeployError::NoDeployment);
            }
            let manifest = match (deployment.state, &deployment.manifest) {
                (DeployState::Uploading, Some(manifest)) => manifest.clone(),
                _ => return Ok(deployment.clone()),
            };
            if deployment.is_ending {
                return Err(DeployError::NotUploading);
            }
            if !deployment.missing.is_empty() {
                return Err(DeployError::Incomplete(deployment.missing.len()));
            }
            deployment.state = DeployState::Preparing;
            (deployment.clone(), manifest)
        };
        let (this, tenant, id) = (self.clone(), tenant.clone(), id.to_owned());
        tokio::spawn(async move {
            let preparing =
                tokio::spawn(this.clone().prepare_and_publish(tenant, id.clone(), manifest, alias));
            let result = preparing
                .await
                .unwrap_or_else(|_| Err(failure("internal", "the preparation broke off", true)));
            this.finish(&id, result).await;
        });
        Ok(snapshot)
    }

    async fn prepare_and_publish(
        self: Arc<Self>,
        tenant: TenantName,
        id: String,
        manifest: Arc<PackageManifest>,
        alias: Option<AliasName>,
    ) -> Result<u32, PrepareError> {
        let turn =
            self.turns.entry(tenant.clone()).or_insert_with(|| Arc::new(Semaphore::new(TURNS))).clone();
        // Where there are several tenants, each has one preparation at a time.
        let turns = if self.registry.has_several_owners() { TURNS } else { 1 };
        let _turn = turn.acquire_many(turns as u32).await;
        let (path, spent) = (self.artifacts.blob_path(&manifest.component.digest), self.spent(&id));
        self.step(&id, "compile".into(), self.prepare.component(&manifest, &path, &spent)).await?;
        let mut models = Vec::with_capacity(manifest.models.len());
        for model in &manifest.models {
            let path = self.artifacts.blob_path(&model.blob.digest);
            let checked = self.prepare.model(model, &path, &spent);
            models.push(self.step(&id, format!("model {}", model.name), checked).await?);
        }
        self.prepare.fits(&manifest)?;
        let now = self.now_unix_ms();
        let manifest = PackageManifest::clone(&manifest);
        let name = manifest.name.clone();
        let new = NewVersion { manifest, models, alias, deployment: Some(id) };
        self.registry.publish(&tenant, new, now).await.map(|v| v.number).map_err(|e| {
            if matches!(e, RegistryError::Db(_)) {
                tracing::error!("publishing {tenant}/{name}: {e}");
                return failure("internal", "the version could not be stored", true);
            }
            failure("limit-reached", &e.to_string(), false)
        })
    }

    async fn step<T>(
        &self,
        id: &str,
        name: String,
        work: impl Future<Output = Result<T, PrepareError>>,
    ) -> Result<T, PrepareError> {
        let began = self.clock.now();
        if let Some(mut deployment) = self.all.get_mut(id) {
            deployment.steps.push(Step { name, state: StepState::Running, ms: 0 });
        }
        let result = work.await;
        let took = self.clock.now().saturating_sub(began);
        if let Some(mut deployment) = self.all.get_mut(id)
            && let Some(step) = deployment.steps.last_mut()
        {
            step.state = if result.is_ok() { StepState::Done } else { StepState::Failed };
            step.ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        }
        result
    }

    /// Where the CPU time of a deployment adds up.
    fn spent(&self, id: &str) -> Arc<CpuTime> {
        self.all.get(id).map(|d| d.spent.clone()).unwrap_or_default()
    }

    /// Ends a deployment: on the books, in the database, and in memory. Where two would end it, the first one
    /// does.
    async fn finish(&self, id: &str, ended: Result<u32, PrepareError>) {
        let (row, deployed) = {
            let Some(mut deployment) = self.all.get_mut(id) else { return };
            if !deployment.is_open() || std::mem::replace(&mut deployment.is_ending, true) {
                return;
            }
            let deployed = deployment.id.parse().ok().map(|id| Deployed {
                id,
                tenant: deployment.tenant.clone(),
                function: deployment.function.clone(),
                began_unix_ms: deployment.created_unix_ms,
                cpu_ns: deployment.spent.ns(),
                ended: ended.clone(),
            });
            (deployment.row(), deployed)
        };
        if let Some(deployed) = deployed {
            self.bill.deployed(deployed).await;
        }
        if let Err(e) = store::deployment_ended(&self.db, &row, &ended, FINISHED_MAX).await {
            tracing::error!("deployment {id}: {e}");
        }
        if let Some(mut deployment) = self.all.get_mut(id) {
            deployment.end(ended);
        }
    }

    /// Gives up uploads that grew old, and deletes the blobs that nobody needs. Returns how many blobs.
    pub async fn collect(&self) -> Result<usize, ArtifactError> {
        let _gate = self.gate.lock().await;
        self.expire().await;
        if self.registry.has_damaged() {
            tracing::warn!("no blobs are removed: there are versions that cannot be read");
            return Ok(0);
        }
        // Open deployments before versions: one that is published in between is seen in both.
        let mut references = References::new();
        for deployment in self.all.iter().filter(|d| d.is_open()) {
            let blobs = deployment.manifest.iter().flat_map(|m| m.blobs());
            references.extend(blobs.map(|b| (deployment.tenant.clone(), b.digest)));
        }
        references.extend(self.registry.referenced());
        let before = self.now_unix_ms() - self.limits.unused_ms_max;
        self.artifacts.collect(&references, before, self.prepare.as_ref()).await
    }

    async fn expire(&self) {
        let before = self.now_unix_ms() - self.limits.open_ms_max;
        let mut expired = Vec::new();
        for deployment in &self.all {
            let idle = deployment.state == DeployState::Uploading && deployment.receiving.is_empty();
            if idle && deployment.created_unix_ms < before {
                expired.push(deployment.id.clone());
            }
        }
        for id in expired {
            let detail = "the upload was not committed in time; deploy again";
            self.finish(&id, Err(failure("deployment-expired", detail, false))).await;
        }
    }

    fn forget_oldest(&self, tenant: &TenantName) {
        let finished = self.all.iter().filter(|d| d.tenant == *tenant && !d.is_open());
        // Ids sort by time.
        let mut ids: Vec<_> = finished.map(|d| d.id.clone()).collect();
        ids.sort();
        for id in ids.iter().rev().skip(FINISHED_MAX) {
            self.all.remove(id);
        }
    }

    fn now_unix_ms(&self) -> i64 {
        self.clock.unix_ns() / 1_000_000
    }
}

impl Deployment {
    fn new(id: String, tenant: TenantName, function: FunctionName, created_unix_ms: i64) -> Self {
        Self {
            id,
            tenant,
            function,
            created_unix_ms,
            state: DeployState::Uploading,
            missing: Vec::new(),
            steps: Vec::new(),
            version: None,
            error: None,
            manifest: None,
            receiving: HashSet::new(),
            is_ending: false,
            spent: Arc::default(),
        }
    }
}

/// Lets the blob be uploaded again when an upload ends, also where its client went away.
struct Receiving {
    deployments: Arc<Deployments>,
    id: String,
    digest: Digest,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Some(mut deployment) = self.deployments.all.get_mut(&self.id) {
            deployment.receiving.remove(&self.digest);
        }
    }
}

fn failure(code: &str, detail: &str, platform: bool) -> PrepareError {
    PrepareError { code: code.into(), detail: detail.into(), platform }
}
