use super::*;
use crate::db::testing;
use sqlx::AssertSqlSafe;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use vesta_core::Outcome;
use vesta_core::clock::SystemClock;
use vesta_core::price::PricePlan;
use vesta_core::usage::{Phases, Quantities};

const DAY: i64 = DAY_NS;

fn record(n: u64, function: &str, day: i64, attos: i128) -> UsageRecord {
    UsageRecord {
        id: InvocationId::new((day * DAY).unsigned_abs() / 1_000_000, u128::from(n)),
        kind: vesta_core::usage::Kind::Invocation,
        tenant: "acme".parse().expect("name"),
        function: function.parse().expect("name"),
        version: 3,
        started_unix_ns: day * DAY + i64::try_from(n).expect("small"),
        outcome: Outcome::Ok,
        status: 200,
        cold: n.is_multiple_of(2),
        inferences: 1,
        quantities: Quantities {
            guest_cpu_ns: 1_000 + n,
            inference_cpu_ns: 7,
            cold_start_cpu_ns: 11,
            outbound_cpu_ns: 13,
            handler_cpu_ns: 17,
            deploy_cpu_ns: 19,
            peak_memory_bytes: 4 << 30,
            model_memory_peak_bytes: 1 << 30,
            memory_ns: 900_000_000_000,
            model_memory_ns: 400_000_000_000,
            bytes_in: 3,
            bytes_out: 5,
        },
        phases: Phases { queue_ns: 1, infer_ns: 400_000_000_000, total_ns: 2, ..Phases::default() },
        charge: Charge::from_attos(attos),
        currency: usd(),
        price_plan: Some(prices("USD").id),
    }
}

fn usd() -> Currency {
    "USD".parse().expect("code")
}

fn prices(currency: &str) -> Prices {
    PricePlan { currency: currency.into(), ..PricePlan::default() }.checked().expect("valid")
}

async fn open(db: Db, settlement: Arc<Settlement>, currency: &str) -> Arc<Ledger> {
    Ledger::open(db, settlement, &prices(currency), Arc::new(SystemClock::start())).await.expect("open")
}

/// Records at places of their own, one behind the other.
fn journaled(records: &[UsageRecord]) -> Vec<Journaled> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let place = || Position { segment: 1, bytes: NEXT.fetch_add(1, SeqCst) };
    records.iter().map(|record| Journaled { record: record.clone(), end: place() }).collect()
}

/// Posts records that come from new places: the ledger can tell only by their ids that it has them.
async fn post(ledger: &Ledger, records: &[UsageRecord]) -> usize {
    let posting = ledger.post(&journaled(records)).await.expect("post");
    assert_eq!(posting.done, records.len());
    posting.refused.len()
}

async fn find(ledger: &Ledger, id: InvocationId) -> Option<UsageRecord> {
    ledger.find(&acme(), id).await.expect("find").found
}

async fn report(ledger: &Ledger, from: Option<Day>, to: Option<Day>, by: By) -> Usage {
    let (from, to) = (from.unwrap_or(Day(i64::MIN)), to.unwrap_or(Day(i64::MAX)));
    let query = UsageQuery { from, to, by, after: None, limit: LIST_MAX };
    ledger.usage(&acme(), query).await.expect("usage").found
}

async fn ledger(dir: &tempfile::TempDir) -> Arc<Ledger> {
    open(testing::db(dir).await, Arc::default(), "USD").await
}

fn acme() -> TenantName {
    "acme".parse().expect("name")
}

async fn total(ledger: &Ledger) -> Sums {
    let usage = report(ledger, None, None, By::default()).await;
    usage.totals.get(&usd()).copied().unwrap_or_default()
}

#[tokio::test]
async fn a_record_comes_back_as_it_was_and_posting_it_again_changes_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let records: Vec<_> = (0..350).map(|n| record(n, "hello", 10, 123_456_789_012_345_678)).collect();
    post(&ledger, &records[..120]).await;
    let once = total(&ledger).await;
    assert_eq!(once.invocations, 120);
    // A replay that overlaps what was posted, as after a crash, and one that is all of it.
    post(&ledger, &records[70..]).await;
    post(&ledger, &records).await;
    let all = total(&ledger).await;
    assert_eq!(all.invocations, 350);
    assert_eq!(all.charge, records.iter().map(|r| r.charge).sum());
    assert_eq!(all.guest_cpu_ns, records.iter().map(|r| r.quantities.guest_cpu_ns).sum::<u64>());
    // 350 times 4 GiB for 900 s, and 1 GiB for 400 s, is past 2^63 byte-nanoseconds by far, and exact.
    assert_eq!(all.memory_byte_ns, 350 * (1i128 << 30) * (4 * 900 + 400) * 1_000_000_000);
    assert_eq!(all.memory_gb_s(), "1503238.553600000000000000");
    assert_eq!(find(&ledger, records[5].id).await.as_ref(), Some(&records[5]));
    assert_eq!(find(&ledger, InvocationId::new(1, 1)).await, None);
}

