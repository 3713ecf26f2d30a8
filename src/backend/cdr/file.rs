//! Records of calls as lines of a file (Yate's `cdrfile`).

use std::{
    cell::RefCell,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use super::{Operation, Operations, TakesRecords};
use crate::{
    backend::{
        chain::{Failure, Handles},
        message::Message,
    },
    config::{
        cdrfile::{CdrFile, Format},
        replace::replace,
        settings,
    },
};

/// The fields of a line, and whether they are text.
const FIELDS: [(&str, bool); 12] = [
    ("time", false),
    ("billid", true),
    ("chan", true),
    ("address", true),
    ("caller", true),
    ("called", true),
    ("billtime", false),
    ("ringtime", false),
    ("duration", false),
    ("direction", true),
    ("status", true),
    ("reason", true),
];

/// Fields that follow where a line is a whole call.
const OUT_LEG_FIELDS: [(&str, bool); 6] = [
    ("out_leg.chan", true),
    ("out_leg.address", true),
    ("out_leg.billtime", false),
    ("out_leg.ringtime", false),
    ("out_leg.duration", false),
    ("out_leg.reason", true),
];

/// The name of its lane.
pub(in crate::backend) const NAME: &str = "cdrfile";

/// Adds a line for each call, or each leg, that has ended.
#[derive(Debug)]
pub(in crate::backend) struct File {
    settings: CdrFile,
    /// Which legs there are lines of.
    legs: settings::Records,
    open: RefCell<Option<Open>>,
}

/// The file as it was opened.
#[derive(Debug)]
struct Open {
    file: fs::File,
    /// Which file it is, wherever it may be by now.
    identity: (u64, u64),
}

impl File {
    pub(in crate::backend) fn new(settings: CdrFile, legs: settings::Records) -> Self {
        Self { settings, legs, open: RefCell::default() }
    }

    /// What lines are made of.
    fn operation(&self) -> Operation {
        if self.settings.combined { Operation::Combined } else { Operation::Finalize }
    }

    /// Adds a line, whole or not at all. A file that was moved away, as `logrotate` does, or removed
    /// is made anew.
    fn add(&self, line: &str) -> io::Result<()> {
        let path = &*self.settings.path;
        let mut open = self.open.borrow_mut();
        if open.as_ref().is_none_or(|open| identity(path) != Some(open.identity)) {
            *open = None;
        }
        let Open { file, .. } = match &mut *open {
            Some(open) => open,
            none => none.insert(Open::new(path)?),
        };
        let before = file.metadata()?.len();
        file.write_all(line.as_bytes()).inspect_err(|_| {
            // Else the next try would add to half a line.
            let _ = file.set_len(before);
        })
    }
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        let metadata = file.metadata()?;
        Ok(Self { file, identity: (metadata.dev(), metadata.ino()) })
    }
}

/// Which file is at a path.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl TakesRecords for File {
    fn lane(&self) -> &str {
        NAME
    }

    fn wants(&self, record: &Message) -> bool {
        let is_off = |name| record.get(name) == Some("false");
        record.get("operation") == Some(self.operation().as_str())
            && (self.legs == settings::Records::Leg || record.get("direction") == Some("incoming"))
            && !is_off("cdrwrite")
            && !is_off("cdrwrite_cdrfile")
    }

    fn operations(&self) -> Operations {
        Operations::default().and(self.operation())
    }

    /// It is on disk itself.
    fn is_spooled(&self) -> bool {
        false
    }

    fn take<'m>(&'m self, record: &'m mut Message) -> Handles<'m, Result<(), Failure>> {
        let mut line = line(&self.settings, record);
        line.push('\n');
        let added = self.add(&line).map_err(|error| {
            let reason = format!("{}: {error}", self.settings.path.display());
            Failure { reason, is_outage: true }
        });
        Box::pin(async { added })
    }
}

/// What stands for a record in the file, without the end of the line.
fn line(settings: &CdrFile, record: &Message) -> String {
    let is_combined = settings.combined;
    let own = FIELDS.into_iter().filter(|(name, _)| !(is_combined && *name == "direction"));
    let fields = own.chain(OUT_LEG_FIELDS.into_iter().filter(|_| is_combined));
    let value = |name: &str| plain(record.get(name).unwrap_or_default());
    match &settings.format {
        Format::Json => json(record),
        Format::Tabs => fields.map(|(name, _)| value(name)).collect::<Vec<_>>().join("\t"),
        Format::Commas => {
            let field = |(name, is_text): (&str, bool)| match is_text {
                // Yate doubles none, and then nobody can tell where the field ends.
                true => format!("\"{}\"", value(name).replace('"', "\"\"")),
                false => value(name),
            };
            fields.map(field).collect::<Vec<_>>().join(",")
        }
        Format::Template(template) => {
            let replaced = replace(template.as_bytes(), |name| {
                let value = std::str::from_utf8(name).ok().and_then(|name| record.get(name));
                value.map(|value| plain(value).into_bytes().into())
            });
            String::from_utf8_lossy(&replaced).into_owned()
        }
    }
}

