//! The rules of the source tree that no compiler checks.

use std::collections::BTreeSet;
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

/// The core needs no runtime.
#[test]
fn only_io_names_tokio() {
    for (path, text) in sources() {
        if path != Path::new("io.rs") {
            let named = code(&text).find(|line| line.contains("tokio::"));
            assert_eq!(named, None, "{}", path.display());
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
    let floors: [&[&str]; 19] = [
        &["sync", "limit", "clock", "priority", "ranges", "try_box"],
        &["error", "request", "counters"],
        &["name", "testing"],
        &["usage"],
        &["limits", "keyed"],
        &["registry", "subnet", "arena"],
        &["magazine", "report"],
        &["summary"],
        &["scope"],
        &["connection"],
        &["lease"],
        &["reservation", "future"],
        &["handle"],
        &["stream", "guard"],
        &["governed"],
        &["admission"],
        &["governor"],
        &["io", "metrics"],
        &["lib", "design"],
    ];
    let floor = |module: &str| {
        floors.iter().position(|modules| modules.contains(&module)).unwrap_or_else(|| {
            panic!("{module} has no place yet in the order of imports");
        })
    };
    let mut against = Vec::new();
    for (path, text) in sources() {
        let first = path.components().next().expect("a path").as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        // The root only lists the modules.
        let depth = path.components().count();
        for used in used_modules(&text, depth).into_iter().filter(|_| module != "lib") {
            if used != module && floor(&used) >= floor(&module) {
                against.push(format!("{} names {used}, which stands no lower", path.display()));
            }
        }
    }
    assert!(against.is_empty(), "{}", against.join("\n"));
}

/// The modules of the crate that a file's code names after `crate::`, or after as many `super::` as lead
/// from there to the root: in imports or elsewhere, one by one or as a group. What it names in the
/// crate's root itself counts as the root's, `lib`. The file is a module this `depth` below the root.
fn used_modules(text: &str, depth: usize) -> BTreeSet<String> {
    let code: String = code(text).flat_map(|line| line.chars().chain(['\n'])).collect();
    let after_crate = code.match_indices("crate::").map(|(at, found)| &code[at + found.len()..]);
    let after_super = code.match_indices("super::").filter_map(|(at, _)| {
        let supers = depth + inline_modules(&code[..at]);
        code[at..].strip_prefix(&"super::".repeat(supers))
    });
    let mut used = BTreeSet::new();
    for path in after_crate.chain(after_super) {
        let group = path.strip_prefix('{').map(members);
        for name in group.unwrap_or_else(|| vec![path]) {
            let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
            let name: String = name.trim_start().chars().take_while(is_name).collect();
            let is_module = name.starts_with(char::is_lowercase);
            used.insert(if is_module { name } else { "lib".into() });
        }
    }
    used
}

/// How many `mod name {` are open at the end of this code.
fn inline_modules(code: &str) -> usize {
    let mut open = Vec::new();
    for (at, brace) in code.match_indices(['{', '}']) {
        if brace == "}" {
            open.pop();
        } else {
            let mut words = code[..at].split_whitespace().rev();
            open.push(words.nth(1) == Some("mod"));
        }
    }
    open.into_iter().filter(|is_module| *is_module).count()
}

/// What stands between the commas of a group of imports, whose opening brace is left out.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut members) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                members.push(&group[start..at]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    members.retain(|member| !member.trim().is_empty());
    members
}

#[test]
fn every_way_to_name_a_module_is_seen() {
    let text = "use crate::{a::{b, crate_c}, d,\n    E};\nfn f() -> crate::g::H { crate::MAX }
        // crate::i::j
        pub(crate) use crate::k;";
    let used: Vec<_> = used_modules(text, 1).into_iter().collect();
    assert_eq!(used, ["a", "d", "g", "k", "lib"]);
    let text =
        "use super::{a::b, c};\nmod tests { use super::*; use super::d; use super::super::e; }
        fn f() { if true { super::f::g() } }";
    let used: Vec<_> = used_modules(text, 1).into_iter().collect();
    assert_eq!(used, ["a", "c", "e", "f"], "of a file in the root's folder");
    let used: Vec<_> =
        used_modules("use super::a; use super::super::{b, C};", 2).into_iter().collect();
    assert_eq!(used, ["b", "lib"], "of a file in another");
}

/// Everything that the crate exports: what each `pub use` of `lib.rs` names, and the types of its
/// public modules.
fn public_names() -> Vec<String> {
    let sources = sources();
    let code_of = |file: &str| {
        let found = sources.iter().find(|(path, _)| path == Path::new(file));
        code(&found.expect("a file of the library").1).collect::<Vec<_>>().join(" ")
    };
    let mut names = Vec::new();
    for statement in code_of("lib.rs").split(';') {
        let Some((_, exported)) = statement.split_once("pub ") else { continue };
        match exported.split_once("use ") {
            Some((_, path)) => {
                let (_, uses) = path.split_once("::").expect("a path");
                let uses = uses.trim_matches(['{', '}']).split(',').map(str::trim);
                // What the crate's own tests alone use begins with underscores.
                let is_public = |name: &&str| !name.is_empty() && !name.contains(" as __");
                names.extend(uses.filter(is_public).map(String::from));
            }
            None => {
                let module = exported.strip_prefix("mod ").expect("a module");
                names.push(module.into());
                let types = code_of(&format!("{module}.rs"));
                let types = types.split("pub struct ").skip(1);
                let name = |text: &str| text.split_whitespace().next().map(String::from);
                names.extend(types.filter_map(name).map(|name| format!("{module}::{name}")));
            }
        }
    }
    names.sort_unstable();
    names
}

/// So that a name more, or one less, is noticed. After a change on purpose:
/// `BLESS=1 cargo test --test layout`, and read the difference.
#[test]
fn public_names_are_those_of_the_list() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/public_names.txt");
    let names: String = public_names().iter().map(|name| format!("{name}\n")).collect();
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, &names).expect("the list can be written");
    }
    let listed = fs::read_to_string(&file).expect("the list is there");
    assert_eq!(names, listed, "{}", file.display());
}
