use super::nvml::fake::FakeGpu;
use super::*;

fn channels(detected: &DetectedMeters) -> Vec<MeterChannel> {
    let meters = detected.meters.iter();
    meters.flat_map(|meter| meter.channels().to_vec()).collect()
}

fn selected(detected: &DetectedMeters, on_battery: bool) -> (Vec<String>, bool) {
    let channels = channels(detected);
    let ChannelSelection {
        channels: selected,
        covers_cpu,
    } = select(&channels, on_battery);
    let ids = selected.into_iter().map(|index| channels[index].id.clone());
    (ids.collect(), covers_cpu)
}

#[test]
fn a_machine_without_meters_gives_no_hint() {
    let root = sysfs::tree(&[]);
    let detected = detect(root.path(), Arc::new(FakeGpu::default()));
    assert!(detected.meters.is_empty() && detected.hints.is_empty());
    assert_eq!(selected(&detected, false), (Vec::new(), false));
}

#[test]
fn a_server_is_metered_by_packages_memory_and_gpus() {
    let root = sysfs::tree(&[
        ("sys/class/powercap/intel-rapl:0/name", "package-0"),
        ("sys/class/powercap/intel-rapl:0/energy_uj", "5"),
        (
            "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
            "262143328850",
        ),
        ("sys/class/powercap/intel-rapl:0:0/name", "dram"),
        ("sys/class/powercap/intel-rapl:0:0/energy_uj", "5"),
        (
            "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj",
            "65712999613",
        ),
        ("sys/class/powercap/intel-rapl:1/name", "psys"),
        ("sys/class/powercap/intel-rapl:1/energy_uj", "5"),
        (
            "sys/class/powercap/intel-rapl:1/max_energy_range_uj",
            "262143328850",
        ),
    ]);
    let detected = detect(root.path(), Arc::new(FakeGpu::one(Some(1), None)));
    let (ids, covers_cpu) = selected(&detected, false);
    assert_eq!(ids, ["rapl:package-0", "rapl:package-0/dram", "nvml:GPU-1"]);
    assert!(covers_cpu);
}

#[test]
fn a_jetson_is_metered_by_its_board() {
    let root = sysfs::tree(&[
        ("sys/class/hwmon/hwmon1/name", "ina3221"),
        ("sys/class/hwmon/hwmon1/in1_label", "VDD_IN"),
        ("sys/class/hwmon/hwmon1/in1_input", "5000"),
        ("sys/class/hwmon/hwmon1/curr1_input", "1000"),
        ("sys/class/hwmon/hwmon1/in2_label", "VDD_CPU_GPU_CV"),
        ("sys/class/hwmon/hwmon1/in2_input", "5000"),
        ("sys/class/hwmon/hwmon1/curr2_input", "100"),
    ]);
    let mut detected = detect(root.path(), Arc::new(FakeGpu::one(None, Some(900))));
    assert_eq!(
        selected(&detected, false),
        (vec!["hwmon:ina3221:VDD_IN".into()], true)
    );
    let read: Vec<_> = [0.0, 2.0]
        .map(|now| {
            detected
                .meters
                .iter_mut()
                .flat_map(|m| m.read(now))
                .collect()
        })
        .into();
    let joules: &Vec<Option<f64>> = &read[1];
    assert_eq!(joules[..2], [Some(1.8), Some(10.0)]);
}

#[test]
fn this_machine_can_be_metered() {
    let gpus: Arc<dyn Gpus> = Arc::new(Nvidia::load());
    let mut detected = detect(Path::new("/"), gpus.clone());
    for now in [0.0, 1.0] {
        for meter in &mut detected.meters {
            let joules = meter.read(now);
            assert_eq!(joules.len(), meter.channels().len());
            assert!(
                joules
                    .iter()
                    .flatten()
                    .all(|joules| (0.0..1e5).contains(joules))
            );
        }
    }
    ConditionWatcher::new(Path::new("/"), gpus).check();
}

#[test]
fn a_gpu_alone_does_not_cover_the_cpu() {
    let root = sysfs::tree(&[]);
    let detected = detect(root.path(), Arc::new(FakeGpu::one(Some(1), None)));
    assert_eq!(
        selected(&detected, false),
        (vec!["nvml:GPU-1".into()], false)
    );
}

#[test]
fn an_apu_is_not_added_to_its_package() {
    let amdgpu = [
        ("sys/class/hwmon/hwmon1/name", "amdgpu"),
        ("sys/class/hwmon/hwmon1/in1_label", "vddnb"),
        ("sys/class/hwmon/hwmon1/power1_input", "15000000"),
    ];
    let root = sysfs::tree(&amdgpu);
    let detected = detect(root.path(), Arc::new(FakeGpu::default()));
    assert_eq!(
        selected(&detected, false),
        (vec!["hwmon:amdgpu:hwmon1".into()], true)
    );
    sysfs::write(
        root.path(),
        "sys/class/powercap/intel-rapl:0/name",
        "package-0",
    );
    sysfs::write(
        root.path(),
        "sys/class/powercap/intel-rapl:0/energy_uj",
        "5",
    );
    sysfs::write(
        root.path(),
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
        "65532610987",
    );
    let detected = detect(root.path(), Arc::new(FakeGpu::default()));
    assert_eq!(
        selected(&detected, false),
        (vec!["rapl:package-0".into()], true)
    );
}

#[test]
fn channel_ids_are_unique() {
    let root = sysfs::tree(&[
        ("sys/class/hwmon/hwmon1/name", "amdgpu"),
        ("sys/class/hwmon/hwmon1/power1_input", "1"),
        ("sys/class/hwmon/hwmon2/name", "amdgpu"),
        ("sys/class/hwmon/hwmon2/power1_input", "1"),
        ("sys/class/hwmon/hwmon3/name", "power_meter"),
        ("sys/class/hwmon/hwmon3/power1_average", "1"),
        ("sys/class/hwmon/hwmon4/name", "power_meter"),
        ("sys/class/hwmon/hwmon4/power1_average", "1"),
    ]);
    let detected = detect(root.path(), Arc::new(FakeGpu::default()));
    let mut ids: Vec<_> = channels(&detected).into_iter().map(|c| c.id).collect();
    assert_eq!(ids.len(), 4);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}
