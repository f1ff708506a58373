use super::*;
use crate::clock::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// 100 MB that take 100 ms: the break-even time is 3,333 s at the base price.
fn started() -> History {
    let mut history = History::new();
    history.started(Duration::from_millis(100), 100 << 20);
    history
}

fn after(gaps: impl IntoIterator<Item = u64>) -> History {
    let (mut history, mut now) = (started(), Duration::from_secs(1_000));
    history.arrived(now);
    for gap in gaps {
        now += Duration::from_secs(gap);
        history.arrived(now);
    }
    history
}

fn plan(history: &History) -> Plan {
    IndexPolicy.plan(history, &Asked::default(), BASE_PRICE)
}

fn index(history: &History, age: u64) -> f64 {
    IndexPolicy.index(history, &Asked::default(), Duration::from_secs(age))
}

#[test]
fn an_unknown_function_stays_for_a_part_of_its_break_even_time() {
    for history in [started(), after([])] {
        let plan = plan(&history);
        assert_eq!(plan.prewarm_at(), None);
        assert!(plan.linger > 10 * MINUTE && plan.linger < 60 * MINUTE, "{plan:?}");
    }
    let (young, old) = (index(&after([]), 1), index(&after([]), 3_000));
    assert!(young > old && old > 0.0);
}

#[test]
fn a_function_that_never_started_costs_nothing_and_saves_nothing() {
    let history = History::new();
    assert_eq!(index(&history, 5), 0.0);
    assert_eq!(plan(&history), Plan::stay(MERGE));
    assert_eq!(history.last_arrival(), None);
}

#[test]
fn one_gap_is_believed() {
    let plan = plan(&after([900]));
    assert!(
        plan.is_resident(Duration::from_secs(901)) && !plan.is_resident(Duration::from_secs(30_000)),
        "{plan:?}"
    );
}

#[test]
fn a_timer_leaves_at_once_and_is_warm_when_it_is_due() {
    let hourly = after([3_600; 100]);
    let plan = plan(&hourly);
    assert_eq!(plan.linger, MERGE);
    let due = Duration::from_secs(3_600);
    let at = plan.prewarm_at().expect("it comes back");
    assert!(at > 50 * MINUTE && at <= due, "{plan:?}");
    assert!(plan.is_resident(due) && !plan.is_resident(30 * MINUTE) && !plan.is_resident(120 * MINUTE));
    // Shortly before it is due it is worth more than right after its call.
    assert!(index(&hourly, 3_500) > 5.0 * index(&hourly, 60));
}

#[test]
fn sessions_are_waited_for_and_the_next_one_is_prewarmed() {
    // Calls each 30 s for some minutes, every four hours.
    let gaps = (0..40).flat_map(|_| [[30; 9].as_slice(), &[14_400]].concat());
    let plan = plan(&after(gaps));
    assert!(plan.linger >= Duration::from_secs(30) && plan.linger < 10 * MINUTE, "{plan:?}");
    assert!(plan.prewarm_at().is_some_and(|at| at > 180 * MINUTE), "{plan:?}");
}

#[test]
fn a_burst_is_one_event() {
    let mut history = started();
    for ms in 0..9_999 {
        history.arrived(Duration::from_millis(ms));
    }
    assert_eq!(history.gaps(), 0);
    for ms in 10_000..100_000 {
        history.arrived(Duration::from_millis(ms));
    }
    assert_eq!(history.gaps(), 9);
    // It is always busy, so that the next call is near, and it is worth much more than one of unknown habits.
    assert!(index(&history, 0) > 100.0 * index(&started(), 0));
    // The gap counts from the last call, not from the event.
    history.arrived(Duration::from_secs(99 + 3_600));
    let with_pause = plan(&history);
    assert!(with_pause.linger >= MERGE);
    assert_eq!(history.gaps(), 10);
}

#[test]
fn a_clock_that_jumps_does_no_harm() {
    let mut history = after([900, 900]);
    let last = history.last_arrival().expect("arrivals");
    history.arrived(Instant::ZERO);
    assert_eq!(history.last_arrival(), Some(last));
    assert_eq!(history.gaps(), 2);
    history.arrived(Duration::MAX);
    history.arrived(Duration::MAX);
    assert_eq!(history.gaps(), 3);
    assert!(index(&history, u64::MAX) == 0.0 && plan(&history).linger >= MERGE);
}

