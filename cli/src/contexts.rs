//! The fleets that this user has logged in to: the file of contexts, as kubectl has one.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// The variable that names another file.
const FILE_VARIABLE: &str = "FLOTILLA_CONFIG";
/// The file below the home directory.
const DEFAULT_FILE: &str = ".config/flotilla/config.yaml";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The longest output of a command that prints a key, in bytes.
const MAX_KEY: usize = 4_096;

/// The contexts of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The name of the context that commands use by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current_context: Option<String>,
    #[serde(default)]
    pub(crate) contexts: Vec<FleetContext>,
}

/// A fleet, and the key for it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FleetContext {
    pub(crate) name: String,
    pub(crate) url: String,
    /// A PEM file with further certificate authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// A command, with its arguments, that prints the API key. It is run for each command that needs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) key_command: Vec<String>,
}

// Errors and logs must not show the key.
impl std::fmt::Debug for FleetContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetContext")
            .field("name", &self.name)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Contexts {
    /// Returns a context by name.
    ///
    /// # Errors
    /// Returns an error with the remedy if there is none.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<&FleetContext> {
        let mut contexts = self.contexts.iter();
        contexts.find(|context| context.name == name).with_context(|| {
            format!("there is no context '{name}': `flotilla context list` lists them, `flotilla login URL` adds one")
        })
    }

    /// Returns the context that a command uses: the named one, else the current one, if there is one.
    ///
    /// # Errors
    /// Those of [`Contexts::get`].
    pub(crate) fn select(&self, name: Option<&str>) -> anyhow::Result<Option<&FleetContext>> {
        let name = name.or(self.current_context.as_deref());
        name.map(|name| self.get(name)).transpose()
    }

    /// Adds a context, in place of one of its name, and makes it the current one.
    pub(crate) fn set_current(&mut self, context: FleetContext) {
        self.current_context = Some(context.name.clone());
        self.contexts.retain(|other| other.name != context.name);
        self.contexts.push(context);
    }

    /// Makes a context the current one.
    ///
    /// # Errors
    /// Those of [`Contexts::get`].
    pub(crate) fn use_context(&mut self, name: &str) -> anyhow::Result<()> {
        self.current_context = Some(self.get(name)?.name.clone());
        Ok(())
    }

    /// Removes a context. There is no current one afterwards if it was that.
    ///
    /// # Errors
    /// Those of [`Contexts::get`].
    pub(crate) fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        self.get(name)?;
        self.contexts.retain(|other| other.name != name);
        self.current_context.take_if(|current| current == name);
        Ok(())
    }
}

impl FleetContext {
    /// Returns the key: the one in the file, or what the command prints.
    ///
    /// # Errors
    /// Returns an error if the command fails or prints no key.
    pub(crate) fn key(&self) -> anyhow::Result<Option<String>> {
        let Some((program, args)) = self.key_command.split_first() else {
            return Ok(self.key.clone());
        };
        let name = &self.name;
        let mut command = Command::new(program);
        command.args(args).stderr(Stdio::inherit());
        let output = command.output().with_context(|| {
            format!("cannot run the keyCommand '{program}' of the context '{name}'")
        })?;
        if !output.status.success() {
            bail!(
                "the keyCommand '{program}' of the context '{name}' has failed: {}",
                output.status
            );
        }
        let key = String::from_utf8(output.stdout).unwrap_or_default();
        let key = key.trim();
        if key.is_empty() || key.len() > MAX_KEY {
            bail!("the keyCommand '{program}' of the context '{name}' prints no key");
        }
        Ok(Some(key.to_owned()))
    }
}

/// Returns the file of contexts.
///
/// # Errors
/// Returns an error if the user has no home directory and the variable is not set.
pub(crate) fn file() -> anyhow::Result<PathBuf> {
    if let Some(file) = std::env::var_os(FILE_VARIABLE).filter(|file| !file.is_empty()) {
        return Ok(file.into());
    }
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let home = home.with_context(|| format!("there is no home directory: set {FILE_VARIABLE}"))?;
    Ok(home.join(DEFAULT_FILE))
}

/// Reads the contexts from `file`; without a file there are none. Warns if others can read it.
///
/// # Errors
/// Returns an error with the file if it cannot be read or is not what [`save`] writes.
pub(crate) fn load(file: &Path) -> anyhow::Result<Contexts> {
    let context = || format!("cannot read the contexts in {}", file.display());
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contexts::default()),
        Err(error) => return Err(error).with_context(context),
    };
    if metadata.permissions().mode() & 0o077 != 0 {
        eprintln!(
            "warning: other users may read the keys in {0}: run `chmod 600 {0}`",
            file.display()
        );
    }
    if metadata.len() > MAX_FILE {
        bail!("{}: it is too large", context());
    }
    let text = std::fs::read_to_string(file).with_context(context)?;
    if text.trim().is_empty() {
        return Ok(Contexts::default());
    }
    // The error of the parser has the position, and the line only where it names a field.
    serde_yaml_ng::from_str(&text).with_context(context)
}

/// Writes the contexts to `file`, which only this user can read then.
///
/// # Errors
/// Returns an error with the file if it cannot be written.
pub(crate) fn save(file: &Path, contexts: &Contexts) -> anyhow::Result<()> {
    let text = serde_yaml_ng::to_string(contexts)?;
    flotilla_durable::replace(file, text.as_bytes())
        .with_context(|| format!("cannot write the contexts to {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(name: &str) -> FleetContext {
        FleetContext {
            name: name.into(),
            url: format!("https://{name}"),
            ca_file: None,
            key: Some("flt_secret".into()),
            key_command: Vec::new(),
        }
    }

    #[test]
    fn contexts_are_kept_in_a_file_that_only_the_user_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new").join("config.yaml");
        assert_eq!(load(&file).unwrap(), Contexts::default());
        let mut contexts = Contexts::default();
        contexts.set_current(context("a"));
        contexts.set_current(context("b"));
        save(&file, &contexts).unwrap();
        assert_eq!(load(&file).unwrap(), contexts);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&file, "contexts: 7").unwrap();
        assert!(load(&file).unwrap_err().to_string().contains("config.yaml"));
    }

    #[test]
    fn a_command_uses_the_named_context_or_the_current_one() {
        let mut contexts = Contexts::default();
        assert_eq!(contexts.select(None).unwrap(), None);
        contexts.set_current(context("a"));
        contexts.set_current(context("b"));
        let name =
            |contexts: &Contexts, named| contexts.select(named).map(|c| c.map(|c| c.name.clone()));
        assert_eq!(name(&contexts, None).unwrap().as_deref(), Some("b"));
        assert_eq!(name(&contexts, Some("a")).unwrap().as_deref(), Some("a"));
        assert!(name(&contexts, Some("c")).is_err());
        contexts.use_context("a").unwrap();
        contexts.remove("a").unwrap();
        assert_eq!(name(&contexts, None).unwrap(), None);
        assert!(contexts.remove("a").is_err());
    }

    #[test]
    fn the_key_is_that_of_the_file_or_of_the_command() {
        let mut context = context("a");
        assert_eq!(context.key().unwrap().as_deref(), Some("flt_secret"));
        context.key_command = vec!["printf".into(), "flt_other\n".into()];
        assert_eq!(context.key().unwrap().as_deref(), Some("flt_other"));
        context.key_command = vec!["false".into()];
        assert!(context.key().is_err());
        assert!(!format!("{context:?}").contains("flt_secret"));
    }
}
