//! What `/proc` says of processes, of those that a test has started and of theirs.

use std::fs;

/// Returns the number of files that a process has open.
///
/// # Panics
/// Panics if the process has ended.
#[must_use]
pub fn open_files(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/fd"))
        .expect("the process runs")
        .count()
}

/// Returns the memory of a process that is in RAM, in bytes.
///
/// # Panics
/// Panics if the process has ended.
#[must_use]
pub fn resident_bytes(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/statm")).expect("the process runs");
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("the second field of statm is a number");
    // SAFETY: sysconf reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page).expect("a page has a size")
}

/// Returns the ids of the runners that an agent has started for a model: the children of the process `agent`
/// with the model on their command line.
#[must_use]
pub fn runners(agent: u32, model: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| parent(*id) == Some(agent) && is_runner(*id, model))
        .collect()
}

/// Returns whether a process runs. One that has ended and that nobody has waited for does not.
#[must_use]
pub fn is_running(id: u32) -> bool {
    fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|command| !command.is_empty())
}

/// Sends a signal, such as [`libc::SIGKILL`], to a process of which nobody has waited for the end.
///
/// # Panics
/// Panics if there cannot be such an id.
pub fn send_signal(id: u32, signal: i32) {
    let id = i32::try_from(id).expect("process ids are small");
    // SAFETY: kill only sends a signal.
    unsafe {
        libc::kill(id, signal);
    }
}

fn parent(id: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

fn is_runner(id: u32, model: &str) -> bool {
    let command = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let arguments: Vec<&str> = command.split('\0').collect();
    arguments.contains(&"runner") && arguments.contains(&model)
}
