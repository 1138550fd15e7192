//! Prints the table of all metrics for `docs/telemetry.md`.

fn main() {
    print!("{}", flotilla_telemetry::names::markdown_table());
}
