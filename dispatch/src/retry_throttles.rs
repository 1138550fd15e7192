//! The budgets of retries of the models, shared by all requests of this controller.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flotilla_core::ModelName;
use flotilla_core::routing::RetryThrottle;
use parking_lot::Mutex;

/// Models whose budget is kept at the same time.
const MAX_MODELS: usize = 1_024;

/// The budgets of retries of the models. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct RetryThrottles {
    state: Arc<ThrottleState>,
}

#[derive(Debug, Default)]
struct ThrottleState {
    /// The budgets that are not full.
    throttles: Mutex<HashMap<ModelName, RetryThrottle>>,
    /// The number of `throttles`. While it is 0, answers need not take the lock.
    len: AtomicUsize,
}

impl RetryThrottles {
    /// Takes a token of the model for a retry at `now` seconds of [`crate::stats_clock`]. Returns `false` if
    /// there is none.
    pub(crate) fn take(&self, model: &ModelName, now: f32) -> bool {
        let mut throttles = self.state.throttles.lock();
        if throttles.len() >= MAX_MODELS {
            throttles.retain(|_, throttle| !throttle.is_full(now));
        }
        if throttles.len() >= MAX_MODELS && !throttles.contains_key(model) {
            return false;
        }
        let throttle = throttles
            .entry(model.clone())
            .or_insert_with(|| RetryThrottle::new(now));
        let allowed = throttle.take(now);
        self.state.len.store(throttles.len(), Ordering::Relaxed);
        allowed
    }

    /// Counts an answer of the model.
    pub(crate) fn record_answer(&self, model: &ModelName, now: f32) {
        if self.state.len.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut throttles = self.state.throttles.lock();
        if let Some(throttle) = throttles.get_mut(model) {
            throttle.record_answer(now);
            if throttle.is_full(now) {
                throttles.remove(model);
            }
        }
        self.state.len.store(throttles.len(), Ordering::Relaxed);
    }

    /// Returns whether the model has a token for a retry.
    pub(crate) fn allows_retry(&self, model: &ModelName, now: f32) -> bool {
        if self.state.len.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let throttles = self.state.throttles.lock();
        throttles
            .get(model)
            .is_none_or(|throttle| throttle.allows_retry(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_has_its_own_budget_which_is_forgotten_once_it_is_full() {
        let throttles = RetryThrottles::default();
        let [broken, healthy] = ["broken", "healthy"].map(|name| ModelName::new(name).unwrap());
        let allowed = (0..20).filter(|_| throttles.take(&broken, 0.0));
        assert_eq!(allowed.count(), 10);
        assert!(!throttles.allows_retry(&broken, 0.0) && throttles.allows_retry(&healthy, 0.0));
        for _ in 0..100 {
            throttles.record_answer(&broken, 0.0);
            throttles.record_answer(&healthy, 0.0);
        }
        assert!(throttles.allows_retry(&broken, 0.0));
        assert_eq!(throttles.state.len.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn number_of_models_is_bounded() {
        let throttles = RetryThrottles::default();
        for n in 0..2 * MAX_MODELS {
            let name = ModelName::new(&format!("m{n}")).unwrap();
            let taken = (0..20).filter(|_| throttles.take(&name, 0.0)).count();
            assert_eq!(taken, if n < MAX_MODELS { 10 } else { 0 }, "{n}");
        }
        assert_eq!(throttles.state.throttles.lock().len(), MAX_MODELS);
        // Budgets that time has filled make room, those of models that nobody uses any more too.
        let name = ModelName::new("later").unwrap();
        assert!(throttles.take(&name, 101.0));
        assert_eq!(throttles.state.throttles.lock().len(), 1);
    }
}
