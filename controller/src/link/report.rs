//! The boundary for the numbers and texts of a node's reports. A report is what another machine says, and
//! everything that a controller serves is made of it, so that nothing in it may break the answers about
//! other nodes: JSON has no NaN, and sums must not overflow.

use flotilla_core::{StateVersion, StoreRevision};
use flotilla_proto::v1::{
    Battery, FileDefaults, ModelCounters, ModelStatus, NodeDisk, NodeEnergy, StatusReport,
};

use crate::fleet::ReportedStatus;

/// The most models in a report. More are ignored.
const MAX_MODELS: usize = 10_000;
/// The largest number of bytes that is believed: 1 EiB.
const MAX_BYTES: u64 = 1 << 60;
/// The largest number of requests at the same time that is believed.
const MAX_REQUESTS: u32 = 1 << 20;
/// The largest total since a start that is believed. JavaScript counts no further without loss.
const MAX_TOTAL: u64 = 1 << 53;
/// The largest power that is believed, in watts.
const MAX_WATTS: f32 = 1e7;
/// The largest energy that is believed, in joules.
const MAX_JOULES: f64 = 1e15;
/// The longest text of a report, in bytes.
const MAX_TEXT: usize = 8 << 10;
/// The most warnings about the files of a model.
const MAX_WARNINGS: usize = 20;

/// Returns what a report says, without what cannot be true, and whether there was any of that.
pub(super) fn checked(report: StatusReport) -> (ReportedStatus, bool) {
    let mut wrong = report.models.len() > MAX_MODELS;
    let models = report.models.into_iter().take(MAX_MODELS);
    let models = models
        .map(|status| checked_status(status, &mut wrong))
        .collect();
    let energy = report.energy.and_then(|energy| {
        let energy = checked_energy(energy);
        wrong |= energy.is_none();
        energy
    });
    let disk = report.disk.filter(|disk| {
        let NodeDisk {
            used_bytes,
            unneeded_bytes,
            budget_bytes,
        } = *disk;
        let valid = used_bytes <= MAX_BYTES
            && unneeded_bytes <= used_bytes
            && budget_bytes.unwrap_or_default() <= MAX_BYTES;
        wrong |= !valid;
        valid
    });
    let followed = StateVersion {
        epoch: report.epoch,
        revision: StoreRevision(report.store_revision),
    };
    // An epoch that cannot be true is named where it is compared with the store's.
    let valid = followed.revision.0 <= i64::MAX as u64;
    wrong |= !valid;
    let status = ReportedStatus {
        models,
        energy,
        followed: if valid {
            followed
        } else {
            StateVersion::default()
        },
        disk,
        stopping: report.stopping,
    };
    (status, wrong)
}

/// Returns the energy, or nothing if one of its numbers cannot be true: the others are then not to be
/// trusted either.
fn checked_energy(mut energy: NodeEnergy) -> Option<NodeEnergy> {
    let watts = [energy.watts, energy.idle_watts];
    let joules = [
        energy.joules,
        energy.attributed_joules,
        energy.resolution_joules,
    ];
    // Ranges contain no NaN.
    let valid = watts.iter().all(|watts| (0.0..=MAX_WATTS).contains(watts))
        && joules
            .iter()
            .all(|joules| (0.0..=MAX_JOULES).contains(joules))
        && energy
            .battery
            .is_none_or(|Battery { charge, .. }| (0.0..=1.0).contains(&charge));
    shorten(&mut energy.hint);
    shorten(&mut energy.throttle_reason);
    valid.then_some(energy)
}

/// Returns the status of a model with numbers that cannot be true replaced by "not known".
fn checked_status(mut status: ModelStatus, wrong: &mut bool) -> ModelStatus {
    for text in [
        &mut status.name,
        &mut status.error,
        &mut status.remedy,
        &mut status.loading_stage,
    ] {
        shorten(text);
    }
    for bytes in [&mut status.memory_bytes, &mut status.required_memory_bytes] {
        limit(bytes, MAX_BYTES, wrong);
    }
    for number in [&mut status.concurrency, &mut status.context_length] {
        if *number > i32::MAX as u32 {
            (*number, *wrong) = (0, true);
        }
    }
    if !(0.0..=1.0).contains(&status.loading_progress) {
        (status.loading_progress, *wrong) = (0.0, true);
    }
    if let Some(counters) = &mut status.counters {
        check_counters(counters, wrong);
    }
    status.file_defaults = status.file_defaults.take().and_then(|defaults| {
        let defaults = checked_defaults(defaults);
        *wrong |= defaults.is_none();
        defaults
    });
    status.replacement = status.replacement.take().map(|replacement| {
        let mut replacement = checked_status(*replacement, wrong);
        // A replacement is not replaced.
        replacement.replacement = None;
        Box::new(replacement)
    });
    status
}

