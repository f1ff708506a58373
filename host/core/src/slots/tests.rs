use super::*;

const MS: u64 = 1_000_000;
const NEVER: u64 = u64::MAX;

fn slots(slots: u32) -> Slots {
    Slots::new(SlotsConfig { slots, waiting_max: 100, waiting_tenant_max: 50, quantum_ns: 10 * MS })
}

fn tenant(name: &str) -> TenantName {
    name.parse().expect("a label")
}

/// A run of one slot whose estimate is `ms` milliseconds.
fn job(ms: u64) -> Job {
    let ns = ms * MS;
    Job { width: 1, estimate_cpu_ns: ns, estimate_wall_ns: ns, deadline_ns: NEVER, held_bytes: 1 }
}

fn wide(width: u32, ms: u64) -> Job {
    Job { width, ..job(ms) }
}

fn add(slots: &mut Slots, name: &str, job: Job) -> JobId {
    slots.enqueue(&tenant(name), job, 0).expect("room")
}

/// Everything that may start now.
fn starts(slots: &mut Slots) -> Vec<JobId> {
    std::iter::from_fn(|| slots.next(0))
        .map(|turn| match turn {
            Turn::Start(id) => id,
            Turn::Drop(id) => panic!("{id:?} dropped"),
        })
        .collect()
}

/// One slot, two tenants that always have a run waiting: how often each starts while `steps` runs end.
fn compete(a: (Job, u64), b: (Job, u64), steps: usize) -> (u64, u64) {
    let (mut slots, mut runs, mut cpu_ms) = (slots(1), HashMap::new(), (0, 0));
    let refill = |slots: &mut Slots, runs: &mut HashMap<JobId, bool>| {
        for (is_a, name, job) in [(true, "a", &a.0), (false, "b", &b.0)] {
            while slots.waiting_of(&tenant(name)) < 2 {
                runs.insert(add(slots, name, job.clone()), is_a);
            }
        }
    };
    for _ in 0..steps {
        refill(&mut slots, &mut runs);
        let id = starts(&mut slots)[0];
        refill(&mut slots, &mut runs);
        if runs[&id] {
            cpu_ms.0 += a.1;
            slots.finished(id, a.1 * MS);
        } else {
            cpu_ms.1 += b.1;
            slots.finished(id, b.1 * MS);
        }
    }
    cpu_ms
}

#[test]
fn given_free_slots_runs_start_at_once_and_never_more_than_fit() {
    let mut slots = slots(2);
    let ids: Vec<JobId> = (0..3).map(|_| add(&mut slots, "a", job(1))).collect();
    assert_eq!(starts(&mut slots), ids[..2]);
    assert_eq!((slots.waiting(), slots.running(), slots.free()), (1, 2, 0));
    assert!(slots.finished(ids[0], MS));
    assert_eq!(starts(&mut slots), ids[2..]);
}

#[test]
fn given_a_run_that_ended_when_it_ends_again_nothing_changes() {
    let mut slots = slots(1);
    let id = add(&mut slots, "a", job(1));
    assert!(!slots.finished(id, MS), "it has not begun");
    starts(&mut slots);
    assert!(slots.finished(id, MS));
    assert!(!slots.finished(id, MS));
    assert_eq!((slots.running(), slots.free()), (0, 1));
}

#[test]
fn given_a_width_beyond_the_slots_the_run_takes_all_of_them() {
    let mut slots = slots(4);
    let (all, none) = (add(&mut slots, "a", wide(9, 1)), add(&mut slots, "a", wide(0, 1)));
    assert_eq!(starts(&mut slots), [all]);
    assert_eq!(slots.free(), 0);
    slots.finished(all, MS);
    assert_eq!(starts(&mut slots), [none]);
    assert_eq!(slots.free(), 3);
}

#[test]
fn given_a_heavy_tenants_queue_when_another_tenant_comes_it_has_the_next_free_slot() {
    let mut slots = slots(1);
    let heavy: Vec<JobId> = (0..20).map(|_| add(&mut slots, "heavy", job(1_000))).collect();
    for pair in heavy.windows(2).take(5) {
        assert_eq!(starts(&mut slots), [pair[0]]);
        let short = add(&mut slots, "short", job(1));
        slots.finished(pair[0], 1_000 * MS);
        assert_eq!(starts(&mut slots), [short]);
        slots.finished(short, MS);
    }
}

