use super::super::sensor::meter;
use super::super::{Meter, rails};
use super::*;

fn detected(files: &[(&str, &str)]) -> Vec<(String, ComponentKind, Option<String>)> {
    let root = sysfs::tree(files);
    let mut sensors = detect(&root.path().join(""), Some("rapl:package-0"));
    rails::set_parents(&mut sensors);
    let channels = sensors.into_iter().map(|sensor| sensor.channel);
    channels.map(|c| (c.id, c.kind, c.parent)).collect()
}

#[test]
fn a_board_without_a_total_is_metered_by_its_rails() {
    let channels = detected(&[
        ("sys/class/hwmon/hwmon3/name", "ina3221"),
        ("sys/class/hwmon/hwmon3/in1_label", "VDD_GPU_SOC"),
        ("sys/class/hwmon/hwmon3/in1_input", "18792"),
        ("sys/class/hwmon/hwmon3/curr1_input", "140"),
        ("sys/class/hwmon/hwmon3/in3_label", "VIN_SYS_5V0"),
        ("sys/class/hwmon/hwmon3/in3_input", "4968"),
        ("sys/class/hwmon/hwmon3/curr3_input", "980"),
        ("sys/class/hwmon/hwmon3/in4_input", "280"),
        ("sys/class/hwmon/hwmon3/curr4_input", "360"),
        ("sys/class/hwmon/hwmon3/in7_label", "sum of shunt voltages"),
        ("sys/class/hwmon/hwmon3/in7_input", "760"),
        ("sys/class/hwmon/hwmon4/name", "ina3221"),
        ("sys/class/hwmon/hwmon4/in1_label", "VDD_CPU"),
        ("sys/class/hwmon/hwmon4/in1_enable", "0"),
        ("sys/class/hwmon/hwmon4/in1_input", "1"),
        ("sys/class/hwmon/hwmon4/curr1_input", "1"),
        ("sys/class/hwmon/hwmon4/in2_label", "VDDQ_VDD2_1V8AO"),
        ("sys/class/hwmon/hwmon4/in2_input", "4968"),
        ("sys/class/hwmon/hwmon4/curr2_input", "80"),
    ]);
    let system = "hwmon:ina3221:VIN_SYS_5V0".to_owned();
    assert_eq!(
        channels,
        [
            ("hwmon:ina3221:VDD_GPU_SOC".into(), ComponentKind::Gpu, None),
            (system.clone(), ComponentKind::Memory, None),
            (
                "hwmon:ina3221:VDDQ_VDD2_1V8AO".into(),
                ComponentKind::Memory,
                Some(system)
            ),
        ]
    );
}

#[test]
fn energy_is_voltage_times_current_over_time() {
    let root = sysfs::tree(&[
        ("sys/class/hwmon/hwmon3/name", "ina3221"),
        ("sys/class/hwmon/hwmon3/update_interval", "33"),
        ("sys/class/hwmon/hwmon3/in1_label", "VDD_IN"),
        ("sys/class/hwmon/hwmon3/in1_input", "5000"),
        ("sys/class/hwmon/hwmon3/curr1_input", "2000"),
    ]);
    let mut meter = meter(detect(root.path(), None)).unwrap();
    assert!((meter.channels()[0].period - 0.033).abs() < 1e-9);
    assert_eq!(meter.read(1.0), [Some(0.0)]);
    assert_eq!(meter.read(1.5), [Some(5.0)]);
    std::fs::remove_dir_all(root.path().join("sys/class/hwmon/hwmon3")).unwrap();
    assert_eq!(meter.read(2.0), [None]);
}

