//! Soaks a fleet: keeps it under load while random parts of it fail. `soak [SECONDS] [SEED]`, by default
//! 30 minutes and a random seed.

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
    println!("{}", report.tally);
    println!(
        "no process has grown by more than {} KiB and {} open files",
        report.growth.memory / 1024,
        report.growth.files
    );
    Ok(())
}