#[tokio::test]
async fn a_database_of_before_opens_and_its_records_keep_the_currency_that_the_host_had() {
    let dir = tempfile::tempdir().expect("dir");
    let mut old = record(1, "hello", 10, 5);
    (old.quantities.outbound_cpu_ns, old.quantities.handler_cpu_ns, old.quantities.deploy_cpu_ns) = (0, 0, 0);
    let db = testing::db(&dir).await;
    let ledger = open(db.clone(), Arc::default(), "USD").await;
    post(&ledger, std::slice::from_ref(&old)).await;
    let before = total(&ledger).await;
    // As the host before left it: without the columns, and with the days of one currency that nobody had
    // written down.
    let mut write = db.write().await.expect("write");
    for sql in [
        "ALTER TABLE usage_records DROP COLUMN model_memory_peak_bytes",
        "ALTER TABLE usage_records DROP COLUMN currency",
        "ALTER TABLE usage_records DROP COLUMN price_plan",
        "DROP TABLE ledger_before",
        "DROP TABLE price_plans",
        "DROP TABLE ledger_progress",
        "DROP TABLE ledger_housekeeping",
        "DROP INDEX usage_records_by_function",
        "DROP INDEX usage_records_deployments",
        "DROP INDEX usage_records_deployments_of_function",
        "ALTER TABLE usage_records DROP COLUMN kind",
        "ALTER TABLE usage_records DROP COLUMN outbound_cpu_ns",
        "ALTER TABLE usage_records DROP COLUMN handler_cpu_ns",
        "ALTER TABLE usage_records DROP COLUMN deploy_cpu_ns",
        "ALTER TABLE usage_records DROP COLUMN model_memory_ns",
        "CREATE TABLE old_days (tenant TEXT NOT NULL, day BIGINT NOT NULL, function TEXT NOT NULL,
            invocations BIGINT NOT NULL, guest_cpu_ns BIGINT NOT NULL, inference_cpu_ns BIGINT NOT NULL,
            cold_start_cpu_ns BIGINT NOT NULL, memory_gb_s BIGINT NOT NULL, memory_byte_ns BIGINT NOT NULL,
            bytes_in BIGINT NOT NULL, bytes_out BIGINT NOT NULL, charge_units BIGINT NOT NULL,
            charge_attos BIGINT NOT NULL, PRIMARY KEY (tenant, day, function)) WITHOUT ROWID",
        "INSERT INTO old_days SELECT tenant, day, function, invocations, guest_cpu_ns, inference_cpu_ns,
            cold_start_cpu_ns, memory_gb_s, memory_byte_ns, bytes_in, bytes_out, charge_units, charge_attos
            FROM usage_days",
        "DROP TABLE usage_days",
        "ALTER TABLE old_days RENAME TO usage_days",
        "DELETE FROM _sqlx_migrations WHERE version IN (3, 30, 31, 40, 41)",
    ] {
        sqlx::query(sql).execute(&mut *write).await.expect(sql);
    }
    write.commit().await.expect("commit");
    db.close().await;

    let ledger = self::ledger(&dir).await;
    old.quantities.model_memory_peak_bytes = 0;
    old.price_plan = None;
    assert_eq!(find(&ledger, old.id).await.as_ref(), Some(&old));
    assert_eq!(total(&ledger).await, before);
    let new = record(2, "hello", 10, 5);
    post(&ledger, std::slice::from_ref(&new)).await;
    assert_eq!(find(&ledger, new.id).await, Some(new));

    // The host's currency changes: what was before keeps its own, also what an old journal still has of it.
    ledger.db.close().await;
    let ledger = open(testing::db(&dir).await, Arc::default(), "EUR").await;
    assert_eq!(find(&ledger, old.id).await, Some(old));
    let late = UsageRecord { currency: Currency::UNSTATED, price_plan: None, ..record(3, "hello", 10, 7) };
    let euros = UsageRecord { currency: "EUR".parse().expect("code"), ..record(4, "hello", 10, 1_000) };
    post(&ledger, &[late.clone(), euros.clone()]).await;
    assert_eq!(find(&ledger, late.id).await.map(|r| r.currency), Some(usd()));
    let by = By { function: true, day: true };
    let usage = report(&ledger, None, None, by).await;
    let charges = |sums: Vec<(Currency, Sums)>| -> Vec<(String, i128)> {
        sums.into_iter().map(|(currency, sums)| (currency.to_string(), sums.charge.attos())).collect()
    };
    let expected = [("EUR".to_string(), 1_000), ("USD".to_string(), 17)];
    assert_eq!(charges(usage.totals.into_iter().collect()), expected);
    assert_eq!(charges(usage.rows.into_iter().map(|r| (r.key.currency, r.sums)).collect()), expected);
    // Each plan is known by its identity.
    let plans = ledger.plans().await.expect("plans");
    for currency in ["USD", "EUR"] {
        let plan = prices(currency);
        let stored = plans.iter().find(|p| p.id == plan.id.as_str()).expect("the plan");
        assert_eq!(stored.text, plan.text);
    }
}

