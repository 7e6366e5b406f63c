//! deb822 text: stanzas of `Key: value` fields, as apt's sources and package indexes use. Pure.

/// One stanza; keys compare without case. A value keeps its continuation lines, each with its
/// leading blank removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stanza {
    fields: Vec<(String, String)>,
}

impl Stanza {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(key))
            .map(|(_, value)| value.as_str())
    }

    pub fn words(&self, key: &str) -> Vec<String> {
        self.get(key)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }
}

/// All stanzas of a text. Comment lines and lines without a key are skipped.
pub fn parse(text: &str) -> Vec<Stanza> {
    let mut stanzas = Vec::new();
    let mut stanza = Stanza::default();
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            if !stanza.fields.is_empty() {
                stanzas.push(std::mem::take(&mut stanza));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.fields.last_mut() {
                value.push('\n');
                value.push_str(line[1..].trim_end());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            stanza
                .fields
                .push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    if !stanza.fields.is_empty() {
        stanzas.push(stanza);
    }
    stanzas
}

/// The package names of a `Depends` field, first alternative each, with the version where it is
/// an exact one.
pub fn depends(field: &str) -> Vec<(String, Option<String>)> {
    field
        .split(',')
        .filter_map(|group| {
            let first = group.split('|').next()?.trim();
            let (name, version) = match first.split_once('(') {
                Some((name, rest)) => (
                    name.trim(),
                    rest.trim_end_matches(')')
                        .trim()
                        .strip_prefix('=')
                        .map(|v| v.trim().to_owned()),
                ),
                None => (first, None),
            };
            let name = name.split(':').next().unwrap_or(name).trim();
            (!name.is_empty()).then(|| (name.to_owned(), version))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_parted() {
        let stanzas = parse(
            "# head\nPackage: a\nDepends: b (= 1)\nDescription: x\n more\n .\n\n\n\nPackage: c\nno key\n orphan\n",
        );
        assert_eq!(stanzas.len(), 2);
        assert_eq!(stanzas[0].get("package"), Some("a"));
        assert_eq!(stanzas[0].get("Description"), Some("x\nmore\n."));
        assert_eq!(stanzas[1].get("Package"), Some("c\norphan"));
        assert_eq!(stanzas[1].get("Depends"), None);
        assert!(parse(" lone continuation\n\n").is_empty());
    }

    #[test]
    fn depends_are_read() {
        let named = |field| depends(field);
        assert_eq!(
            named("linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)"),
            [(
                "linux-image-6.1.0-56-cloud-amd64".to_owned(),
                Some("6.1.192-2".to_owned())
            )]
        );
        assert_eq!(
            named("a:any | b, c (>= 2), "),
            [("a".to_owned(), None), ("c".to_owned(), None)]
        );
        assert!(named("").is_empty());
    }
}