#[test]
fn given_two_tenants_with_a_backlog_each_gets_the_same_cpu_time() {
    let (a, b) = compete((job(30), 30), (job(10), 10), 400);
    assert!(a.abs_diff(b) <= 40, "{a} ms and {b} ms");
}

#[test]
fn given_wrong_estimates_the_cpu_time_used_decides() {
    for (a, b) in [((job(1), 30), (job(10), 10)), ((job(300), 30), (job(10), 10))] {
        let (a, b) = compete(a, b, 400);
        assert!(a.abs_diff(b) <= 40, "{a} ms and {b} ms");
    }
}

#[test]
fn given_a_long_idle_time_a_tenant_gains_no_more_than_a_quantum() {
    let mut slots = slots(1);
    let busy: Vec<JobId> = (0..50).map(|_| add(&mut slots, "busy", job(10))).collect();
    for id in &busy[..40] {
        assert_eq!(starts(&mut slots), [*id]);
        slots.finished(*id, 10 * MS);
    }
    let idle: Vec<JobId> = (0..20).map(|_| add(&mut slots, "idle", job(10))).collect();
    let mut ahead = 0i32;
    for _ in 0..20 {
        let id = starts(&mut slots)[0];
        ahead += if idle.contains(&id) { 1 } else { -1 };
        assert!((-2..=2).contains(&ahead), "ahead by {ahead} runs of a quantum each");
        slots.finished(id, 10 * MS);
    }
}

#[test]
fn given_an_estimate_that_rounds_paid_for_while_nothing_waited_the_rest_is_not_given_back() {
    let mut slots = slots(2);
    let long = add(&mut slots, "a", job(200));
    starts(&mut slots);
    let busy: Vec<JobId> = (0..50).map(|_| add(&mut slots, "b", job(10))).collect();
    for id in &busy[..20] {
        assert_eq!(starts(&mut slots), [*id]);
        slots.finished(*id, 10 * MS);
    }
    // Tenant a was granted about 200 ms meanwhile, and used 1 ms of them.
    let own: Vec<JobId> = (0..20).map(|_| add(&mut slots, "a", job(10))).collect();
    slots.finished(long, MS);
    let mut of_a = 0;
    for _ in 0..10 {
        for id in starts(&mut slots) {
            of_a += u32::from(own.contains(&id));
            slots.finished(id, 10 * MS);
        }
    }
    assert!((8..=12).contains(&of_a), "{of_a} of 20 runs were of tenant a");
}

#[test]
fn given_debt_when_a_tenant_has_been_away_for_a_moment_it_still_has_it() {
    let mut slots = slots(1);
    let first = add(&mut slots, "a", job(1_000));
    assert_eq!(starts(&mut slots), [first]);
    let others: Vec<JobId> = (0..3).map(|_| add(&mut slots, "b", job(10))).collect();
    slots.finished(first, 1_000 * MS);
    let again = add(&mut slots, "a", job(10));
    for id in others {
        assert_eq!(starts(&mut slots), [id]);
        slots.finished(id, 10 * MS);
    }
    assert_eq!(starts(&mut slots), [again]);
}

#[test]
fn given_nobody_waits_debts_are_forgiven_and_tenants_forgotten() {
    let mut slots = slots(2);
    let (a, b) = (add(&mut slots, "a", job(1_000)), add(&mut slots, "b", job(1)));
    starts(&mut slots);
    assert_eq!(slots.tenants(), 2);
    slots.finished(a, 1_000 * MS);
    assert_eq!(slots.tenants(), 1);
    slots.finished(b, MS);
    assert_eq!(slots.tenants(), 0);
}

#[test]
fn given_the_last_waiting_run_is_cancelled_debts_are_forgiven_too() {
    let mut slots = slots(1);
    let a = add(&mut slots, "a", job(1_000));
    starts(&mut slots);
    let b = add(&mut slots, "b", job(1));
    slots.finished(a, 1_000 * MS);
    assert_eq!(slots.tenants(), 2);
    slots.cancel(b);
    assert_eq!(slots.tenants(), 0);
}