#[tokio::test]
async fn charges_are_summed_exactly_past_what_a_float_or_an_i64_holds() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let unit = 10i128.pow(18);
    let records: Vec<_> =
        (0..250).map(|n| record(n, "dear", 1, 9_000_000 * unit + unit - 1 - i128::from(n))).collect();
    for part in records.chunks(7) {
        post(&ledger, part).await;
    }
    let expected: Charge = records.iter().map(|r| r.charge).sum();
    assert!(expected.attos() > i128::from(i64::MAX));
    assert_eq!(total(&ledger).await.charge, expected);
}

#[tokio::test]
async fn deployments_have_a_list_and_a_count_of_their_own() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let mut records: Vec<_> = (0..6).map(|n| record(n, "hello", 10, 1)).collect();
    records[2].kind = Kind::Deployment;
    records[4].kind = Kind::Deployment;
    post(&ledger, &records).await;
    let all = total(&ledger).await;
    assert_eq!((all.invocations, all.deployments, all.deploy_cpu_ns), (4, 2, 6 * 19));
    let listed = ledger.list(&acme(), Kind::Deployment, None, None, 10).await.expect("list").found;
    assert_eq!(listed, [records[4].clone(), records[2].clone()]);
    let hello = "hello".parse().ok();
    assert_eq!(ledger.list(&acme(), Kind::Invocation, hello, None, 10).await.expect("list").found.len(), 4);
}

#[tokio::test]
async fn usage_is_told_apart_by_function_and_day_and_bounded_by_days() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let mut records = vec![record(1, "a", 10, 5), record(2, "b", 10, 7), record(3, "a", 11, 11)];
    let mut foreign = record(4, "a", 11, 1_000);
    foreign.tenant = "other".parse().expect("name");
    records.push(foreign);
    post(&ledger, &records).await;

    let by = By { function: true, day: true };
    let usage = report(&ledger, None, None, by).await;
    let rows: Vec<_> = usage
        .rows
        .iter()
        .map(|r| (r.key.day, r.key.function.as_ref().map(FunctionName::as_str), r.sums.charge.attos()))
        .collect();
    let (ten, eleven) = (Some((Day(10), Period::Day)), Some((Day(11), Period::Day)));
    assert_eq!(rows, [(ten, Some("a"), 5), (ten, Some("b"), 7), (eleven, Some("a"), 11)]);
    assert_eq!(usage.totals[&usd()].charge.attos(), 23);

    let by = By { function: true, day: false };
    let usage = report(&ledger, None, Some(Day(10)), by).await;
    assert_eq!(usage.rows.len(), 2);
    assert_eq!(usage.totals[&usd()].charge.attos(), 12);
    let usage = report(&ledger, Some(Day(11)), Some(Day(11)), By::default()).await;
    assert_eq!((usage.rows.len(), usage.totals[&usd()].charge.attos()), (1, 11));
    let empty = report(&ledger, Some(Day(12)), None, by).await;
    assert_eq!(empty, Usage::default());

    let a = "a".parse().expect("name");
    let newest = ledger.list(&acme(), Kind::Invocation, Some(a), None, 1).await.expect("list").found;
    assert_eq!(newest, records[2..3]);
    assert_eq!(ledger.list(&acme(), Kind::Invocation, None, None, 10).await.expect("list").found.len(), 3);
    let older =
        ledger.list(&acme(), Kind::Invocation, None, Some(records[2].id), 10).await.expect("list").found;
    assert_eq!(older.iter().map(|r| r.id).collect::<Vec<_>>(), [records[1].id, records[0].id]);
}

