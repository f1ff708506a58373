//! `vesta serve`: wires the rooms together, serves, and drains. The only place that knows everything.

mod announce;
mod data_dir;
mod defences;
mod deploy_bill;
mod machine;
mod ops;
mod tasks;

pub use crate::config::{HostConfig, ServeArgs};

use crate::artifact::Artifacts;
use crate::artifact::deploy::{DeployLimits, Deployments};
use crate::config::Tls;
use crate::control::{self, ControlState};
use crate::db::{Db, changes};
use crate::ingress::{Door, Ingress, Received, Refused, Served, Serving, Shares, serve};
use crate::ledger::Ledger;
use crate::lifecycle::{
    Activator, EnginePreparer, Functions, Histories, Lifecycle, SeveralTenants, follow_registry, reap,
};
use crate::metering::{Journal, Post, PostError, Posted, Refusal, run_poster};
use crate::registry::{Registry, RegistryEvent};
use crate::telemetry::logs::LogStore;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::refusals::Refusals;
use crate::tenancy::Tenancy;
use announce::{Urls, announce};
use anyhow::{Context, Result, anyhow};
use axum::response::IntoResponse;
use data_dir::DataDir;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tasks::Tasks;
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vesta_core::clock::{Clock, SystemClock};
use vesta_core::keepalive::IndexPolicy;
use vesta_core::memory::Grant;
use vesta_core::price::Prices;
use vesta_core::settlement::{Journaled, Settlement};
use vesta_core::vital::Vitals;
use vesta_engine::{ModelLimits, Runtime, RuntimeConfig, cpu, heap};

/// How long a host that has drained waits for work that no connection waits for, and for the ledger.
const LAST_WORK: Duration = Duration::from_secs(10);

/// How long a host without one of its tasks still answers that it is not ready before it ends.
const NOT_READY_SHOWN: Duration = Duration::from_secs(3);

/// What threads that do not end are given when everything else has.
const LAST_THREADS: Duration = Duration::from_secs(5);

/// Runs the host until SIGTERM or SIGINT.
pub fn run(args: ServeArgs) -> Result<()> {
    heap::keep();
    let (config, prices) = HostConfig::load(&args)?;
    init_tracing();
    defences::prepare()?;
    cpu::register_thread("main");
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("vesta-worker")
        .on_thread_start(|| cpu::register_thread("worker"))
        .on_thread_stop(cpu::unregister_thread)
        .build()?;
    let served = runtime.block_on(serve_until_stopped(config, prices, args));
    // A worker that never comes back holds up nothing.
    runtime.shutdown_timeout(LAST_THREADS);
    served
}

/// Ends the process when it should have ended by itself. Without one of its tasks a host may not be able to:
/// guests that are not interrupted keep its workers, and with them its timers.
fn end_at_last(after: Duration) {
    let thread = std::thread::Builder::new().name("vesta-end".into());
    let _ = thread.spawn(move || {
        std::thread::sleep(after);
        tracing::error!("the host has not ended by itself");
        std::process::abort();
    });
}

/// Connections are bounded by the configuration, not by the shell's soft limit on descriptors.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit on open files cannot be raised");
    }
}