#[test]
fn the_first_input_rail_is_the_parent_of_the_others() {
    let rail = |number: u32, name: &str, label: &str| {
        let file = |end: &str| format!("sys/class/hwmon/hwmon{number}/{end}");
        [
            (file("name"), name.to_owned()),
            (file("label"), label.to_owned()),
            (file("power1_input"), "1".to_owned()),
        ]
    };
    let files: Vec<_> = [
        rail(1, "ina238", "VIN"),
        rail(2, "ina226", "VDD_IN"),
        rail(3, "ina219", ""),
    ]
    .concat();
    let files: Vec<_> = files
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let board = Some("hwmon:ina238:VIN".to_owned());
    assert_eq!(
        detected(&files),
        [
            ("hwmon:ina238:VIN".into(), ComponentKind::Host, None),
            ("hwmon:ina226:VDD_IN".into(), ComponentKind::Host, board),
        ]
    );
}

#[test]
fn a_gpu_is_one_channel_and_an_apu_is_a_processor() {
    let channels = detected(&[
        ("sys/class/hwmon/hwmon0/name", "amdgpu"),
        ("sys/class/hwmon/hwmon0/power1_average", "1"),
        ("sys/class/hwmon/hwmon0/power1_cap", "1"),
        ("sys/class/hwmon/hwmon1/name", "xe"),
        ("sys/class/hwmon/hwmon1/energy1_input", "1"),
        ("sys/class/hwmon/hwmon1/energy2_input", "1"),
        ("sys/class/hwmon/hwmon2/name", "amdgpu"),
        ("sys/class/hwmon/hwmon2/in1_label", "vddnb"),
        ("sys/class/hwmon/hwmon2/power1_input", "1"),
    ]);
    assert_eq!(
        channels,
        [
            ("hwmon:amdgpu:hwmon0".into(), ComponentKind::Gpu, None),
            ("hwmon:xe:hwmon1".into(), ComponentKind::Gpu, None),
            (
                "hwmon:amdgpu:hwmon2".into(),
                ComponentKind::Cpu,
                Some("rapl:package-0".into())
            ),
        ]
    );
}

#[test]
fn an_acpi_meter_measures_the_machine_unless_it_names_a_component() {
    let meter = |number: u32, info: &str| {
        let file = |end: &str| format!("sys/class/hwmon/hwmon{number}/{end}");
        [
            (file("name"), "power_meter".to_owned()),
            (file("device/power1_average"), "1".to_owned()),
            (file("device/power1_oem_info"), info.to_owned()),
        ]
    };
    let files: Vec<_> = [
        meter(1, "Grace Power Socket 0"),
        meter(2, "CPU Power Socket 0"),
        meter(3, "SysIO Power Socket 0"),
        meter(4, ""),
    ]
    .concat();
    let files: Vec<_> = files
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    assert_eq!(
        detected(&files),
        [
            (
                "hwmon:power_meter:Grace Power Socket 0".into(),
                ComponentKind::Cpu,
                None
            ),
            ("hwmon:power_meter:power1".into(), ComponentKind::Host, None),
        ]
    );
}

#[test]
fn unknown_chips_are_ignored() {
    for name in [
        "BAT0",
        "nvme",
        "amd_energy",
        "i915_gt0",
        "corsairpsu",
        "ina",
        "inaxyz",
        "",
    ] {
        let channels = detected(&[
            ("sys/class/hwmon/hwmon0/name", name),
            ("sys/class/hwmon/hwmon0/power1_label", "total"),
            ("sys/class/hwmon/hwmon0/power1_input", "1"),
            ("sys/class/hwmon/hwmon0/energy1_input", "1"),
        ]);
        assert_eq!(channels, [], "{name}");
    }
}

#[test]
fn apples_smc_measures_the_whole_machine() {
    let channels = detected(&[
        ("sys/class/hwmon/hwmon0/name", "macsmc_hwmon"),
        (
            "sys/class/hwmon/hwmon0/power1_label",
            "Total CPU Core Power",
        ),
        ("sys/class/hwmon/hwmon0/power1_input", "1"),
        ("sys/class/hwmon/hwmon0/power2_label", "Total System Power"),
        ("sys/class/hwmon/hwmon0/power2_input", "1"),
    ]);
    let system = "hwmon:macsmc_hwmon:Total System Power".to_owned();
    assert_eq!(channels[0].2, Some(system.clone()));
    assert_eq!(channels[1], (system, ComponentKind::Host, None));
}