/// Clocks that a test sets. They are shared with the ledger.
struct SetClock {
    unix_ns: AtomicI64,
    hours: AtomicU64,
}

impl Clock for SetClock {
    fn now(&self) -> vesta_core::clock::Instant {
        Duration::from_secs(self.hours.load(SeqCst) * 3_600)
    }
    fn unix_ns(&self) -> i64 {
        self.unix_ns.load(SeqCst)
    }
}

impl SetClock {
    fn at(day: i64) -> Arc<Self> {
        Arc::new(Self { unix_ns: (day * DAY).into(), hours: 0.into() })
    }
    /// Both clocks go on.
    fn pass(&self, hours: u64) {
        self.hours.fetch_add(hours, SeqCst);
        self.unix_ns.fetch_add(i64::try_from(hours).expect("small") * 3_600_000_000_000, SeqCst);
    }
    /// The wall clock alone is set.
    fn jump(&self, days: i64) {
        self.unix_ns.fetch_add(days * DAY, SeqCst);
    }
}

async fn at(dir: &tempfile::TempDir, clock: &Arc<SetClock>) -> Arc<Ledger> {
    let plan = prices("USD");
    let opened = Ledger::open(testing::db(dir).await, Arc::default(), &plan, clock.clone());
    opened.await.expect("open")
}

#[tokio::test]
async fn pruning_keeps_the_sums_and_a_late_replay_of_a_pruned_record_counts_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = at(&dir, &SetClock::at(25)).await;
    let old: Vec<_> = (0..150).map(|n| record(n, "hello", 10, 3)).collect();
    let new: Vec<_> = (200..250).map(|n| record(n, "hello", 20, 5)).collect();
    let places = journaled(&old);
    ledger.post(&places).await.expect("post");
    post(&ledger, &new).await;
    let before = total(&ledger).await;
    assert_eq!(ledger.housekeep(10 * DAY).await.expect("prune"), 150);
    assert_eq!(find(&ledger, old[0].id).await, None);
    assert!(find(&ledger, new[0].id).await.is_some());
    assert_eq!(total(&ledger).await, before);
    ledger.post(&places).await.expect("post");
    ledger.post(&places[100..]).await.expect("post");
    assert_eq!(total(&ledger).await, before);
    assert_eq!(ledger.housekeep(10 * DAY).await.expect("prune"), 0);
    // What was never posted is posted, however old it says that it is.
    let late = record(900, "hello", 3, 1_000);
    assert_eq!(post(&ledger, std::slice::from_ref(&late)).await, 0);
    assert_eq!(total(&ledger).await.charge.attos(), before.charge.attos() + 1_000);
}

#[tokio::test]
async fn a_wrong_clock_at_one_housekeeping_prunes_nothing_and_makes_nothing_free() {
    let dir = tempfile::tempdir().expect("dir");
    let clock = SetClock::at(1_000);
    let ledger = at(&dir, &clock).await;
    post(&ledger, &[record(1, "hello", 999, 3)]).await;
    assert_eq!(ledger.housekeep(400 * DAY).await.expect("prune"), 0);
    clock.pass(1);
    clock.jump(50_000);
    assert_eq!(ledger.housekeep(400 * DAY).await.expect("prune"), 0);
    clock.pass(1);
    clock.jump(-50_000);
    assert_eq!(ledger.housekeep(400 * DAY).await.expect("prune"), 0);
    assert_eq!(ledger.findings().prunings_refused, 2);
    post(&ledger, &[record(2, "hello", 1_000, 5)]).await;
    assert_eq!(total(&ledger).await.charge.attos(), 8);
    // A restart under the wrong clock does not make it right.
    clock.jump(50_000);
    ledger.db.close().await;
    let ledger = at(&dir, &clock).await;
    assert_eq!(ledger.housekeep(400 * DAY).await.expect("prune"), 0);
    assert_eq!(ledger.findings().prunings_refused, 1);
    assert!(find(&ledger, record(1, "hello", 999, 3).id).await.is_some());
    // Once it has run evenly for a while, it is believed.
    clock.pass(7);
    assert_eq!(ledger.housekeep(400 * DAY).await.expect("prune"), 2);
}

