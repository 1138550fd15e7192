//! The estimated energy of processors that no meter covers.

use flotilla_core::energy::PowerRange;

use super::cpu_meter::CpuSample;
use super::ledger_state::WindowCompute;

/// Estimates the joules that the processors used in a window of `seconds` beyond those of their idle power: the active
/// power in proportion to how busy the cores were. Without a CPU sample the
/// machine is assumed to be as busy as the requests make it.
pub(super) fn active_joules(
    power: PowerRange,
    seconds: f64,
    cpu: Option<CpuSample>,
    compute: WindowCompute,
) -> f64 {
    let busy_seconds = match cpu {
        Some(cpu) => cpu.machine / f64::from(cpu.cores) + compute.simulated_seconds,
        None => compute.seconds,
    };
    f64::from(power.dynamic_power().0) * busy_seconds.min(seconds)
}

/// Describes the estimate for users, with what to do for a better one.
pub(super) fn describe(power: PowerRange) -> String {
    let origin = if power.configured {
        "as configured"
    } else {
        "guessed from the number of cores: set --idle-watts and --max-watts for a better estimate"
    };
    format!(
        "no power meter covers the processors: their energy is estimated from processor time, {} W idle to {} W at full load, {origin}",
        power.idle.0, power.max.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::Watts;

    const POWER: PowerRange = PowerRange {
        idle: Watts(10.0),
        max: Watts(50.0),
        configured: true,
    };

    fn joules(cpu: Option<CpuSample>, compute: WindowCompute) -> f64 {
        active_joules(POWER, 2.0, cpu, compute)
    }

    #[test]
    fn joules_grow_with_busy_cores_up_to_full_load() {
        let cpu = |machine| {
            Some(CpuSample {
                machine,
                process: 0.0,
                cores: 4,
            })
        };
        let compute = WindowCompute::default();
        assert!((joules(cpu(0.0), compute)).abs() < 1e-6);
        assert!((joules(cpu(4.0), compute) - 40.0).abs() < 1e-6);
        assert!((joules(cpu(80.0), compute) - 80.0).abs() < 1e-6);
        let simulated = WindowCompute {
            seconds: 1.0,
            simulated_seconds: 1.0,
            ..compute
        };
        assert!((joules(cpu(0.0), simulated) - 40.0).abs() < 1e-6);
    }

    #[test]
    fn requests_stand_for_processor_time_where_none_is_known() {
        let compute = WindowCompute {
            seconds: 0.5,
            ..WindowCompute::default()
        };
        assert!((joules(None, compute) - 20.0).abs() < 1e-6);
    }

    #[test]
    fn a_guess_says_how_to_configure_the_power() {
        assert!(!describe(POWER).contains("--idle-watts"));
        let guess = PowerRange {
            configured: false,
            ..POWER
        };
        assert!(describe(guess).contains("--idle-watts"));
    }
}