/// A value without what could end a field or a line: names come from strangers.
fn plain(value: &str) -> String {
    value.replace(char::is_control, " ")
}

/// A record as a JSON object; what are seconds are numbers.
pub(super) fn json(record: &Message) -> String {
    const NUMBERS: [&str; 4] = ["time", "duration", "billtime", "ringtime"];
    let is_number = |name: &str, value: &str| {
        NUMBERS.contains(&name.rsplit('.').next().unwrap_or(name)) && value.parse::<f64>().is_ok()
    };
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut out = String::from("{");
    for (name, value) in record.params() {
        let comma = if out.len() > 1 { "," } else { "" };
        let value = if is_number(name, value) { value.to_owned() } else { quoted(value) };
        let _ = write!(out, "{comma}{}:{value}", quoted(name));
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::backend::cdr::legs::{Recorder, tests::answered};
    use crate::config::cdrfile::PARAMETERS;

    fn records() -> Vec<Message> {
        let mut recorder = Recorder::new(1_795_446_183);
        let mut events = answered(7);
        for event in &mut events {
            std::sync::Arc::make_mut(&mut event.call.parties).caller = (*b"1\"0\t0\n").into();
        }
        events.into_iter().flat_map(|event| recorder.take(event)).collect()
    }

    fn file(path: PathBuf, format: Format, combined: bool, legs: settings::Records) -> File {
        File::new(CdrFile { path, combined, format }, legs)
    }

    fn written(format: Format, combined: bool, legs: settings::Records) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cdr");
        let file = file(path.clone(), format, combined, legs);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for mut record in records() {
            if file.wants(&record) {
                runtime.block_on(file.take(&mut record)).unwrap();
            }
        }
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_line_is_what_yate_writes() {
        use settings::Records::{Call, Leg};
        assert_eq!(
            written(Format::Tabs, false, Call),
            "1795446243.123\t1795446183-7\tsip/1\t192.0.2.1:5060\t1\"0 0 \t200\t1.250\t1.250\t2.877\t\
             incoming\tanswered\t\n"
        );
        assert_eq!(
            written(Format::Commas, false, Leg),
            "1795446243.123,\"1795446183-7\",\"sip/2\",\"192.0.2.2:5062\",\"1\"\"0 0 \",\"200\",1.250,\
             1.250,2.877,\"outgoing\",\"answered\",\"\"\n\
             1795446243.123,\"1795446183-7\",\"sip/1\",\"192.0.2.1:5060\",\"1\"\"0 0 \",\"200\",1.250,\
             1.250,2.877,\"incoming\",\"answered\",\"\"\n"
        );
        assert_eq!(
            written(Format::Tabs, true, Call),
            "1795446243.123\t1795446183-7\tsip/1\t192.0.2.1:5060\t1\"0 0 \t200\t1.250\t1.250\t2.877\t\
             answered\t\tsip/2\t192.0.2.2:5062\t1.250\t1.250\t2.877\t\n"
        );
        let template = Format::Template("${billid};${caller};${nothing$none}".into());
        assert_eq!(written(template, false, Call), "1795446183-7;1\"0 0 ;none\n");
    }

    #[test]
    fn the_check_of_a_format_knows_all_parameters_of_records() {
        let mut known: Vec<&str> = Vec::new();
        for record in records() {
            for (name, _) in record.params() {
                let name = name.strip_prefix("out_leg.").unwrap_or(name);
                let known_as = PARAMETERS.iter().find(|known| **known == name);
                known.push(known_as.unwrap_or_else(|| panic!("{name} of a record is not known")));
            }
        }
        // The call has no account and no mishap.
        known.extend(["username", "reason"]);
        let missing: Vec<_> = PARAMETERS.iter().filter(|name| !known.contains(name)).collect();
        assert!(missing.is_empty(), "no record has {missing:?}");
    }

    #[test]
    fn a_line_of_json_says_all() {
        let lines = written(Format::Json, true, settings::Records::Call);
        let value: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(value["duration"], 2.877);
        assert_eq!(value["caller"], "1\"0\t0\n");
        assert_eq!(value["out_leg.ringtime"], 1.25);
        assert_eq!(value["out_leg.external"], "200");
    }

    #[test]
    fn a_file_that_was_moved_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cdr");
        let file = file(path.clone(), Format::Tabs, false, settings::Records::Call);
        file.add("1\n").unwrap();
        fs::rename(&path, folder.path().join("cdr.1")).unwrap();
        file.add("2\n").unwrap();
        fs::remove_file(&path).unwrap();
        file.add("3\n").unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("cdr.1")).unwrap(), "1\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "3\n");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/cdr");
        let file = file(path, Format::Tabs, false, settings::Records::Call);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let failure = runtime.block_on(file.take(&mut records().remove(0))).unwrap_err();
        assert!(failure.is_outage && failure.reason.contains("none/cdr"), "{failure:?}");
    }
}