fn check_counters(counters: &mut ModelCounters, wrong: &mut bool) {
    for number in [&mut counters.active, &mut counters.queued] {
        if *number > MAX_REQUESTS {
            (*number, *wrong) = (0, true);
        }
    }
    for total in [
        &mut counters.requests,
        &mut counters.cancelled,
        &mut counters.failed,
        &mut counters.refused,
        &mut counters.prompt_tokens,
        &mut counters.output_tokens,
        &mut counters.wait_us,
        &mut counters.busy_us,
        &mut counters.millijoules,
        &mut counters.model_faults,
    ] {
        limit(total, MAX_TOTAL, wrong);
    }
}

/// Returns the defaults of a model's files, or nothing if one of the numbers is none.
fn checked_defaults(mut defaults: FileDefaults) -> Option<FileDefaults> {
    shorten(&mut defaults.source);
    defaults.warnings.truncate(MAX_WARNINGS);
    defaults.warnings.iter_mut().for_each(shorten);
    let numbers = defaults.sampling.iter().flat_map(|sampling| {
        [
            sampling.temperature,
            sampling.top_p,
            sampling.min_p,
            sampling.repetition_penalty.map(f64::from),
            sampling.frequency_penalty.map(f64::from),
            sampling.presence_penalty.map(f64::from),
        ]
    });
    let all_finite = numbers.flatten().all(f64::is_finite);
    all_finite.then_some(defaults)
}

/// Sets a number above `max` to 0.
fn limit(number: &mut u64, max: u64, wrong: &mut bool) {
    if *number > max {
        (*number, *wrong) = (0, true);
    }
}

/// Cuts a text off at [`MAX_TEXT`] bytes.
fn shorten(text: &mut String) {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn energy(watts: f32) -> NodeEnergy {
        NodeEnergy {
            watts,
            ..NodeEnergy::default()
        }
    }

    #[test]
    fn numbers_that_cannot_be_true_are_left_out() {
        for watts in [f32::NAN, f32::INFINITY, -1.0, 1e30] {
            let report = StatusReport {
                energy: Some(energy(watts)),
                ..StatusReport::default()
            };
            let (status, wrong) = checked(report);
            assert_eq!((status.energy, wrong), (None, true), "{watts}");
        }
        let status = ModelStatus {
            memory_bytes: u64::MAX,
            concurrency: u32::MAX,
            loading_progress: f32::NAN,
            counters: Some(ModelCounters {
                active: u32::MAX,
                queued: 3,
                requests: u64::MAX,
                model_faults: u64::MAX,
                ..ModelCounters::default()
            }),
            ..ModelStatus::default()
        };
        let nested = ModelStatus {
            replacement: Some(Box::new(ModelStatus {
                replacement: Some(Box::default()),
                ..status.clone()
            })),
            ..status
        };
        let report = StatusReport {
            models: vec![nested],
            epoch: 1,
            store_revision: u64::MAX,
            ..StatusReport::default()
        };
        let (status, wrong) = checked(report);
        assert!(wrong);
        assert_eq!(status.followed, StateVersion::default());
        let model = &status.models[0];
        let replacement = model.replacement.as_deref().unwrap();
        assert_eq!(replacement.replacement, None);
        for model in [model, replacement] {
            assert_eq!((model.memory_bytes, model.concurrency), (0, 0));
            assert_eq!(model.loading_progress, 0.0);
            let counters = model.counters.unwrap();
            assert_eq!(
                (counters.active, counters.queued, counters.requests),
                (0, 3, 0)
            );
            assert_eq!(counters.model_faults, 0);
        }
    }

    #[test]
    fn a_report_of_a_healthy_node_is_unchanged() {
        let report = StatusReport {
            models: vec![ModelStatus {
                name: "m".into(),
                memory_bytes: 7,
                loading_progress: 0.5,
                ..ModelStatus::default()
            }],
            energy: Some(energy(12.5)),
            epoch: 1,
            store_revision: 9,
            ..StatusReport::default()
        };
        let (status, wrong) = checked(report.clone());
        assert!(!wrong);
        assert_eq!(
            (status.models, status.energy),
            (report.models, report.energy)
        );
        assert_eq!(status.followed.revision, StoreRevision(9));
    }
}