fn init_tracing() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("VESTA_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    // A second host in one process (tests) keeps the first one's subscriber.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

async fn serve_until_stopped(config: HostConfig, prices: Prices, args: ServeArgs) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let data = DataDir::open(&config.data_dir()?)?;
    let tls = config.tls.as_ref().map(acceptor).transpose()?;
    // Bound before anything is opened: a port that is taken is told at once.
    let listener = bind(config.listen, "invocations").await?;
    let control_listener = bind(config.control, "the control API").await?;
    let (listen, control) = (listener.local_addr()?, control_listener.local_addr()?);
    let tasks = Tasks::new();

    let db = Db::open(&data.path.join(data_dir::DATABASE), config.durable).await?;
    let settlement: Arc<Settlement> = Arc::default();
    let tenancy = Tenancy::open(db.clone(), data.key("api-keys")).await?;
    let registry = Registry::open(db.clone()).await?;
    let ledger = Ledger::open(db.clone(), settlement.clone(), &prices, clock.clone()).await?;
    let logs = LogStore::open(db.clone(), tasks.hold("writer of logs"));
    let artifacts = Arc::new(Artifacts::open(&data.path, db.clone()).await?);
    let memory_bytes = config.memory.of(machine::memory_bytes());
    tracing::info!(bytes = memory_bytes, "memory budget");
    let several_tenants: SeveralTenants = {
        let registry = registry.clone();
        Arc::new(move || registry.has_several_owners())
    };
    let functions =
        Functions::new(memory_bytes, Arc::new(IndexPolicy), clock.clone(), several_tenants.clone());
    let engine = Arc::new(Runtime::new(runtime_config(&config, &data, tasks.vitals())?, functions.clone())?);
    let (posted, vital) = (ledger.progress().await?, tasks.hold("writer of the journal"));
    let journal =
        Journal::open(&data.path.join("journal"), config.durable, settlement.clone(), posted, vital)?;
    let metrics: Arc<Metrics> = Arc::default();
    let deploy_bill = Arc::new(deploy_bill::ToTheBooks {
        journal: journal.clone(),
        metrics: metrics.clone(),
        prices: prices.clone(),
        clock: clock.clone(),
    });
    let preparer = EnginePreparer::new(engine.clone(), artifacts.clone(), functions.memory().clone());
    let limits = DeployLimits {
        package_bytes_max: config.package_bytes_max,
        tenant_bytes_max: config.tenant_disk.of(machine::disk_bytes(&data.path)),
        ..DeployLimits::default()
    };
    let deployments = Deployments::open(
        db.clone(),
        artifacts,
        registry.clone(),
        preparer.clone(),
        deploy_bill,
        clock.clone(),
        limits,
    )
    .await?;
    let activator = Activator::new(Lifecycle {
        functions: functions.clone(),
        registry: registry.clone(),
        runtime: engine.clone(),
        preparer,
        start_seconds_max: config.start_seconds_max,
    });
    let histories = Histories::open(activator.clone(), db.clone(), clock.clone()).await;
    let mut poster = tasks
        .spawn("poster of usage records", run_poster(journal.clone(), Arc::new(LedgerPost(ledger.clone()))));

    let bills = TaskTracker::new();
    let first_keys = tenancy.bootstrap(&*clock).await?;
    let ingress = Arc::new(Ingress {
        tenancy: tenancy.clone(),
        registry: registry.clone(),
        activator: activator.clone(),
        journal: journal.clone(),
        logs: logs.clone(),
        metrics: metrics.clone(),
        clock: clock.clone(),
        prices: prices.clone(),
        domain: config.domain.clone(),
        path_sandbox: config.path_sandbox,
        tls: tls.is_some(),
        bills: bills.clone(),
        shares: Shares::new(
            config.connections_max.min(config.instances_max as usize),
            memory_bytes,
            several_tenants,
        ),
    });
    let scheme = if tls.is_some() { "https" } else { "http" };
    let urls = Urls {
        invoke: config.public_url.clone().unwrap_or_else(|| format!("{scheme}://{listen}")),
        control: format!("{scheme}://{control}"),
    };
    let (stop, stopping) = watch::channel(false);
    let drain = CancellationToken::new();
    let refusals = Refusals::new(metrics.clone());
    let memory = functions.memory().clone();
    let ops = ops::Ops {
        metrics: metrics.clone(),
        activator: activator.clone(),
        functions,
        runtime: engine,
        journal: journal.clone(),
        ledger: ledger.clone(),
        settlement,
        db: db.clone(),
        ended: tasks.ended(),
        stopping: stopping.clone(),
    };
    let api = control::router(ControlState {
        tenancy,
        registry: registry.clone(),
        deployments: deployments.clone(),
        ledger: ledger.clone(),
        logs: logs.clone(),
        states: activator.clone(),
        clock: clock.clone(),
        changes: Arc::new(control::changes()),
        currency: prices.currency,
        invoke_base_url: urls.invoke.clone(),
        drain: drain.clone(),
    });
    let api = ControlService(api.merge(ops::router(ops)));

    tasks.spawn("metrics of deleted functions", forget_deleted(registry.clone(), metrics));
    tasks.spawn("reaper", reap(activator.clone()));
    tasks.spawn("follower of the registry", follow_registry(activator, registry));
    let house =
        housekeeping(db.clone(), config.clone(), clock, deployments, ledger, logs.clone(), histories.clone());
    tasks.spawn("housekeeping", house);
    let grace = Duration::from_secs(config.drain_seconds);
    let serving = |listener| Serving { listener, stop: stopping.clone(), grace };
    let invocations = Door {
        name: "invocations",
        service: ingress,
        tls: tls.clone(),
        refusals: refusals.clone(),
        memory: memory.clone(),
        connections_max: config.connections_max,
        keep_alive: Duration::from_secs(config.keep_alive_seconds),
    };
    let controls = Door {
        name: "control",
        service: api,
        tls,
        refusals,
        memory,
        connections_max: config.connections_max,
        keep_alive: Duration::from_secs(config.keep_alive_seconds),
    };
    let invocations = tasks.spawn("listener of invocations", serve(serving(listener), invocations));
    let controls = tasks.spawn("listener of the control API", serve(serving(control_listener), controls));
    announce(&urls, first_keys.as_ref(), &data.path, args.ready_file.as_deref())?;

    let ended = tokio::select! {
        signal = stop_signal() => signal.map(|()| None)?,
        ended = tasks::first(tasks.ended()) => Some(ended),
    };
    if ended.is_some() {
        end_at_last(NOT_READY_SHOWN + grace + 4 * LAST_WORK);
        tokio::time::sleep(NOT_READY_SHOWN).await;
    }
    tasks.stop();
    tracing::info!(seconds = config.drain_seconds, "draining: no new connections, running requests finish");
    let _ = stop.send(true);
    drain.cancel();
    let _ = invocations.await;
    let _ = controls.await;
    // Changes that clients have asked for run to their end, also where the client is gone.
    if tokio::time::timeout(LAST_WORK, db.changes_ended()).await.is_err() {
        tracing::warn!("changes still run; what they have not committed is lost");
    }
    // Connections have ended. What runs beside them (a model whose client is gone) is billed too, and what
    // was billed goes to the ledger before the process ends; a ledger that lags finds it in the journal at
    // the next start.
    bills.close();
    let _ = tokio::time::timeout(LAST_WORK, bills.wait()).await;
    journal.close();
    if tokio::time::timeout(LAST_WORK, &mut poster).await.is_err() {
        tracing::warn!("the ledger lags; the journal keeps what is left for the next start");
        poster.abort();
    }
    logs.flush().await;
    if let Err(error) = histories.save().await {
        tracing::warn!(%error, "what was learned of functions is lost since it was last saved");
    }
    db.close().await;
    drop(data);
    match ended {
        None => Ok(()),
        Some(task) => Err(anyhow!("{task} has ended, without which the host cannot go on: its log says why")),
    }
}

