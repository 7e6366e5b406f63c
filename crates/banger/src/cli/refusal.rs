//! A command line that the parser refused, told as every other failure is.

use banger_protocol::error::{ApiError, ErrorKind};
use clap::error::{ContextKind, ContextValue};

use crate::failure::{Failure, USAGE, printable, report_error, tell};

/// What to do about the parser's error. A usage error is told here, since its exit code is its own.
pub fn failure(error: &clap::Error, json: bool) -> Failure {
    use clap::error::ErrorKind as Kind;
    if let Kind::ValueValidation | Kind::InvalidValue = error.kind() {
        return refused_value(error).into();
    }
    let usage = Usage::of(&error.render().to_string());
    if json {
        report_error(&usage.error(), true);
    } else {
        tell(&usage.text());
    }
    Failure::Told(USAGE)
}

/// The parser's own words, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Usage {
    message: String,
    tip: Option<String>,
    usage: Option<String>,
}

impl Usage {
    /// The parser writes paragraphs: the message, tips, the usage, and where to read more.
    fn of(rendered: &str) -> Usage {
        let mut parts = Usage::default();
        for paragraph in rendered.split("\n\n") {
            let words = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
            if let Some(message) = words.strip_prefix("error: ") {
                parts.message = printable(message);
            } else if let Some(usage) = words.strip_prefix("Usage: ") {
                parts.usage = Some(usage.to_owned());
            }
        }
        parts.tip = rendered
            .lines()
            .filter_map(|line| line.trim().strip_prefix("tip: "))
            // How to make a value of a mistyped flag helps nobody.
            .find(|tip| !tip.starts_with("to pass "))
            .map(printable);
        parts
    }

    /// The command whose help says more.
    fn help(&self) -> String {
        let Some(usage) = &self.usage else {
            return "--help".to_owned();
        };
        let words = usage
            .split(' ')
            .take_while(|word| !word.starts_with(['[', '<', '-']));
        words.chain(["--help"]).collect::<Vec<_>>().join(" ")
    }

    fn error(&self) -> ApiError {
        let hint = match &self.tip {
            Some(tip) => tip.clone(),
            None => format!("see {}", self.help()),
        };
        ApiError::new(ErrorKind::InvalidArgument, self.message.clone()).hint(hint)
    }

    fn text(&self) -> String {
        let mut text = format!("banger: {}\n", self.message);
        if let Some(usage) = &self.usage {
            text.push_str(&format!("usage: {usage}\n"));
        }
        if let Some(tip) = &self.tip {
            text.push_str(&format!("hint: {tip}\n"));
        }
        text + &format!("hint: see {}\n", self.help())
    }
}

fn refused_value(error: &clap::Error) -> ApiError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let argument = text(ContextKind::InvalidArg);
    let flag = argument.split(' ').next().unwrap_or_default();
    let value = text(ContextKind::InvalidValue);
    let reason = std::error::Error::source(error).map(ToString::to_string);
    let message = match reason {
        // A reason that names the value itself needs no repetition.
        Some(reason) if reason.starts_with(&format!("{value:?}")) => format!("{flag}: {reason}"),
        Some(reason) => format!("{value:?} will not do for {flag}: {reason}"),
        None => format!("{value:?} will not do for {flag}"),
    };
    let mut api_error = ApiError::new(ErrorKind::InvalidArgument, message);
    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        api_error = api_error.hint(format!("write one of: {}", valid.join(", ")));
    }
    api_error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    fn refused(line: &str) -> clap::Error {
        command()
            .try_get_matches_from(line.split_whitespace())
            .unwrap_err()
    }

    #[test]
    fn usage_errors() {
        let lines: String = [
            "banger vm run --memroy 4G debian",
            "banger vm run --zzz debian",
            "banger foo",
            "banger vm lst",
            "banger vm exec",
            "banger rm",
            "banger run -d -t debian",
            "banger vm list extra",
            "banger vm wait --for",
        ]
        .into_iter()
        .map(|line| {
            format!(
                "$ {line}\n{}",
                Usage::of(&refused(line).render().to_string()).text()
            )
        })
        .collect();
        insta::assert_snapshot!(lines);
    }

    #[test]
    fn values_that_will_not_do() {
        let lines: String = [
            "banger vm run --name Foo_Bar debian",
            "banger vm run --name -x debian",
            "banger vm create --vcpu 0",
            "banger vm create --vcpu -1",
            "banger vm create --vcpu two",
            "banger vm create -m 0",
            "banger vm create -m -5",
            "banger vm create --disk-size 1.5G",
            "banger vm create --disk-size 99999999T",
            "banger vm create --init systemctl",
            "banger kernel pull a/b",
            "banger image pull debian --name A!",
            "banger logs --tail -1 web",
            "banger operation show nope",
            "banger stop --timeout 1d web",
        ]
        .into_iter()
        .map(|line| {
            let error = refused_value(&refused(line));
            format!("$ {line}\n{}", crate::failure::text(&error))
        })
        .collect();
        insta::assert_snapshot!(lines);
    }
}
