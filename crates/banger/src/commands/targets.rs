//! Several targets of one command: resolved, each once, done at the same time, told in order.

use std::collections::HashSet;
use std::future::Future;

use banger_protocol::api::path;
use banger_protocol::api::vm::{Vm, VmList};
use banger_protocol::error::ApiError;
use futures_util::StreamExt;

use super::Context;
use crate::client::Client;
use crate::failure::{Failure, Outcome, report_error};

/// How many are worked on at the same time.
const CONCURRENT: usize = 16;

/// A word that can mean a VM: what bangerd would refuse is refused before it is asked.
///
/// # Errors
/// One sentence that says what can.
pub fn named(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=63).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err("a VM is meant by its name, its id or the beginning of its id, of a-z, 0-9 and '-'".into())
}

/// The VMs that are meant, in the order they were named, each once. A name that no VM has is kept
/// as it is: bangerd says what is wrong with it, and the others are still done.
///
/// # Errors
/// The list of VMs cannot be had.
pub async fn vms(client: &Client, named: &[String]) -> Result<Vec<String>, ApiError> {
    if named.len() < 2 {
        return Ok(named.to_vec());
    }
    let list: VmList = client.get(path::VMS).await?;
    Ok(resolve(named, &list.vms))
}

fn resolve(named: &[String], vms: &[Vm]) -> Vec<String> {
    let mut seen = HashSet::new();
    named
        .iter()
        .map(|text| match find(text, vms) {
            Some(vm) => String::from(vm.name.clone()),
            None => text.clone(),
        })
        .filter(|target| seen.insert(target.clone()))
        .collect()
}

/// By name, by id, or by a prefix that only one id has.
fn find<'a>(text: &str, vms: &'a [Vm]) -> Option<&'a Vm> {
    vms.iter().find(|vm| vm.name.as_str() == text).or_else(|| {
        let mut matching = vms
            .iter()
            .filter(|vm| !text.is_empty() && vm.id.as_str().starts_with(text));
        matching.next().filter(|_| matching.next().is_none())
    })
}

/// Each target of the list, once.
pub fn distinct(named: &[String]) -> Vec<String> {
    let mut seen = HashSet::new();
    named
        .iter()
        .filter(|target| seen.insert(target.as_str()))
        .cloned()
        .collect()
}

/// Does something to each target and tells the results in order. The exit code is the first
/// failure's.
///
/// # Errors
/// An interruption, or a result that cannot be written. A target that fails is told and counted.
pub async fn each<T, F: Future<Output = Result<T, Failure>>>(
    context: &Context,
    targets: &[String],
    act: impl Fn(String) -> F,
    tell: impl Fn(&str, T) -> Result<(), Failure>,
) -> Outcome {
    let mut results = futures_util::stream::iter(targets.iter().cloned().map(|target| {
        let action = act(target.clone());
        async move { (target, action.await) }
    }))
    .buffered(CONCURRENT);
    let mut code = 0;
    while let Some((target, result)) = results.next().await {
        match result {
            Ok(value) => tell(&target, value)?,
            Err(Failure::Error(error)) => {
                report_error(&error, context.json);
                if code == 0 {
                    code = error.kind.exit_code();
                }
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::api::vm::VmState;
    use banger_protocol::error::ErrorKind;

    fn vm(name: &str, id: &str) -> Vm {
        Vm {
            id: id.parse().unwrap(),
            name: name.parse().unwrap(),
            ..crate::commands::vm::example(VmState::Running)
        }
    }

    #[test]
    fn targets_are_resolved_and_each_is_done_once() {
        let vms = [
            vm("web", "aaaa00000001"),
            vm("db", "aaaa00000002"),
            vm("aaaa", "bbbb00000003"),
        ];
        for (named, expected) in [
            (&["web", "aaaa00000001", "web"][..], &["web"][..]),
            (&["db", "web"], &["db", "web"]),
            // A name goes before a prefix.
            (&["aaaa", "web"], &["aaaa", "web"]),
            // An ambiguous prefix and an unknown name are left to bangerd.
            (&["aa", "nobody", "bb"], &["aa", "nobody", "aaaa"]),
            (&["", "web"], &["", "web"]),
        ] {
            let named: Vec<String> = named.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(resolve(&named, &vms), expected);
        }
    }

    #[test]
    fn what_can_mean_a_vm() {
        let longest = "a".repeat(63);
        for good in ["web", "0f", "a-b", longest.as_str()] {
            assert!(named(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in ["", "Web", "a/b", "a b", "é", too_long.as_str()] {
            assert!(named(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn all_are_done_in_order_and_the_first_failure_counts() {
        let context = Context {
            environment: Default::default(),
            json: true,
            quiet: true,
        };
        let targets = ["slow", "missing", "fast", "busy"].map(str::to_owned);
        let told = std::cell::RefCell::new(Vec::new());
        let act = |target: String| async move {
            match target.as_str() {
                "slow" => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                "missing" => return Err(Failure::new(ErrorKind::NotFound, "no VM missing")),
                "busy" => return Err(Failure::new(ErrorKind::InUse, "busy")),
                _ => {}
            }
            Ok(())
        };
        let code = each(&context, &targets, act, |target, ()| {
            told.borrow_mut().push(target.to_owned());
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(code, ErrorKind::NotFound.exit_code());
        assert_eq!(*told.borrow(), ["slow", "fast"]);
    }
}