#[test]
fn sizes_and_costs_without_measure_give_numbers() {
    let sizes = [0, 1, 100 << 20, u64::MAX];
    let colds = [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1), Duration::MAX];
    let multipliers = [f64::NAN, f64::NEG_INFINITY, -1.0, 0.0, 1.0, f64::INFINITY];
    let prices = [f64::NAN, -1.0, 0.0, BASE_PRICE, f64::INFINITY];
    for bytes in sizes {
        for cold in colds {
            let mut history = after([900; 3]);
            (0..9).for_each(|_| history.started(cold, bytes));
            for cost_multiplier in multipliers {
                let asked = Asked { keep_alive: None, cost_multiplier };
                for age in [Duration::ZERO, MINUTE, Duration::MAX] {
                    let index = IndexPolicy.index(&history, &asked, age);
                    assert!(index.is_finite() && index >= 0.0, "{bytes} {cold:?} {cost_multiplier}: {index}");
                }
                for price in prices {
                    let plan = IndexPolicy.plan(&history, &asked, price);
                    assert!(plan.linger >= MERGE && plan.resident.from <= plan.resident.until);
                }
            }
        }
    }
}

#[test]
fn a_fixed_keep_alive_wins_over_the_plan_but_not_over_eviction() {
    let history = after([3_600; 100]);
    let asked = Asked { keep_alive: Some(MINUTE), ..Asked::default() };
    assert_eq!(IndexPolicy.plan(&history, &asked, BASE_PRICE), Plan::stay(MINUTE));
    let age = Duration::from_secs(70);
    assert_eq!(IndexPolicy.index(&history, &asked, age), index(&history, 70));
    let none = Asked { keep_alive: Some(Duration::ZERO), ..Asked::default() };
    assert!(!IndexPolicy.plan(&history, &none, BASE_PRICE).is_resident(Duration::ZERO));
}

#[test]
fn a_paid_tier_is_kept_for_longer() {
    let history = started();
    let paid = Asked { keep_alive: None, cost_multiplier: 4.0 };
    let linger = |asked: &Asked| IndexPolicy.plan(&history, asked, BASE_PRICE).linger;
    assert!(linger(&paid) > linger(&Asked::default()));
    let worth = IndexPolicy.index(&history, &paid, MINUTE) / index(&history, 60);
    assert!(worth > 2.0, "{worth}");
}

#[test]
fn pressure_raises_the_price_and_shortens_the_stay() {
    assert_eq!(price(0, 100), BASE_PRICE);
    assert_eq!(price(90, 100), BASE_PRICE);
    assert!((price(100, 100) / BASE_PRICE - 4.0).abs() < 1e-9);
    assert_eq!(price(u64::MAX, 0), BASE_PRICE);
    assert!(price(u64::MAX, 1).is_finite());
    let rising: Vec<f64> = (90..=120).map(|used| price(used, 100)).collect();
    assert!(rising.windows(2).all(|w| w[0] < w[1]));
    let history = started();
    let linger = |price| IndexPolicy.plan(&history, &Asked::default(), price).linger;
    assert!(linger(price(100, 100)) < linger(price(0, 100)));
}

#[test]
fn a_fit_is_used_again_until_enough_was_seen_or_the_price_has_moved() {
    let mut history = after([3_600; 200]);
    let before = plan(&history);
    let mut now = history.last_arrival().expect("arrivals");
    let mut unchanged = 0;
    for _ in 0..60 {
        now += Duration::from_secs(20);
        history.arrived(now);
        unchanged += u32::from(plan(&history) == before);
    }
    assert_eq!(unchanged, 4, "a fiftieth of 200");
    assert_ne!(plan(&history), before);
    let dear = IndexPolicy.plan(&history, &Asked::default(), 1e3);
    assert!(dear.linger < plan(&history).linger);
}

#[test]
fn a_packed_fit_comes_out_as_it_went_in() {
    let mut history = after([3_600; 100]);
    let fitted = plan(&history);
    assert_eq!(plan(&history.clone()), fitted);
    history.arrived(history.last_arrival().expect("arrivals") + MINUTE);
    assert_eq!(plan(&history), fitted);
}

#[test]
fn old_habits_are_forgotten() {
    let changed = after([20; 2_000].into_iter().chain([7_200; 1_200]));
    let new = after([7_200; 1_200]);
    let ratio = index(&changed, 60) / index(&new, 60);
    assert!((0.5..2.0).contains(&ratio), "{ratio}");
}

