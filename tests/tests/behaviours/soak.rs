//! One minute of the soak that `make soak` runs for half an hour.

use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn fleet_settles_after_each_of_a_minute_of_random_faults() {
    let report = flotilla_tests::soak::run(Duration::from_secs(60), 7).await;
    assert!(report.tally.requests > 100, "{report:?}");
}
