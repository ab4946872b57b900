//! Debian's own package sources, as this system has them: nothing is assumed about mirrors.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// One place that packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The place.
    pub(super) uri: String,
    /// The suites taken from it.
    pub(super) suites: Vec<String>,
    /// The keyring that signs it, if the list names one.
    pub(super) signed_by: Option<String>,
}

/// Reads every source list under `directory` (`/etc/apt`).
pub(super) fn sources(directory: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let parts = directory.join("sources.list.d");
    let mut files: Vec<_> = parts
        .read_dir()
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.insert(0, directory.join("sources.list"));
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(text.split("\n\n").filter_map(parse_paragraph)),
            Some("list") => sources.extend(text.lines().filter_map(parse_line)),
            _ => {}
        }
    }
    sources
}

/// A line of apt's source list for `suite`, taken from where the system takes its own.
///
/// Security suites live in an archive of their own; all others beside the system's own suite.
pub(super) fn line_for(suite: &str, sources: &[Source]) -> Result<String> {
    let releases = ["bullseye", "bookworm", "trixie", "forky", "duke", "sid", "stable", "testing"];
    let fits = |source: &&Source| {
        source.suites.iter().any(|own| {
            let is_security = own.ends_with("-security");
            is_security == suite.ends_with("-security")
                && (is_security || releases.contains(&own.as_str()))
        })
    };
    let source = sources.iter().find(fits).with_context(|| {
        format!("the system's package sources name no Debian archive that could hold {suite}")
    })?;
    let signed_by = match &source.signed_by {
        Some(keyring) => format!("[signed-by={keyring}] "),
        None => String::new(),
    };
    Ok(format!("deb {signed_by}{} {suite} main\n", source.uri))
}

/// A paragraph of the deb822 form.
fn parse_paragraph(text: &str) -> Option<Source> {
    let value = |key: &str| {
        text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
    };
    if !value("Types")?.split_whitespace().any(|kind| kind == "deb")
        || value("Enabled") == Some("no")
    {
        return None;
    }
    Some(Source {
        uri: value("URIs")?.split_whitespace().next()?.to_owned(),
        suites: value("Suites")?.split_whitespace().map(str::to_owned).collect(),
        // A key may also be written out over many lines; only a file's name fits on one.
        signed_by: value("Signed-By").filter(|path| path.starts_with('/')).map(str::to_owned),
    })
}

/// `deb [signed-by=/path] URI suite component…`.
fn parse_line(line: &str) -> Option<Source> {
    let mut rest = line.trim().strip_prefix("deb ")?.trim();
    let mut signed_by = None;
    if let Some(bracket) = rest.strip_prefix('[') {
        let (options, after) = bracket.split_once(']')?;
        signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned);
        rest = after.trim();
    }
    let mut words = rest.split_whitespace();
    let uri = words.next()?.to_owned();
    Some(Source { uri, suites: vec![words.next()?.to_owned()], signed_by })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> Vec<Source> {
        let text = "Types: deb\n# a comment\nURIs: http://deb.example/debian\nSuites: bookworm bookworm-updates\nSigned-By: /keys.gpg\n\n\
            Types: deb\nURIs: http://deb.example/security\nSuites: bookworm-security\n\n\
            Types: deb-src\nURIs: http://deb.example/source\nSuites: bookworm\n";
        let mut sources = vec![Source {
            uri: "http://other.example".into(),
            suites: vec!["nodistro".into()],
            signed_by: None,
        }];
        sources.extend(text.split("\n\n").filter_map(parse_paragraph));
        sources
    }

    #[test]
    fn suites_are_taken_from_the_archive_of_their_kind() {
        let cases = [
            (
                "trixie-backports",
                "deb [signed-by=/keys.gpg] http://deb.example/debian trixie-backports main\n",
            ),
            ("bullseye-security", "deb http://deb.example/security bullseye-security main\n"),
        ];
        for (suite, expected) in cases {
            assert_eq!(line_for(suite, &system()).expect("an archive"), expected);
        }
        let error = line_for("sid", &system()[..1]).expect_err("no Debian archive");
        assert!(error.to_string().contains("sid"));
    }

    #[test]
    fn one_line_sources_are_read() {
        let source =
            parse_line("deb [arch=amd64 signed-by=/k.gpg] http://deb.example/debian bookworm main")
                .expect("a source");
        assert_eq!(source.suites, ["bookworm"]);
        assert_eq!(source.signed_by.as_deref(), Some("/k.gpg"));
        assert_eq!(parse_line("# deb http://deb.example bookworm main"), None);
        assert_eq!(parse_line("deb-src http://deb.example bookworm main"), None);
    }
}
