//! The rules of the source tree that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file of the library, by its path below `src`.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).expect("sources are text");
                let path = path.strip_prefix(&root).expect("below src").to_path_buf();
                sources.push((path, text));
            }
        }
    }
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

/// The code of a file without its comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default())
}

/// The models replace every primitive, so none may be named past the facade.
#[test]
fn only_sync_names_primitives() {
    let primitives = ["std::sync", "core::sync", "parking_lot", "loom::"];
    for (path, text) in sources() {
        if path == Path::new("sync.rs") {
            continue;
        }
        for line in code(&text) {
            let named = primitives.iter().find(|primitive| line.contains(**primitive));
            assert_eq!(named, None, "{}: {line}", path.display());
        }
    }
}

/// Whoever reviews `unsafe` has two places to look (and the models' cells in the facade).
#[test]
fn unsafe_lives_in_the_arena_and_the_lease() {
    for (path, text) in sources() {
        let allowed = ["arena", "lease"].iter().any(|place| path.starts_with(place))
            || ["arena.rs", "lease.rs", "sync.rs"].iter().any(|file| path == Path::new(file));
        let block = |line: &&str| line.contains("unsafe {") || line.contains("unsafe impl");
        if !allowed {
            assert_eq!(code(&text).find(block), None, "{}", path.display());
        }
    }
}

/// Imports run one way: no file names one that stands above it.
#[test]
fn imports_run_one_way() {
    let floors: [&[&str]; 16] = [
        &["sync", "limit", "clock", "priority"],
        &["error"],
        &["name", "magazine"],
        &["usage"],
        &["limits", "keyed"],
        &["registry", "subnet", "arena"],
        &["scope"],
        &["report"],
        &["connection"],
        &["lease"],
        &["reservation", "future"],
        &["stream"],
        &["guard"],
        &["admission"],
        &["governor"],
        &["lib", "design"],
    ];
    let floor = |module: &str| {
        floors.iter().position(|modules| modules.contains(&module)).unwrap_or_else(|| {
            panic!("{module} has no place yet in the order of imports");
        })
    };
    for (path, text) in sources() {
        let first = path.components().next().expect("a path").as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        for line in code(&text).filter(|line| line.trim_start().starts_with("use crate::")) {
            let used = line.trim_start().trim_start_matches("use crate::");
            let used: String =
                used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if used.is_empty() || used.starts_with(char::is_uppercase) || used == module {
                continue;
            }
            assert!(
                floor(&used) < floor(&module),
                "{} imports {used}, which stands no lower",
                path.display()
            );
        }
    }
}
