//! The shared libraries that llama.cpp computes with: one for each kind of CPU, and one for each kind of accelerator.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use llama_cpp_2::LlamaBackendDeviceType;
use llama_cpp_2::list_llama_ggml_backend_devices;
use llama_cpp_2::llama_backend::load_backends_from_path;

use crate::LoadError;

/// The environment variable that names the directory of the libraries.
const DIRECTORY_VARIABLE: &str = "FLOTILLA_LIBRARY_DIR";
/// How the names of the libraries for CPUs begin.
const CPU_LIBRARY: &str = "libggml-cpu-";
/// How the names of all libraries that compute begin, and that of the one that they have in common.
const LIBRARY: &str = "libggml-";
const COMMON_LIBRARY: &str = "libggml-base";

/// Loads the library that fits this machine's CPU best, and those of its accelerators, at the first call.
///
/// # Errors
/// [`LoadError::NoLibraries`] and [`LoadError::UnusableLibraries`].
pub(super) fn load() -> Result<(), LoadError> {
    static LOADED: OnceLock<Result<(), LoadError>> = OnceLock::new();
    let load = || {
        let program = std::env::current_exe().ok();
        load_from(&directories(
            program.as_deref(),
            std::env::var_os(DIRECTORY_VARIABLE),
        ))
    };
    LOADED.get_or_init(load).clone()
}

/// Returns the directories where the libraries may be: the `named` one, or else the directory of the program (in a
/// build tree) and `lib/flotilla` beside it (`/usr/lib/flotilla` of `/usr/bin/flotilla`).
fn directories(program: Option<&Path>, named: Option<OsString>) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![named.into()];
    }
    let Some(beside) = program.and_then(Path::parent) else {
        return Vec::new();
    };
    let installed = beside.parent().map(|prefix| prefix.join("lib/flotilla"));
    std::iter::once(beside.to_owned())
        .chain(installed)
        .collect()
}

fn load_from(directories: &[PathBuf]) -> Result<(), LoadError> {
    let has_libraries =
        |directory: &&PathBuf| file_names(directory).any(|name| name.starts_with(CPU_LIBRARY));
    let Some(directory) = directories.iter().find(has_libraries) else {
        return Err(LoadError::NoLibraries(directories.to_vec()));
    };
    // llama.cpp takes no other path.
    if directory.to_str().is_none() {
        return Err(LoadError::UnusableLibraries(directory.clone()));
    }
    load_backends_from_path(directory);
    let has_cpu = list_llama_ggml_backend_devices()
        .iter()
        .any(|device| device.device_type == LlamaBackendDeviceType::Cpu);
    if !has_cpu {
        return Err(LoadError::UnusableLibraries(directory.clone()));
    }
    let libraries = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let libraries = computing_libraries(&libraries).join(", ");
    let directory = directory.display();
    tracing::info!(libraries, %directory, "loaded the libraries of llama.cpp");
    Ok(())
}

fn file_names(directory: &Path) -> impl Iterator<Item = String> {
    let files = std::fs::read_dir(directory).into_iter().flatten();
    files.filter_map(|file| file.ok()?.file_name().into_string().ok())
}

/// Returns what the loaded libraries compute on, such as `cpu-haswell` and `vulkan`, from Linux's list of the files
/// that are mapped into the process. llama.cpp does not say which it has chosen.
fn computing_libraries(maps: &str) -> Vec<&str> {
    let paths = maps.lines().filter_map(|line| line.rsplit_once('/'));
    let mut libraries: Vec<_> = paths
        .filter(|(_, name)| !name.starts_with(COMMON_LIBRARY))
        .filter_map(|(_, name)| name.strip_prefix(LIBRARY)?.split_once(".so"))
        .map(|(library, _)| library)
        .collect();
    libraries.sort_unstable();
    libraries.dedup();
    libraries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_beside_the_program_or_in_its_prefix() {
        let program = Some(Path::new("/usr/bin/flotilla"));
        let expected = [PathBuf::from("/usr/bin"), "/usr/lib/flotilla".into()];
        assert_eq!(directories(program, None), expected);
        let named = directories(program, Some("/opt/libraries".into()));
        assert_eq!(named, [PathBuf::from("/opt/libraries")]);
        assert!(directories(None, None).is_empty());
    }

    #[test]
    fn missing_libraries_are_an_error_that_names_the_directories() {
        let empty = tempfile::tempdir().unwrap();
        let directories = [empty.path().to_owned(), "/nowhere".into()];
        let error = load_from(&directories).unwrap_err().to_string();
        let path = empty.path().display();
        assert!(error.contains(&format!("{path} or /nowhere")), "{error}");
    }

    #[test]
    fn chosen_libraries_are_named() {
        let maps = "\
            7f0000000000-7f0000001000 r-xp 00000000 08:01 1 /usr/lib/flotilla/libggml-cpu-zen4.so\n\
            7f0000001000-7f0000002000 r--p 00001000 08:01 1 /usr/lib/flotilla/libggml-cpu-zen4.so\n\
            7f0000002000-7f0000003000 r-xp 00000000 08:01 2 /usr/lib/flotilla/libggml-base.so.0.12.0\n\
            7f0000003000-7f0000004000 r-xp 00000000 08:01 3 /usr/lib/flotilla/libggml-vulkan.so\n\
            7f0000004000-7f0000005000 rw-p 00000000 00:00 0 [heap]\n";
        assert_eq!(computing_libraries(maps), ["cpu-zen4", "vulkan"]);
    }
}
