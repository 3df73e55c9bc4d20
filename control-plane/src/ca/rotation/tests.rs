use super::*;

const HOUR: u64 = 60 * 60 * 1000;
const YEAR: u64 = 365 * DAY_MS;

fn facts(now_ms: u64) -> Facts {
    Facts {
        now_ms,
        acked_since_ms: Some(0),
        going_until_ms: 0,
        going_in_use: 0,
        going_ends_ms: YEAR,
    }
}

fn begun() -> Rotation {
    Rotation::begin(Why::Operator, HOUR, 2 * HOUR, 0)
}

#[test]
fn the_new_root_signs_when_all_have_acked_and_all_older_certificates_have_ended() {
    let all = facts(2 * HOUR);
    assert_eq!(begun().due(&all), Ok(Act::Switch));
    let none = Facts {
        acked_since_ms: None,
        ..all
    };
    assert_eq!(begun().due(&none), Err(vec![Wait::Acks]));
    let early = facts(2 * HOUR - 1);
    assert_eq!(begun().due(&early), Err(vec![Wait::Certificates(2 * HOUR)]));
}

#[test]
fn who_reads_the_bundle_from_a_file_has_time_for_that() {
    let acked = 2 * HOUR - 1000;
    let facts = |now| Facts {
        acked_since_ms: Some(acked),
        ..facts(now)
    };
    let read = acked + HOUR / READ_AGAIN_SHARE;
    assert_eq!(
        begun().due(&facts(read - 1)),
        Err(vec![Wait::Readers(read)])
    );
    assert_eq!(begun().due(&facts(read)), Ok(Act::Switch));
}

#[test]
fn the_old_root_goes_when_nobody_needs_it() {
    let signs = Rotation {
        tokens_ms: 4 * HOUR,
        ..begun().switched(2 * HOUR)
    };
    let waits = Facts {
        going_until_ms: 3 * HOUR,
        going_in_use: 2,
        ..facts(2 * HOUR)
    };
    assert_eq!(
        signs.due(&waits),
        Err(vec![
            Wait::Certificates(3 * HOUR),
            Wait::InUse(2),
            Wait::Tokens(4 * HOUR)
        ])
    );
    assert_eq!(signs.due(&facts(4 * HOUR)), Ok(Act::Finish));
}

#[test]
fn a_root_that_has_ended_is_waited_for_by_nobody_but_the_operator() {
    let ended = Facts {
        acked_since_ms: None,
        going_in_use: 3,
        going_until_ms: 2 * YEAR,
        ..facts(YEAR)
    };
    assert_eq!(begun().due(&ended), Ok(Act::Switch));
    assert_eq!(begun().switched(0).due(&ended), Ok(Act::Finish));
    let paused = begun().pause().unwrap();
    assert_eq!(paused.due(&ended), Err(vec![Wait::Operator]));
    assert_eq!(paused.resume().unwrap().due(&ended), Ok(Act::Switch));
}

#[test]
fn an_abort_ends_a_rotation_that_nobody_relies_on_and_takes_back_another() {
    assert_eq!(begun().abort(HOUR), Ok(Aborted::Over));
    let Ok(Aborted::Back(back)) = begun().switched(2 * HOUR).abort(3 * HOUR) else {
        panic!("the new root has signed");
    };
    assert!(back.undoing && back.step == Step::Sign);
    let waits = Facts {
        going_until_ms: 5 * HOUR,
        ..facts(4 * HOUR)
    };
    assert_eq!(back.due(&waits), Err(vec![Wait::Certificates(5 * HOUR)]));
    assert_eq!(back.abort(4 * HOUR), Err(Refused::Undoing));
}

#[test]
fn a_root_is_replaced_at_half_of_its_life_or_a_month_before_its_end() {
    assert_eq!(due_at(0, 10 * YEAR), 10 * YEAR - 30 * DAY_MS);
    assert_eq!(due_at(DAY_MS, 11 * DAY_MS), 6 * DAY_MS);
}
