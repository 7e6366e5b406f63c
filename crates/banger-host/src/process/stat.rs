//! The fields of `/proc/PID/stat` that are used here; see proc(5).

/// One reading of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `Z` …
    pub state: char,
    /// Number of the session, which is the process that began it.
    pub session: i32,
    /// Device number of the controlling terminal; 0 without one.
    pub terminal: i32,
    /// Clock ticks spent in user and kernel mode.
    pub cpu_ticks: u64,
    /// Clock ticks from host boot to the start of the process.
    pub start_time: u64,
    resident_pages: u64,
}

impl Stat {
    /// Neither a zombie nor dead.
    pub fn is_running(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }

    pub fn resident_bytes(&self) -> u64 {
        self.resident_pages
            .saturating_mul(rustix::param::page_size() as u64)
    }

    pub fn cpu_time(&self) -> std::time::Duration {
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let millis = u128::from(self.cpu_ticks) * 1000 / u128::from(per_second);
        std::time::Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

/// Parses the line; `None` when it is not one.
pub fn parse_stat(line: &[u8]) -> Option<Stat> {
    // The name is in parentheses and may hold any byte, more parentheses included.
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&line[close + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Field 3 (state) is the first after the name.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let signed = |field: usize| fields.get(field - 3)?.parse::<i32>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        session: signed(6)?,
        terminal: signed(7)?,
        cpu_ticks: number(14)?.checked_add(number(15)?)?,
        start_time: number(22)?,
        resident_pages: number(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_move_the_fields() {
        let tail =
            "S 1 1 6 34816 -1 4194560 9 0 0 0 7 8 0 0 20 0 1 0 4242 1000 33 18446744073709551615 1";
        let expected = Stat {
            state: 'S',
            session: 6,
            terminal: 34816,
            cpu_ticks: 15,
            start_time: 4242,
            resident_pages: 33,
        };
        for name in ["sleep", "a b", ") Z 1 1", "(((", "", "\u{e9}\u{1}"] {
            let line = format!("77 ({name}) {tail}");
            assert_eq!(parse_stat(line.as_bytes()), Some(expected), "{name:?}");
        }
        assert_eq!(parse_stat(b"77 (\xff\xfe) S 1"), None);
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            "",
            "77",
            "77 (x)",
            "77 (x) ",
            "77 (x) S a b",
            "77 (x) S 1 1 1 0 -1 4194560 9 0 0 0 7",
        ] {
            assert_eq!(parse_stat(line.as_bytes()), None, "{line:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(line: Vec<u8>) {
            parse_stat(&line);
        }
    }
}