/// This process's own program, for whoever is started by it: also where the file was replaced meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

fn runtime_config(config: &HostConfig, data: &DataDir, vitals: Vitals) -> Result<RuntimeConfig> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(RuntimeConfig {
        cache_dir: data.path.join("cache"),
        cache_key: data.key("code-cache"),
        instances_max: config.instances_max,
        inference_slots: config.inference_slots.unwrap_or(cores) as u32,
        inference_waiting_max: config.inference_waiting_max,
        child_program: THIS_PROGRAM.into(),
        inference_program: config.inference_program.clone().unwrap_or_else(|| THIS_PROGRAM.into()),
        engines_dir: data.path.join("engines"),
        onnx_runtime: config.onnx_runtime.clone(),
        child_limits: config.prepare,
        model_limits: ModelLimits { depth_max: config.model_depth_max, ..ModelLimits::default() },
        outbound_allow_networks: config.outbound_allow_networks.clone(),
        name_servers: config.name_servers.clone(),
        vitals,
    })
}

async fn bind(address: SocketAddr, what: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} for {what}"))
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor> {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let read = |path: &Path| format!("tls: {}", path.display());
    let certificates = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| read(&tls.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).with_context(|| read(&tls.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .context("tls: certificate and key")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn stop_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    Ok(())
}

/// Drops the metrics of functions that are deleted, for as long as the host runs.
async fn forget_deleted(registry: Arc<Registry>, metrics: Arc<Metrics>) {
    let mut events = registry.subscribe();
    loop {
        match events.recv().await {
            Ok(RegistryEvent::VersionRemoved { tenant, function, .. }) => {
                if registry.get(&tenant, function.as_str()).is_err() {
                    metrics.forget(&tenant, &function);
                }
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Removes what is past its retention and writes down what was learned, for as long as the host runs.
async fn housekeeping(
    db: Db,
    config: HostConfig,
    clock: Arc<dyn Clock>,
    deployments: Arc<Deployments>,
    ledger: Arc<Ledger>,
    logs: Arc<LogStore>,
    histories: Arc<Histories>,
) {
    let days = |n: u32| i64::from(n) * 24 * 3600 * 1_000_000_000;
    loop {
        tokio::time::sleep(Duration::from_secs(config.housekeeping_seconds)).await;
        let now = clock.unix_ns();
        let told = |what: &str, result: Result<u64, String>| {
            if let Err(error) = result {
                tracing::error!(%error, "housekeeping of {what} failed");
            }
        };
        told(
            "usage records",
            ledger.housekeep(days(config.usage_retention_days)).await.map_err(|e| e.to_string()),
        );
        told("logs", logs.prune(now - days(config.log_retention_days)).await.map_err(|e| e.to_string()));
        told("changes", changes::prune(&db).await.map_err(|e| e.to_string()));
        told("histories", histories.save().await.map_err(|e| e.to_string()));
        told("blobs", deployments.collect().await.map(|n| n as u64).map_err(|e| e.to_string()));
        // What was freed since, too: while a function stays warm, nobody else lets go of it.
        let _ = tokio::task::spawn_blocking(heap::let_go).await;
    }
}

/// The ledger as metering sees it.
struct LedgerPost(Arc<Ledger>);

impl Post for LedgerPost {
    fn post<'a>(
        &'a self,
        records: &'a [Journaled],
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Posted, PostError>> + Send + 'a>> {
        Box::pin(async move {
            let posting = self.0.post(records).await.map_err(|e| PostError(e.to_string()))?;
            let refused = posting.refused.into_iter();
            let refused = refused.map(|(index, e)| Refusal { index, reason: e.to_string() }).collect();
            Ok(Posted { done: posting.done, refused })
        })
    }
}

/// The control API behind the same listener as invocations: the same bounds, time-outs and drain.
#[derive(Clone)]
struct ControlService(axum::Router);

impl Served for ControlService {
    type Body = axum::body::Body;
    async fn serve(&self, request: http::Request<Received>) -> http::Response<axum::body::Body> {
        use tower_service::Service;
        let mut router = self.0.clone();
        match router.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    fn refuse(&self, why: Refused) -> http::Response<axum::body::Body> {
        let (status, code) = why.problem();
        control::Problem::new(status, code, why).into_response()
    }
}