#[test]
fn given_a_debt_when_rounds_have_passed_the_idle_tenant_is_forgotten() {
    let mut slots = slots(1);
    let a = add(&mut slots, "a", job(15));
    starts(&mut slots);
    let busy: Vec<JobId> = (0..9).map(|_| add(&mut slots, "b", job(10))).collect();
    slots.finished(a, 15 * MS);
    let mut tenants = Vec::new();
    for id in &busy[..6] {
        starts(&mut slots);
        slots.finished(*id, 10 * MS);
        tenants.push(slots.tenants());
    }
    // Each run of b takes a round; the round that begins at 20 ms is the first after its debt.
    assert_eq!(tenants, [2, 2, 1, 1, 1, 1]);
}

#[test]
fn given_a_debt_of_many_rounds_they_pass_at_once() {
    let config = SlotsConfig { slots: 1, waiting_max: 9, waiting_tenant_max: 9, quantum_ns: 0 };
    let mut slots = Slots::new(config);
    for _ in 0..5 {
        let huge = Job { estimate_cpu_ns: u64::MAX, ..job(0) };
        let (one, two) = (add(&mut slots, "a", huge.clone()), add(&mut slots, "b", huge));
        assert_eq!(starts(&mut slots), [one]);
        slots.finished(one, u64::MAX);
        assert_eq!(starts(&mut slots), [two]);
        slots.finished(two, u64::MAX);
    }
}

#[test]
fn given_a_tenant_alone_with_long_runs_a_new_tenant_is_ahead_by_the_run_under_way_and_a_quantum_at_most() {
    let mut slots = slots(1);
    let long: Vec<JobId> = (0..6).map(|_| add(&mut slots, "long", job(200))).collect();
    for id in &long[..4] {
        assert_eq!(starts(&mut slots), [*id]);
        slots.finished(*id, 200 * MS);
    }
    assert_eq!(starts(&mut slots), long[4..5]);
    let new: Vec<JobId> = (0..40).map(|_| add(&mut slots, "new", job(10))).collect();
    slots.finished(long[4], 200 * MS);
    let first: Vec<JobId> = new
        .iter()
        .copied()
        .take_while(|_| {
            let id = starts(&mut slots)[0];
            slots.finished(id, 10 * MS);
            id != long[5]
        })
        .collect();
    assert!((19..=21).contains(&first.len()), "{} runs", first.len());
}

#[test]
fn given_a_wide_run_that_is_next_backlogged_tenants_leave_it_the_free_slots() {
    let mut slots = slots(2);
    let a: Vec<JobId> = (0..4).map(|_| add(&mut slots, "a", job(20))).collect();
    assert_eq!(starts(&mut slots), a[..2]);
    let both = add(&mut slots, "b", wide(2, 20));
    slots.finished(a[0], 20 * MS);
    assert_eq!(starts(&mut slots), [], "one slot is free, and kept");
    slots.finished(a[1], 20 * MS);
    assert_eq!(starts(&mut slots), [both]);
}

#[test]
fn given_a_wide_run_in_debt_that_waits_a_short_run_of_a_tenant_with_credit_goes_first() {
    let mut slots = slots(2);
    let wides: Vec<JobId> = (0..2).map(|_| add(&mut slots, "w", wide(2, 50))).collect();
    assert_eq!(starts(&mut slots), wides[..1]);
    let a: Vec<JobId> = (0..2).map(|_| add(&mut slots, "a", job(100))).collect();
    slots.finished(wides[0], 50 * MS);
    assert_eq!(starts(&mut slots), a[..1]);
    let short = add(&mut slots, "short", job(1));
    assert_eq!(starts(&mut slots), [short]);
    slots.finished(short, MS);
    assert_eq!(starts(&mut slots), []);
    slots.finished(a[0], 100 * MS);
    assert_eq!(starts(&mut slots), wides[1..]);
}

#[test]
fn given_full_queues_the_refusal_names_the_bound() {
    let config = SlotsConfig { slots: 1, waiting_max: 3, waiting_tenant_max: 2, quantum_ns: MS };
    let mut slots = Slots::new(config);
    let (a, b, c) = (tenant("a"), tenant("b"), tenant("c"));
    for _ in 0..2 {
        slots.enqueue(&a, job(1), 0).expect("room");
    }
    let refused = slots.enqueue(&a, job(1), 0).expect_err("full");
    assert_eq!(refused, SlotsError::TenantQueueFull { max: 2 });
    assert!(refused.to_string().starts_with("2 inferences of this tenant"));
    slots.enqueue(&b, job(1), 0).expect("room");
    assert_eq!(slots.enqueue(&c, job(1), 0), Err(SlotsError::QueueFull { max: 3 }));
    assert_eq!((slots.waiting(), slots.held_bytes(), slots.tenants()), (3, 3, 2));
    assert!(matches!(slots.next(0), Some(Turn::Start(_))));
    slots.enqueue(&c, job(1), 0).expect("one has started");
}

