//! The share of a channel's energy that requests may be charged for.

use flotilla_core::energy::MeteredPart;

use super::cpu_meter::CpuSample;
use super::ledger_state::WindowCompute;

/// Returns the share (0 to 1) of the energy of a part above idle that the requests of this process may be
/// charged for: this process's share of the busy processor time.
///
/// Returns 1 where processor time does not show it: on a GPU, in another process, or where it cannot
/// be read. `estimates_cpu`: whether the processors' energy is estimated, so that simulated requests
/// count as busy cores.
pub(super) fn request_share(
    part: MeteredPart,
    cpu: Option<CpuSample>,
    compute: WindowCompute,
    estimates_cpu: bool,
) -> f64 {
    let is_shown = match part {
        MeteredPart::Processors => !compute.in_other_process,
        MeteredPart::Node => !compute.in_other_process && !compute.on_gpu,
        MeteredPart::Gpu(_) => false,
    };
    let Some(cpu) = cpu.filter(|_| is_shown) else {
        return 1.0;
    };
    let simulated = if estimates_cpu {
        compute.simulated_seconds * f64::from(cpu.cores)
    } else {
        0.0
    };
    let busy = cpu.machine + simulated;
    if busy > 0.0 {
        (cpu.process + simulated) / busy
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: CpuSample = CpuSample {
        machine: 4.0,
        process: 1.0,
        cores: 2,
    };

    fn share(cpu: CpuSample, compute: WindowCompute, estimates_cpu: bool) -> f64 {
        request_share(MeteredPart::Processors, Some(cpu), compute, estimates_cpu)
    }

    #[test]
    fn requests_are_charged_for_the_processor_time_of_their_process() {
        let idle = WindowCompute::default();
        assert!((share(CPU, idle, false) - 0.25).abs() < 1e-9);
        let simulated = WindowCompute {
            simulated_seconds: 2.0,
            ..idle
        };
        assert!((share(CPU, simulated, false) - 0.25).abs() < 1e-9);
        assert!((share(CPU, simulated, true) - 0.625).abs() < 1e-9);
    }

    #[test]
    fn requests_are_charged_for_all_where_processor_time_does_not_tell() {
        let idle = WindowCompute::default();
        let elsewhere = WindowCompute {
            in_other_process: true,
            ..idle
        };
        let no_time = CpuSample {
            machine: 0.0,
            process: 0.0,
            cores: 2,
        };
        let on_gpu = WindowCompute {
            on_gpu: true,
            ..idle
        };
        let of = |part, cpu, compute| request_share(part, cpu, compute, true);
        let node = of(MeteredPart::Node, Some(CPU), idle);
        assert!((node - 0.25).abs() < 1e-9);
        for share in [
            of(MeteredPart::Processors, None, idle),
            of(MeteredPart::Gpu(0), Some(CPU), idle),
            of(MeteredPart::Node, Some(CPU), on_gpu),
            share(CPU, elsewhere, true),
            share(no_time, idle, true),
        ] {
            assert!((share - 1.0).abs() < 1e-9);
        }
    }
}
