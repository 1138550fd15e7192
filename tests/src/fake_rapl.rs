//! A fake machine with a power meter that reads what a test sets, since the machines that run tests
//! have no meters. It is a folder with the files of Linux's powercap and power supplies.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use flotilla_agent::energy_accounting::{AccountingSetup, EnergyAccounting};
use flotilla_agent::power::{Gpu, Gpus};
use tempfile::TempDir;

/// The range of the energy counter in microjoules, as on Intel's processors.
const COUNTER_RANGE: u64 = 262_143_328_850;

/// A fake machine with one processor package and its RAPL energy counter.
pub struct FakeRapl {
    root: TempDir,
}

struct NoGpus;

impl Gpus for NoGpus {
    fn list(&self) -> Vec<Gpu> {
        Vec::new()
    }
    fn energy_millijoules(&self, _uuid: &str) -> Option<u64> {
        None
    }
    fn power_milliwatts(&self, _uuid: &str) -> Option<u32> {
        None
    }
    fn memory_bytes(&self, _uuid: &str) -> Option<u64> {
        None
    }
    fn process_memory(&self, _uuid: &str, _process: u32) -> Option<u64> {
        None
    }
    fn is_thermally_throttled(&self, _uuid: &str) -> bool {
        false
    }
    fn hint(&self) -> Option<String> {
        None
    }
}

impl FakeRapl {
    /// Creates a machine whose counter starts at this many microjoules.
    ///
    /// # Panics
    /// Panics if its files cannot be written.
    #[must_use]
    pub fn new(microjoules: u64) -> Self {
        let fake = Self {
            root: tempfile::tempdir().expect("a temporary directory can be created"),
        };
        fake.write("sys/class/powercap/intel-rapl:0/name", "package-0");
        fake.write(
            "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
            &COUNTER_RANGE.to_string(),
        );
        fake.set_counter(microjoules);
        fake
    }

    /// Returns the value in microjoules at which the counter wraps around.
    #[must_use]
    pub fn counter_range() -> u64 {
        COUNTER_RANGE
    }

    /// Sets the counter to this many microjoules, modulo its range.
    ///
    /// # Panics
    /// Panics if the file cannot be written.
    pub fn set_counter(&self, microjoules: u64) {
        let counter = (microjoules % COUNTER_RANGE).to_string();
        self.write("sys/class/powercap/intel-rapl:0/energy_uj", &counter);
    }

    /// Gives the machine a battery that discharges, with this charge in percent.
    ///
    /// # Panics
    /// Panics if the files cannot be written.
    pub fn set_battery(&self, percent: u32) {
        let path = |file: &str| format!("sys/class/power_supply/BAT0/{file}");
        self.write(&path("type"), "Battery");
        self.write(&path("status"), "Discharging");
        self.write(&path("capacity"), &percent.to_string());
    }

    /// Starts the energy accounting of the machine.
    #[must_use]
    pub fn energy_accounting(&self) -> EnergyAccounting {
        EnergyAccounting::start(AccountingSetup {
            root: self.root.path().to_owned(),
            gpus: Arc::new(NoGpus),
            power: None,
            cores: 4,
            agents: 1,
        })
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
            .expect("the folder can be created");
        // Replaced as a whole, so that a reader never sees half a number.
        let new = path.with_extension("new");
        fs::write(&new, text).expect("the file can be written");
        fs::rename(new, path).expect("the file can be replaced");
    }
}
