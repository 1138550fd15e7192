//! A machine with a power meter that draws what a test says: powercap's files, as Linux has them.
//! No machine that tests run on has such a meter.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use flotilla_agent::energy_accounting::{AccountingSetup, EnergyAccounting};
use flotilla_agent::power::{Gpu, Gpus};
use tempfile::TempDir;

/// The counter's range in microjoules, as on Intel's processors.
const RANGE: u64 = 262_143_328_850;

/// The tree of a machine with one processor package.
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
    fn is_thermally_throttled(&self, _uuid: &str) -> bool {
        false
    }
    fn hint(&self) -> Option<String> {
        None
    }
}

impl FakeRapl {
    /// A machine whose counter stands at `microjoules`.
    ///
    /// # Panics
    /// When the tree cannot be written.
    #[must_use]
    pub fn new(microjoules: u64) -> Self {
        let fake = Self {
            root: tempfile::tempdir().expect("a temporary directory"),
        };
        fake.write("sys/class/powercap/intel-rapl:0/name", "package-0");
        let range = RANGE.to_string();
        fake.write(
            "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
            &range,
        );
        fake.draw_to(microjoules);
        fake
    }

    /// The counter's range.
    #[must_use]
    pub fn range() -> u64 {
        RANGE
    }

    /// The counter stands at so many microjoules from here on.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn draw_to(&self, microjoules: u64) {
        let counter = (microjoules % RANGE).to_string();
        self.write("sys/class/powercap/intel-rapl:0/energy_uj", &counter);
    }

    /// The machine lives off a battery that is so full, in percent.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn on_battery(&self, percent: u32) {
        let of = |file: &str| format!("sys/class/power_supply/BAT0/{file}");
        self.write(&of("type"), "Battery");
        self.write(&of("status"), "Discharging");
        self.write(&of("capacity"), &percent.to_string());
    }

    /// The energy accounting of the machine.
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
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
        // As a whole: a reader must not find half a number.
        let new = path.with_extension("new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, path).expect("a file");
    }
}
