use super::*;
use crate::db::testing;
use vesta_core::Outcome;
use vesta_core::usage::{Phases, Quantities};

const DAY: i64 = DAY_NS;

fn record(n: u64, function: &str, day: i64, attos: i128) -> UsageRecord {
    UsageRecord {
        id: InvocationId::new((day * DAY).unsigned_abs() / 1_000_000, u128::from(n)),
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
            peak_memory_bytes: 4 << 30,
            model_memory_peak_bytes: 1 << 30,
            memory_ns: 900_000_000_000,
            bytes_in: 3,
            bytes_out: 5,
        },
        phases: Phases { queue_ns: 1, infer_ns: 400_000_000_000, total_ns: 2, ..Phases::default() },
        charge: Charge::from_attos(attos),
    }
}

async fn ledger(dir: &tempfile::TempDir) -> Arc<Ledger> {
    Ledger::open(testing::db(dir).await, Arc::default()).await.expect("open")
}

fn acme() -> TenantName {
    "acme".parse().expect("name")
}

async fn total(ledger: &Ledger) -> Sums {
    ledger.usage(&acme(), None, None, By::default()).await.expect("usage").total
}

#[tokio::test]
async fn a_record_comes_back_as_it_was_and_posting_it_again_changes_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let records: Vec<_> = (0..350).map(|n| record(n, "hello", 10, 123_456_789_012_345_678)).collect();
    ledger.post(&records[..120]).await.expect("post");
    let once = total(&ledger).await;
    assert_eq!(once.invocations, 120);
    // A replay that overlaps what was posted, as after a crash, and one that is all of it.
    ledger.post(&records[70..]).await.expect("post");
    ledger.post(&records).await.expect("post");
    let all = total(&ledger).await;
    assert_eq!(all.invocations, 350);
    assert_eq!(all.charge, records.iter().map(|r| r.charge).sum());
    assert_eq!(all.guest_cpu_ns, records.iter().map(|r| r.quantities.guest_cpu_ns).sum::<u64>());
    // 350 times 4 GiB for 900 s, and 1 GiB for 400 s, is past 2^63 byte-nanoseconds by far, and exact.
    assert_eq!(all.memory_byte_ns, 350 * (1i128 << 30) * (4 * 900 + 400) * 1_000_000_000);
    assert_eq!(all.memory_gb_s(), "1503238.553600000000000000");
    assert_eq!(ledger.find(records[5].id).await.expect("find").as_ref(), Some(&records[5]));
    assert_eq!(ledger.find(InvocationId::new(1, 1)).await.expect("find"), None);
}

#[tokio::test]
async fn a_database_of_before_opens_and_its_records_have_no_model_memory() {
    let dir = tempfile::tempdir().expect("dir");
    let mut old = record(1, "hello", 10, 5);
    let db = testing::db(&dir).await;
    let ledger = Ledger::open(db.clone(), Arc::default()).await.expect("open");
    ledger.post(std::slice::from_ref(&old)).await.expect("post");
    let before = total(&ledger).await;
    // As the host before left it.
    let mut write = db.write().await.expect("write");
    for sql in [
        "ALTER TABLE usage_records DROP COLUMN model_memory_peak_bytes",
        "DELETE FROM _sqlx_migrations WHERE version = 3",
    ] {
        sqlx::query(sql).execute(&mut *write).await.expect(sql);
    }
    write.commit().await.expect("commit");
    db.close().await;

    let ledger = self::ledger(&dir).await;
    old.quantities.model_memory_peak_bytes = 0;
    assert_eq!(ledger.find(old.id).await.expect("find"), Some(old));
    assert_eq!(total(&ledger).await, before);
    let new = record(2, "hello", 10, 5);
    ledger.post(std::slice::from_ref(&new)).await.expect("post");
    assert_eq!(ledger.find(new.id).await.expect("find"), Some(new));
}

#[tokio::test]
async fn charges_are_summed_exactly_past_what_a_float_or_an_i64_holds() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let unit = 10i128.pow(18);
    let records: Vec<_> =
        (0..250).map(|n| record(n, "dear", 1, 9_000_000 * unit + unit - 1 - i128::from(n))).collect();
    for part in records.chunks(7) {
        ledger.post(part).await.expect("post");
    }
    let expected: Charge = records.iter().map(|r| r.charge).sum();
    assert!(expected.attos() > i128::from(i64::MAX));
    assert_eq!(total(&ledger).await.charge, expected);
}

