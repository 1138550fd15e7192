//! Runs the fake upstream server, whose modes `tests/src/fake_upstream.rs` lists. Prints its port on a
//! line of its own and serves until it is killed.
//!
//! `cargo run --release --workspace --bin fake_upstream`

use flotilla_tests::FakeUpstream;

#[tokio::main]
async fn main() {
    let server = FakeUpstream::start().await;
    println!("{}", server.address().port());
    std::future::pending::<()>().await;
}