#[test]
fn given_a_run_that_is_cancelled_it_leaves_the_queue_at_once() {
    let mut slots = slots(1);
    let ids: Vec<JobId> = (0..4).map(|_| add(&mut slots, "a", job(1))).collect();
    starts(&mut slots);
    assert!(slots.cancel(ids[1]), "the head");
    assert!(slots.cancel(ids[2]));
    assert!(!slots.cancel(ids[2]), "only once");
    assert!(!slots.cancel(ids[0]), "it runs");
    assert_eq!((slots.waiting(), slots.waiting_of(&tenant("a")), slots.held_bytes()), (1, 1, 1));
    slots.finished(ids[0], MS);
    assert_eq!(starts(&mut slots), ids[3..]);
    assert_eq!(slots.next_drop_ns(), None);
}

#[test]
fn given_a_wide_run_that_is_cancelled_the_slots_kept_for_it_are_given_on() {
    let mut slots = slots(2);
    let one = add(&mut slots, "a", job(50));
    starts(&mut slots);
    let both = add(&mut slots, "b", wide(2, 1));
    let next = add(&mut slots, "a", job(50));
    assert_eq!(starts(&mut slots), []);
    slots.cancel(both);
    assert_eq!(starts(&mut slots), [next]);
    assert_eq!(slots.tenants(), 1);
    slots.finished(one, MS);
}

#[test]
fn given_a_deadline_that_cannot_be_met_the_run_is_refused_or_dropped_and_never_started() {
    let mut slots = slots(1);
    let a = tenant("a");
    let by = |deadline_ms: u64| Job { deadline_ns: deadline_ms * MS, ..job(10) };
    assert_eq!(
        slots.enqueue(&a, by(14), 5 * MS),
        Err(SlotsError::TooLate { needed_ns: 10 * MS, left_ns: 9 * MS })
    );
    assert_eq!(slots.enqueue(&a, by(4), 5 * MS), Err(SlotsError::TooLate { needed_ns: 10 * MS, left_ns: 0 }));
    let first = slots.enqueue(&a, by(15), 5 * MS).expect("just in time");
    assert_eq!(slots.next(5 * MS), Some(Turn::Start(first)));
    let (late, tight) = (slots.enqueue(&a, by(40), 5 * MS), slots.enqueue(&a, by(20), 5 * MS));
    assert_eq!(slots.next_drop_ns(), Some(10 * MS + 1));
    assert_eq!(slots.next(10 * MS), None, "it could still start");
    assert_eq!(slots.next(10 * MS + 1), Some(Turn::Drop(tight.expect("room"))), "though no slot is free");
    assert_eq!(slots.next(10 * MS + 1), None);
    assert_eq!(slots.held_bytes_of(&a), 1);
    slots.finished(first, 10 * MS);
    assert_eq!(slots.next(31 * MS), Some(Turn::Drop(late.expect("room"))));
    assert_eq!((slots.next(31 * MS), slots.held_bytes(), slots.tenants()), (None, 0, 0));
}

#[test]
fn what_waiting_runs_hold_is_counted_until_they_start() {
    let mut slots = slots(1);
    let held = |held_bytes| Job { held_bytes, ..job(1) };
    let first = add(&mut slots, "a", held(100));
    let second = add(&mut slots, "a", held(20));
    let third = add(&mut slots, "b", held(3));
    let books = |s: &Slots| (s.held_bytes(), s.held_bytes_of(&tenant("a")), s.held_bytes_of(&tenant("b")));
    assert_eq!(books(&slots), (123, 120, 3));
    assert_eq!(starts(&mut slots), [first]);
    assert_eq!(books(&slots), (23, 20, 3));
    slots.cancel(second);
    assert_eq!(books(&slots), (3, 0, 3));
    slots.cancel(third);
    assert_eq!(books(&slots), (0, 0, 0));
}