#[tokio::test]
async fn a_record_whose_id_and_start_a_set_clock_has_parted_goes_when_both_are_old() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let (mut early, mut late) = (record(1, "hello", 10, 3), record(2, "hello", 20, 3));
    (early.id, late.id) = (late.id, early.id);
    post(&ledger, &[early, late]).await;
    assert_eq!(ledger.prune(0, 15 * DAY).await.expect("prune"), 0);
    assert_eq!(ledger.prune(0, 25 * DAY).await.expect("prune"), 2);
}

#[tokio::test]
async fn a_record_that_cannot_be_stored_costs_itself_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let mut records: Vec<_> = (0..300).map(|n| record(n, "hello", 10, 1)).collect();
    records[17].quantities.bytes_in = u64::MAX;
    records[255].charge = Charge::from_attos(i128::MAX);
    let records = journaled(&records);
    let posting = ledger.post(&records).await.expect("post");
    assert_eq!(posting.done, 300);
    assert_eq!(posting.refused.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [17, 255]);
    assert!(posting.refused[0].1.to_string().contains("bytes_in"), "{:?}", posting.refused);
    assert_eq!(total(&ledger).await.invocations, 298);
    assert_eq!(ledger.progress().await.expect("progress"), records.last().map(|r| r.end));
    // A sum that would pass what the store can hold refuses the record that takes it there.
    let write = |sql: &'static str| {
        let db = ledger.db.clone();
        async move {
            let mut write = db.write().await.expect("write");
            sqlx::query(sql).execute(&mut *write).await.expect(sql);
            write.commit().await.expect("commit");
        }
    };
    write("UPDATE usage_days SET bytes_out = 9223372036854775806").await;
    let posting = ledger.post(&journaled(&[record(900, "hello", 10, 1), record(901, "hello", 11, 1)])).await;
    assert_eq!(posting.expect("post").refused.len(), 1);
    assert_eq!(total(&ledger).await.invocations, 299);
}

#[tokio::test]
async fn old_days_become_months_and_the_sums_stay() {
    let dir = tempfile::tempdir().expect("dir");
    // 2024-02-29 is day 19,782: a year and 400 days later both of its days are old, and 2024-03-01 is not.
    let clock = SetClock::at(19_783 + 400);
    let ledger = at(&dir, &clock).await;
    let dear = 10i128.pow(18) - 1;
    let mut records: Vec<_> = (0..29).map(|n| record(n, "a", 19_754 + n as i64, dear)).collect();
    records.extend([record(100, "b", 19_782, 7), record(101, "a", 19_783, 11), record(102, "a", 20_000, 13)]);
    post(&ledger, &records).await;
    let before = total(&ledger).await;
    ledger.housekeep(40_000 * DAY).await.expect("housekeeping");
    assert_eq!(total(&ledger).await, before);
    let rows = |usage: Usage| -> Vec<_> {
        let row = |r: UsageRow| (r.key.day.expect("by day"), r.sums.invocations, r.sums.charge.attos());
        usage.rows.into_iter().map(row).collect()
    };
    let by = By { function: false, day: true };
    let february = ((Day(19_754), Period::Month), 30, 29 * dear + 7);
    let later = [((Day(19_783), Period::Day), 1, 11), ((Day(20_000), Period::Day), 1, 13)];
    assert_eq!(rows(report(&ledger, None, None, by).await), [&[february][..], &later].concat());
    // A month counts on its first day: what is asked for day by day adds up.
    assert_eq!(rows(report(&ledger, Some(Day(19_755)), None, by).await), later);
    assert_eq!(rows(report(&ledger, None, Some(Day(19_754)), by).await), [february]);
    // What is posted late is added with the next pass.
    post(&ledger, &[record(200, "a", 19_760, 5)]).await;
    assert_eq!(report(&ledger, None, None, by).await.rows.len(), 4);
    ledger.housekeep(40_000 * DAY).await.expect("housekeeping");
    assert_eq!(report(&ledger, None, None, by).await.rows.len(), 3);
    assert_eq!(total(&ledger).await.charge.attos(), before.charge.attos() + 5);
}

