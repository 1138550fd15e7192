//! Whether a path stays inside folders.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Whether `path` is one of the folders `roots` or lies below one, after all links have been followed. A folder
/// that does not exist contains nothing. A path that does not exist is judged by its text, so that the answer for
/// paths outside does not depend on what is there.
///
/// # Errors
/// Those of the disk.
pub fn is_below(path: &Path, roots: &[PathBuf]) -> io::Result<bool> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let leads_up = path.components().any(|part| part == Component::ParentDir);
            return Ok(!leads_up && roots.iter().any(|root| path.starts_with(root)));
        }
        Err(error) => return Err(error),
    };
    let roots = roots.iter().filter_map(|root| root.canonicalize().ok());
    Ok(roots.into_iter().any(|root| path.starts_with(root)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_parent_folders_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("rootless"));
        for folder in [&root, &outside] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("file"), "").unwrap();
        }
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        let roots = [dir.path().join("absent"), root.clone()];
        let below = |path: &Path| is_below(path, &roots).ok();
        assert_eq!(below(&root), Some(true));
        assert_eq!(below(&root.join("file")), Some(true));
        assert_eq!(below(&root.join("link/file")), Some(false));
        assert_eq!(below(&root.join("../rootless/file")), Some(false));
        assert_eq!(below(&outside), Some(false));
        assert_eq!(below(&root.join("absent")), Some(true));
        assert_eq!(below(&root.join("../absent")), Some(false));
        assert_eq!(below(&outside.join("absent")), Some(false));
        assert_eq!(is_below(&root, &[]).ok(), Some(false));
    }
}
