//! The floors of the engine, read from its sources: each file knows files of its own floor and of those
//! below, and none in a circle.

use crate::architecture::{read, shown, sources, tokens};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use vesta_tests::in_root;

/// The floors, the top one first.
const FLOORS: &[&str] = &[
    "runtime", "prepared", "load", "error", "prepare", "guest", "imports", "models", "meter", "files",
    "engines", "config",
];

const SOURCES: &str = "host/engine/src";

/// A module: `["models", "worker", "lane"]`.
type Module = Vec<String>;

fn module_of(file: &std::path::Path) -> Module {
    let path = file.strip_prefix(in_root(SOURCES)).expect("a source of the engine").with_extension("");
    let mut module: Module = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
        module.pop();
    }
    module
}

/// All paths in a source, with the braces of `use` spread out.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let is_name = |token: &str| token.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '*');
    let (mut all, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let is_head = is_name(&tokens[at]) && tokens.get(at + 1).is_some_and(|next| next == "::");
        if is_head {
            at = spread(tokens, at, &[], &is_name, &mut all);
        } else {
            at += 1;
        }
    }
    all
}

/// Reads one path, or one item of a brace; gives the place after it.
fn spread(
    tokens: &[String],
    mut at: usize,
    before: &[String],
    is_name: &dyn Fn(&str) -> bool,
    all: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = before.to_vec();
    while at < tokens.len() {
        if tokens[at] == "{" {
            at += 1;
            while at < tokens.len() && tokens[at] != "}" {
                if is_name(&tokens[at]) || tokens[at] == "{" {
                    at = spread(tokens, at, &path, is_name, all);
                } else {
                    at += 1;
                }
            }
            return at + 1;
        }
        path.push(tokens[at].clone());
        at += 1;
        if tokens.get(at).is_none_or(|next| next != "::") {
            break;
        }
        at += 1;
    }
    all.push(path);
    // `as another`
    if tokens.get(at).is_some_and(|next| next == "as") { at + 2 } else { at }
}

/// What each module of the engine refers to.
fn knows(files: &[PathBuf]) -> BTreeMap<Module, BTreeSet<Module>> {
    let modules: BTreeSet<Module> = files.iter().map(|file| module_of(file)).collect();
    let mut knows = BTreeMap::new();
    for file in files {
        let module = module_of(file);
        let mut others = BTreeSet::new();
        for path in paths(&tokens(&read(file))) {
            let mut steps = path.into_iter().peekable();
            let mut from = match steps.peek().map(String::as_str) {
                Some("crate") => {
                    steps.next();
                    Module::new()
                }
                Some("super") => {
                    let mut from = module.clone();
                    while steps.next_if(|step| step == "super").is_some() {
                        from.pop();
                    }
                    // A module of tests within the file: all that it names so is in the file itself.
                    if steps.peek().is_some_and(|step| step == "*") {
                        continue;
                    }
                    from
                }
                // A child of this module, or another crate.
                Some(first) if modules.contains(&[module.as_slice(), &[first.to_string()]].concat()) => {
                    module.clone()
                }
                _ => continue,
            };
            for step in steps {
                let deeper = [from.as_slice(), &[step]].concat();
                if !modules.contains(&deeper) {
                    break;
                }
                from = deeper;
            }
            if from != module {
                others.insert(from);
            }
        }
        knows.insert(module, others);
    }
    knows
}

/// A circle, if there is one.
fn circle(knows: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    fn visit(
        module: &Module,
        knows: &BTreeMap<Module, BTreeSet<Module>>,
        way: &mut Vec<Module>,
        done: &mut BTreeSet<Module>,
    ) -> Option<Vec<Module>> {
        if let Some(at) = way.iter().position(|m| m == module) {
            return Some(way[at..].to_vec());
        }
        if !done.insert(module.clone()) {
            return None;
        }
        way.push(module.clone());
        let found = knows.get(module)?.iter().find_map(|next| visit(next, knows, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    knows.keys().find_map(|module| visit(module, knows, &mut Vec::new(), &mut done))
}

#[test]
fn each_floor_of_the_engine_knows_only_those_below() {
    let files = sources(&in_root(SOURCES));
    assert!(files.len() > 20, "the engine has {} files", files.len());
    let floor = |module: &Module| FLOORS.iter().position(|f| Some(*f) == module.first().map(String::as_str));
    let mut wrong = Vec::new();
    for (module, others) in knows(&files) {
        let Some(own) = floor(&module) else {
            assert!(module.is_empty(), "{module:?} is on no floor of {}", file!());
            continue;
        };
        for other in others {
            match floor(&other) {
                Some(of) if of >= own => {}
                _ => wrong.push(format!("{} must not know {}", module.join("::"), other.join("::"))),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_files_of_the_engine_know_each_other_in_a_circle() {
    let files = sources(&in_root(SOURCES));
    let found = circle(&knows(&files));
    assert!(
        found.is_none(),
        "a circle: {found:?} (of {} files, the first {})",
        files.len(),
        shown(&files[0])
    );
}

#[test]
fn the_reader_of_floors_sees_what_it_should() {
    let text = "use crate::{error::{A, runtime_error as r}, meter::cpu}; use super::run::Call; fn f() { crate::load::go(); }";
    let found: Vec<String> = paths(&tokens(text)).iter().map(|path| path.join("::")).collect();
    assert_eq!(
        found,
        [
            "crate::error::A",
            "crate::error::runtime_error",
            "crate::meter::cpu",
            "super::run::Call",
            "crate::load::go"
        ]
    );
    let one = |name: &str| vec![name.to_string()];
    let knows = |pairs: &[(&str, &str)]| -> BTreeMap<Module, BTreeSet<Module>> {
        pairs.iter().map(|(a, b)| (one(a), BTreeSet::from([one(b)]))).collect()
    };
    assert!(circle(&knows(&[("a", "b"), ("b", "c"), ("c", "b")])).is_some());
    assert!(circle(&knows(&[("a", "b"), ("b", "c"), ("d", "b")])).is_none());
}
