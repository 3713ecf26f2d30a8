//! `docs/conformance.md` names only what exists.

use std::{collections::HashSet, path::Path};

use crate::{FOLDERS, script::Script, scripts, scripts_of};

#[test]
fn what_the_table_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let dialogues = all_dialogues();
    let (mut named, mut missing) = (0, Vec::new());
    let rows = text.lines().filter(|line| line.starts_with('|'));
    for span in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
        let exists = if let Some((file, test)) = span.split_once(".rs::") {
            let source = std::fs::read_to_string(root.join(format!("{file}.rs")));
            source.is_ok_and(|source| source.contains(&format!("fn {test}(")))
        } else if let Some(case) = span.strip_prefix("calls#") {
            let function = format!("def {}(", case.replace('-', "_"));
            ["cases.py", "elsewhere.py"].iter().any(|file| {
                let cases = std::fs::read_to_string(root.join("tests/calls/support").join(file));
                cases.is_ok_and(|cases| cases.contains(&function))
            })
        } else if span.contains('#') {
            dialogues.contains(span)
        } else if span.ends_with(".txt") {
            scripts().join(span).exists()
        } else {
            continue;
        };
        named += 1;
        if !exists {
            missing.push(span);
        }
    }
    assert!(named > 50, "the table names {named} tests only");
    assert!(missing.is_empty(), "named, but not there: {missing:#?}");
}

/// All dialogues as `folder/file#name`.
fn all_dialogues() -> HashSet<String> {
    let mut all = HashSet::new();
    for folder in FOLDERS {
        for path in scripts_of(folder) {
            let file = path.file_stem().unwrap().to_string_lossy().into_owned();
            let script = Script::parse(&std::fs::read_to_string(&path).unwrap())
                .unwrap_or_else(|failure| panic!("{}:{failure}", path.display()));
            let names = script.dialogues.iter().map(|d| format!("{folder}/{file}#{}", d.name));
            all.extend(names);
        }
    }
    all
}