#[tokio::test]
async fn sums_that_are_not_those_of_their_records_are_found() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = at(&dir, &SetClock::at(30)).await;
    let mut records: Vec<_> = (0..1_200).map(|n| record(n, "hello", 10, 3)).collect();
    records.extend((2_000..2_010).map(|n| record(n, "other", 11, 5)));
    // Its id was made long before it started.
    records[7].id = InvocationId::new(5, 5);
    // Another currency on the same day.
    records[8].currency = "EUR".parse().expect("code");
    post(&ledger, &records).await;
    ledger.housekeep(400 * DAY).await.expect("housekeeping");
    let findings = ledger.findings();
    assert_eq!(findings.differences, 0);
    assert!(findings.records_compared >= 1_210, "{findings:?}");
    let mut write = ledger.db.write().await.expect("write");
    sqlx::query("UPDATE usage_days SET charge_attos = charge_attos + 1 WHERE function = 'other'")
        .execute(&mut *write)
        .await
        .expect("update");
    write.commit().await.expect("commit");
    ledger.housekeep(400 * DAY).await.expect("housekeeping");
    assert_eq!(ledger.findings().differences, 1);
    // Days of which records have been pruned are not compared.
    ledger.housekeep(18 * DAY).await.expect("housekeeping");
    assert_eq!(ledger.findings().differences, 1);
}

#[tokio::test]
async fn what_is_asked_often_is_served_by_an_index() {
    let dir = tempfile::tempdir().expect("dir");
    let db = testing::db(&dir).await;
    for (sql, index) in [
        (
            "SELECT * FROM usage_records WHERE tenant = 'a' AND function = 'f' AND id < 'x' ORDER BY id DESC LIMIT 9",
            "usage_records_by_function (tenant=? AND function=? AND id<?)",
        ),
        (
            "SELECT * FROM usage_records WHERE tenant = 'a' AND id < 'x' ORDER BY id DESC LIMIT 9",
            "usage_records_by_tenant (tenant=? AND id<?)",
        ),
        (
            "SELECT * FROM usage_days WHERE period = 'day' AND day < 9 ORDER BY day LIMIT 9",
            "usage_days_by_age (day<?)",
        ),
    ] {
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
                .fetch_all(db.pool())
                .await
                .expect("plan");
        let steps: Vec<_> = plan.into_iter().map(|step| step.3).collect();
        assert!(steps.len() == 1 && steps[0].ends_with(index), "{sql}: {steps:?}");
    }
}

#[tokio::test]
async fn an_answer_says_when_the_ledger_lags() {
    let dir = tempfile::tempdir().expect("dir");
    let settlement = Arc::new(Settlement::default());
    let ledger = open(testing::db(&dir).await, settlement.clone(), "USD").await;
    settlement.accept(1, std::time::Instant::now());
    let now = ledger.clock.unix_ns();
    let answer = ledger.list(&acme(), Kind::Invocation, None, None, 1).await.expect("list");
    assert!(!answer.complete);
    assert!((now - 1_000_000_000..now + 1_000_000_000).contains(&answer.as_of_unix_ns), "{answer:?}");
    settlement.post(1, None);
    assert!(ledger.list(&acme(), Kind::Invocation, None, None, 1).await.expect("list").complete);
}

#[tokio::test]
async fn a_reader_waits_for_what_was_accepted_before_it_asked() {
    let dir = tempfile::tempdir().expect("dir");
    let settlement = Arc::new(Settlement::default());
    let ledger = open(testing::db(&dir).await, settlement.clone(), "USD").await;
    settlement.accept(1, Instant::now());
    let late = {
        let (ledger, settlement) = (ledger.clone(), settlement.clone());
        async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            post(&ledger, &[record(1, "hello", 1, 1)]).await;
            settlement.post(1, None);
        }
    };
    let (found, ()) = tokio::join!(find(&ledger, record(1, "hello", 1, 1).id), late);
    assert!(found.is_some());
}

/// Prints what posting costs. The bound is loose, for debug builds on busy machines.
#[tokio::test]
async fn posting_ten_thousand_records_costs_little() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let cpu = || {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).expect("nanoseconds"))
    };
    let records: Vec<_> = (0..20_000).map(|n| record(n, "hello", 10, 123)).collect();
    post(&ledger, &records[..10_000]).await;
    let (start, began) = (cpu(), std::time::Instant::now());
    for part in records[10_000..].chunks(500) {
        post(&ledger, part).await;
    }
    let (cpu, wall) = (cpu() - start, began.elapsed());
    println!("posting: {:.1} us CPU, {:.1} us wall a record", us(cpu) / 1e4, us(wall) / 1e4);
    assert!(cpu < Duration::from_secs(2), "{cpu:?}");
}

fn us(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}
