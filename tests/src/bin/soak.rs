//! A fleet under load while parts of it fail at random: `soak [SECONDS] [SEED]`. 30 minutes
//! unless told otherwise.

use std::time::Duration;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().map_or(Ok(1_800), |text| text.parse())?;
    let seed = match args.next() {
        Some(text) => text.parse()?,
        None => fastrand::u64(..),
    };
    println!("{seconds} s with seed {seed}");
    let report = flotilla_tests::soak::run(Duration::from_secs(seconds), seed).await;
    for (fault, count) in &report.faults {
        println!("{count:>5} × {fault}");
    }
    let (memory, files) = report.grown;
    println!("{}", report.tally);
    println!(
        "grown by at most {} KiB and {files} open files",
        memory / 1024
    );
    Ok(())
}