#[tokio::test]
async fn usage_is_told_apart_by_function_and_day_and_bounded_by_days() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let mut records = vec![record(1, "a", 10, 5), record(2, "b", 10, 7), record(3, "a", 11, 11)];
    let mut foreign = record(4, "a", 11, 1_000);
    foreign.tenant = "other".parse().expect("name");
    records.push(foreign);
    ledger.post(&records).await.expect("post");

    let by = By { function: true, day: true };
    let usage = ledger.usage(&acme(), None, None, by).await.expect("usage");
    let rows: Vec<_> = usage
        .rows
        .iter()
        .map(|r| (r.day, r.function.as_ref().map(FunctionName::as_str), r.sums.charge.attos()))
        .collect();
    let (ten, eleven) = (Some(Day(10)), Some(Day(11)));
    assert_eq!(rows, [(ten, Some("a"), 5), (ten, Some("b"), 7), (eleven, Some("a"), 11)]);
    assert_eq!(usage.total.charge.attos(), 23);

    let by = By { function: true, day: false };
    let usage = ledger.usage(&acme(), None, Some(Day(10)), by).await.expect("usage");
    assert_eq!(usage.rows.len(), 2);
    assert_eq!(usage.total.charge.attos(), 12);
    let usage = ledger.usage(&acme(), Some(Day(11)), Some(Day(11)), By::default()).await.expect("usage");
    assert_eq!((usage.rows.len(), usage.total.charge.attos()), (1, 11));
    let empty = ledger.usage(&acme(), Some(Day(12)), None, by).await.expect("usage");
    assert_eq!(empty, Usage::default());

    let a = "a".parse().expect("name");
    let newest = ledger.list(&acme(), Some(&a), 1).await.expect("list");
    assert_eq!(newest, records[2..3]);
    assert_eq!(ledger.list(&acme(), None, 10).await.expect("list").len(), 3);
}

#[tokio::test]
async fn pruning_keeps_the_sums_and_a_late_replay_of_a_pruned_record_counts_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let old: Vec<_> = (0..150).map(|n| record(n, "hello", 10, 3)).collect();
    let new: Vec<_> = (200..250).map(|n| record(n, "hello", 20, 5)).collect();
    ledger.post(&old).await.expect("post");
    ledger.post(&new).await.expect("post");
    let before = total(&ledger).await;
    assert_eq!(ledger.prune(15 * DAY).await.expect("prune"), 150);
    assert_eq!(ledger.find(old[0].id).await.expect("find"), None);
    assert!(ledger.find(new[0].id).await.expect("find").is_some());
    assert_eq!(total(&ledger).await, before);
    ledger.post(&old).await.expect("post");
    assert_eq!(total(&ledger).await, before);
    assert_eq!(ledger.prune(15 * DAY).await.expect("prune"), 0);
}

#[tokio::test]
async fn a_record_whose_id_and_start_a_set_clock_has_parted_goes_when_both_are_old() {
    let dir = tempfile::tempdir().expect("dir");
    let ledger = ledger(&dir).await;
    let (mut early, mut late) = (record(1, "hello", 10, 3), record(2, "hello", 20, 3));
    (early.id, late.id) = (late.id, early.id);
    ledger.post(&[early, late]).await.expect("post");
    assert_eq!(ledger.prune(15 * DAY).await.expect("prune"), 0);
    assert_eq!(ledger.prune(25 * DAY).await.expect("prune"), 2);
}

#[tokio::test]
async fn a_reader_waits_for_what_was_accepted_before_it_asked() {
    let dir = tempfile::tempdir().expect("dir");
    let settlement = Arc::new(Settlement::default());
    let ledger = Ledger::open(testing::db(&dir).await, settlement.clone()).await.expect("open");
    settlement.accept(1);
    let late = {
        let (ledger, settlement) = (ledger.clone(), settlement.clone());
        async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            ledger.post(&[record(1, "hello", 1, 1)]).await.expect("post");
            settlement.post(1);
        }
    };
    let (found, ()) = tokio::join!(ledger.find(record(1, "hello", 1, 1).id), late);
    assert!(found.expect("find").is_some());
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
    ledger.post(&records[..10_000]).await.expect("post");
    let (start, began) = (cpu(), std::time::Instant::now());
    for part in records[10_000..].chunks(500) {
        ledger.post(part).await.expect("post");
    }
    let (cpu, wall) = (cpu() - start, began.elapsed());
    println!("posting: {:.1} us CPU, {:.1} us wall a record", us(cpu) / 1e4, us(wall) / 1e4);
    assert!(cpu < Duration::from_secs(2), "{cpu:?}");
}

fn us(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}
