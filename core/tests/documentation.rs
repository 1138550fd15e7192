//! The links of the documentation lead somewhere, and its examples of resources are valid.

// The functions that tests share fail a test by panicking.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use flotilla_core::spec::{API_VERSION, Resource, parse_documents};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// Markdown files outside `docs/`.
const FILES: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "deploy/README.md",
    "models/README.md",
    "core/data/README.md",
    "tests/python/README.md",
];

/// The parts of a Markdown file that the tests look at.
#[derive(Default)]
struct Page {
    /// Targets of links and images.
    links: Vec<String>,
    /// Anchors of the headings.
    anchors: BTreeSet<String>,
    /// Texts in backticks.
    code: Vec<String>,
    /// Code blocks in YAML.
    yaml: Vec<String>,
}

impl Page {
    fn read(path: &Path) -> Self {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let mut page = Self::default();
        let mut heading: Option<String> = None;
        let mut is_yaml = false;
        let mut repeated: HashMap<String, usize> = HashMap::new();
        for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    let count = repeated.entry(anchor.clone()).or_default();
                    page.anchors.insert(match *count {
                        0 => anchor,
                        count => format!("{anchor}-{count}"),
                    });
                    *count += 1;
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    is_yaml = &*language == "yaml";
                    if is_yaml {
                        page.yaml.push(String::new());
                    }
                }
                Event::End(TagEnd::CodeBlock) => is_yaml = false,
                Event::Text(text) => {
                    if let (true, Some(block)) = (is_yaml, page.yaml.last_mut()) {
                        block.push_str(&text);
                    }
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::Code(code) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&code);
                    }
                    page.code.push(code.into_string());
                }
                _ => {}
            }
        }
        page
    }
}

/// Returns the anchor of a heading, as GitHub and mdBook form it.
fn anchor(heading: &str) -> String {
    let characters = heading.trim().chars().flat_map(char::to_lowercase);
    characters
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the Markdown files under `folder`, relative to the repository.
fn markdown_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
        let name = entry.unwrap().file_name();
        let path = folder.join(name);
        if repository().join(&path).is_dir() {
            files.extend(markdown_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    files
}

/// Resolves `..` and `.` in a path relative to the repository.
fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// Returns the pages of the book and of the other Markdown files, by path.
fn pages() -> BTreeMap<PathBuf, Page> {
    let mut files: Vec<PathBuf> = FILES.iter().map(PathBuf::from).collect();
    files.extend(markdown_files(Path::new("docs")));
    let read = |file: PathBuf| (file.clone(), Page::read(&repository().join(file)));
    files.into_iter().map(read).collect()
}

#[test]
fn relative_links_and_anchors_lead_somewhere() {
    let pages = pages();
    let mut dead = Vec::new();
    for (file, page) in &pages {
        let relative = page
            .links
            .iter()
            .filter(|link| !link.contains("://") && !link.starts_with("mailto:"));
        for link in relative {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => normalize(&file.with_file_name("").join(path)),
            };
            let exists = repository().join(&target).exists();
            let has_anchor = anchor.is_empty()
                || pages
                    .get(&target)
                    .is_some_and(|page| page.anchors.contains(anchor));
            if !exists || !has_anchor {
                dead.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let docs = Path::new("docs");
    let summary = Page::read(&repository().join("docs/SUMMARY.md"));
    let listed: BTreeSet<PathBuf> = summary.links.iter().map(|link| docs.join(link)).collect();
    let mut pages = markdown_files(docs);
    pages.retain(|page| !page.ends_with("SUMMARY.md"));
    for page in pages {
        assert!(listed.contains(&page), "{page:?} is not in docs/SUMMARY.md");
    }
}

#[test]
fn paths_in_the_architecture_exist() {
    let page = Page::read(&repository().join("ARCHITECTURE.md"));
    let paths = page.code.iter().filter(|code| {
        // Not the keys of the store, and not texts with other characters than a path's.
        code.contains('/')
            && !code.starts_with('/')
            && code
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"/._-".contains(&c))
    });
    for path in paths {
        assert!(repository().join(path).exists(), "{path} does not exist");
    }
}

#[test]
fn resources_in_examples_are_valid() {
    let mut count = 0;
    for (file, page) in pages() {
        let documents = page
            .yaml
            .iter()
            .flat_map(|text| parse_documents(text).unwrap());
        for mut document in documents.filter(|document| document["apiVersion"] == API_VERSION) {
            // `flotilla apply` replaces it by the examples in the file.
            if let Some(spec) = document["spec"].as_object_mut() {
                spec.remove("examplesFrom");
            }
            let problem = Resource::from_json(document).err().map(|e| e.to_string());
            assert_eq!(problem, None, "{}", file.display());
            count += 1;
        }
    }
    assert!(count > 3, "{count} resources");
}