#[test]
fn live_averages_follow() {
    let mut history = started();
    assert!((history.cold_ms() - 100.0).abs() < 1e-3 && (history.resident_mb() - 100.0).abs() < 1e-3);
    (0..30).for_each(|_| history.started(Duration::from_millis(20), 10 << 20));
    assert!((history.cold_ms() - 20.0).abs() < 1.0 && (history.resident_mb() - 10.0).abs() < 1.0);
}

#[test]
fn an_explanation_says_it_in_numbers() {
    let history = after([3_600; 100]);
    let now = history.last_arrival().expect("arrivals") + MINUTE;
    let of =
        |history: &History, asked: &Asked| Explanation::of(&IndexPolicy, history, asked, BASE_PRICE, now);
    let timer = of(&history, &Asked::default());
    assert_eq!((timer.reason, timer.age_ms, timer.kept_until_ms), (Reason::Prewarm, Some(60_000), 10_000));
    assert!(timer.prewarm_at_ms.is_some_and(|at| at > 3_000_000) && timer.gaps == 100);
    let fixed = of(&history, &Asked { keep_alive: Some(MINUTE), ..Asked::default() });
    assert_eq!((fixed.reason, fixed.kept_until_ms, fixed.prewarm_at_ms), (Reason::Fixed, 60_000, None));
    assert_eq!(of(&started(), &Asked::default()).reason, Reason::Unused);
    assert_eq!(of(&after([20; 50]), &Asked::default()).reason, Reason::Worth);
    let json = serde_json::to_value(&timer).expect("plain values");
    assert_eq!(json["reason"], "prewarm");
    assert!(json["price"].as_f64() == Some(BASE_PRICE) && json["cold_ms"].is_number());
}

#[test]
fn a_history_outlives_its_process() {
    const UNIX_MS: i64 = 1_800_000_000_000;
    for gaps in [vec![], vec![3_600; 100], [[30; 9].as_slice(), &[14_400]].concat(), vec![20; 2_000]] {
        let history = after(gaps);
        let then = history.last_arrival().expect("arrivals") + MINUTE;
        let saved = SavedHistory::of(&history, then, UNIX_MS);
        let json = serde_json::to_string(&saved).expect("plain values");
        let read: SavedHistory = serde_json::from_str(&json).expect("as written");
        // Another process with another clock, an hour later.
        let now = Duration::from_secs(5_000_000);
        let restored = read.restore(now, UNIX_MS + 3_600_000).expect("of this format");
        assert_eq!(restored.last_arrival(), Some(now - 61 * MINUTE));
        assert_eq!((restored.gaps(), restored.cold_ms()), (history.gaps(), history.cold_ms()));
        let (before, after) = (plan(&history), plan(&restored));
        assert_eq!(before.prewarm_at().is_some(), after.prewarm_at().is_some());
        let near = |a: Duration, b: Duration| a.abs_diff(b) <= Duration::from_secs(1) + b / 50;
        assert!(near(after.linger, before.linger) && near(after.resident.until, before.resident.until));
        assert!((index(&restored, 900) / index(&history, 900) - 1.0).abs() < 0.05);
    }
}

#[test]
fn a_saved_history_of_another_time_or_make_does_no_harm() {
    let history = after([900, 900]);
    let saved = SavedHistory::of(&history, Duration::from_secs(4_000), 10_000_000);
    let now = Duration::from_secs(50_000);
    // The wall clock was set back, and far ahead.
    assert_eq!(saved.restore(now, 0).and_then(|h| h.last_arrival()), Some(now));
    assert_eq!(saved.restore(now, i64::MAX).and_then(|h| h.last_arrival()), Some(Instant::ZERO));
    let json = serde_json::to_value(&saved).expect("plain values");
    for (pointer, value) in [
        ("/format", serde_json::json!("vesta-history/2")),
        ("/cold_ms", serde_json::json!(-1.0)),
        ("/weights", serde_json::json!({ "72": 1.0 })),
        ("/weights", serde_json::json!({ "3": -1.0 })),
    ] {
        let mut json = json.clone();
        *json.pointer_mut(pointer).expect("a field") = value;
        let read: SavedHistory = serde_json::from_value(json).expect("of its shape");
        assert!(read.restore(now, 2_000_000).is_none(), "{pointer}");
    }
}
