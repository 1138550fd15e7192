//! A minute of what `make soak` does for half an hour.

use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_random_faults_ends_in_agreement() {
    let report = flotilla_tests::soak::run(Duration::from_secs(60), 7).await;
    assert!(report.tally.requests > 100, "{report:?}");
}
