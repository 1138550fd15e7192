//! The metrics that requests record: how long they took, and their energy.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::ModelName;
use flotilla_core::energy::GpuUse;
use flotilla_core::generate::AnswerTiming;
use flotilla_engine::{ComputeDevice, LoadedModel};
use flotilla_telemetry::KeyValue;
use flotilla_telemetry::instruments::histogram;
use flotilla_telemetry::metrics::{BoundHistogram, Histogram, Meter};
use flotilla_telemetry::names::{self, attr};

use crate::energy_accounting::{EnergyAccounting, LedgerEntry, LoadingGuard, ModelRate};

/// The metrics that requests record, for all models.
#[derive(Clone)]
pub(crate) struct RequestMetrics {
    energy_accounting: EnergyAccounting,
    queue: Histogram<f64>,
    prefill: Histogram<f64>,
    decode: Histogram<f64>,
}

/// The metrics that requests record, for one model.
pub(crate) struct ModelMetrics {
    energy_accounting: EnergyAccounting,
    queue: BoundHistogram<f64>,
    prefill: BoundHistogram<f64>,
    decode: BoundHistogram<f64>,
}

impl RequestMetrics {
    /// Creates the instruments.
    pub(crate) fn new(energy_accounting: EnergyAccounting, meter: &Meter) -> Self {
        Self {
            energy_accounting,
            queue: histogram(meter, &names::QUEUE_DURATION),
            prefill: histogram(meter, &names::PREFILL_DURATION),
            decode: histogram(meter, &names::DECODE_DURATION),
        }
    }

    /// Returns the metrics of one model.
    pub(crate) fn for_model(&self, model: &ModelName) -> ModelMetrics {
        let attributes = [model_attribute(model)];
        ModelMetrics {
            energy_accounting: self.energy_accounting.clone(),
            queue: self.queue.bind(&attributes),
            prefill: self.prefill.bind(&attributes),
            decode: self.decode.bind(&attributes),
        }
    }
}

impl ModelMetrics {
    /// Opens the ledger entry of a request whose computation starts now.
    pub(crate) fn open_ledger_entry(&self, rate: Arc<ModelRate>) -> LedgerEntry {
        self.energy_accounting.open_entry(rate)
    }

    /// Records that the model begins to come or to go, until the guard is dropped.
    pub(crate) fn begin_loading(&self) -> LoadingGuard {
        self.energy_accounting.begin_loading()
    }

    /// The GPUs whose energy is that of the model's requests.
    pub(crate) fn gpu_use(&self, model: &dyn LoadedModel) -> GpuUse {
        match model.compute_device() {
            ComputeDevice::Processors => GpuUse::None,
            ComputeDevice::Gpu(uuid) => self.energy_accounting.gpu_use(uuid.as_deref()),
        }
    }

    /// Records how long a request waited in the queue.
    pub(crate) fn record_wait(&self, queued: Duration) {
        self.queue.record(queued.as_secs_f64());
    }

    /// Records how long the computation of a complete answer took.
    pub(crate) fn record_compute_time(&self, timing: AnswerTiming) {
        self.prefill.record(timing.prefill.as_secs_f64());
        self.decode.record(timing.decode.as_secs_f64());
    }
}

/// The attribute that names a model.
pub(crate) fn model_attribute(model: &ModelName) -> KeyValue {
    KeyValue::new(attr::MODEL, model.to_string())
}
