//! All modules of one kernel, and which of them must be loaded before which. Pure.
//!
//! `depends` names modules and is a must. `softdep` names modules *or aliases*, and what it names may
//! be missing: the module then does without. A name that is built in is there already.

use std::collections::{BTreeMap, BTreeSet};

use super::KernelError;
use super::modinfo::{ModInfo, canonical, name_of_file};

/// A module file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Below `lib/modules/VERSION`, uncompressed: `kernel/fs/overlayfs/overlay.ko`.
    pub path: String,
    pub info: ModInfo,
}

/// Modules by name, and the names that are built in.
#[derive(Debug, Default)]
pub struct ModuleTree {
    modules: BTreeMap<String, Module>,
    /// `None` where the kernel came without `modules.builtin`: then nothing is known to be missing.
    builtin: Option<BTreeSet<String>>,
    builtin_aliases: BTreeMap<String, String>,
    aliases: BTreeMap<String, BTreeSet<String>>,
}

impl ModuleTree {
    /// Adds a module; one of the same name is replaced, as a later `updates/` directory would.
    pub fn insert(&mut self, module: Module) {
        for alias in &module.info.aliases {
            self.aliases
                .entry(canonical(alias))
                .or_default()
                .insert(module.info.name.clone());
        }
        self.modules.insert(module.info.name.clone(), module);
    }

    /// Takes the text of `modules.builtin`: one path per line.
    pub fn set_builtin(&mut self, text: &str) {
        self.builtin = Some(
            text.lines()
                .filter_map(|l| name_of_file(l.trim()))
                .collect(),
        );
    }

    /// Takes `modules.builtin.modinfo`: `NAME.key=value` strings, NUL-terminated.
    pub fn set_builtin_info(&mut self, bytes: &[u8]) {
        for entry in bytes.split(|&b| b == 0) {
            let Some((name, alias)) = std::str::from_utf8(entry)
                .ok()
                .and_then(|text| text.split_once(".alias="))
            else {
                continue;
            };
            if !name.contains(['=', '.']) && !alias.contains(char::is_whitespace) {
                self.builtin_aliases
                    .insert(canonical(alias), canonical(name));
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&Module> {
        self.modules.get(name)
    }

    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.values()
    }

    /// Names that are built in, and their aliases.
    pub fn builtin(&self) -> impl Iterator<Item = &str> {
        self.builtin.iter().flatten().map(String::as_str)
    }

    pub fn builtin_aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.builtin_aliases
            .iter()
            .map(|(alias, name)| (alias.as_str(), name.as_str()))
    }

    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.as_ref().is_some_and(|set| set.contains(name))
    }

    /// Whether a name that is no module here is known to be missing from the kernel too.
    pub fn is_missing(&self, name: &str) -> bool {
        !self.modules.contains_key(name)
            && self.builtin.as_ref().is_some_and(|set| !set.contains(name))
    }

    /// The modules of `wanted` and all they need, each after what it needs. Names that are no
    /// module are skipped; the order depends on nothing but the input.
    pub fn load_order<'a>(
        &'a self,
        wanted: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<&'a Module>, KernelError> {
        #[derive(PartialEq)]
        enum Mark {
            Open,
            Done,
        }
        let mut marks: BTreeMap<&str, Mark> = BTreeMap::new();
        let mut order = Vec::new();
        for name in wanted {
            let Some(module) = self.modules.get(name) else {
                continue;
            };
            // Depth first with a stack of our own: an archive may chain modules as deep as it likes.
            let mut stack = vec![(module, false)];
            while let Some((module, needs_done)) = stack.pop() {
                let name = module.info.name.as_str();
                if needs_done {
                    marks.insert(name, Mark::Done);
                    order.push(module);
                    continue;
                }
                match marks.get(name) {
                    Some(Mark::Done) => continue,
                    Some(Mark::Open) => {
                        return Err(KernelError::DependencyCycle {
                            module: name.to_owned(),
                        });
                    }
                    None => {}
                }
                marks.insert(name, Mark::Open);
                stack.push((module, true));
                // Reversed, so that the first need is the first on the stack to be worked off.
                for need in self.needs(module)?.into_iter().rev() {
                    if marks.get(need.info.name.as_str()) == Some(&Mark::Open)
                        && !module.info.depends.contains(&need.info.name)
                    {
                        continue; // a soft circle is no reason to refuse a kernel
                    }
                    stack.push((need, false));
                }
            }
        }
        Ok(order)
    }

    /// What must be loaded directly before `module`.
    fn needs<'a>(&'a self, module: &'a Module) -> Result<Vec<&'a Module>, KernelError> {
        let mut needs = Vec::new();
        for soft in &module.info.softdep_pre {
            needs.extend(self.provider(soft));
        }
        for name in &module.info.depends {
            match self.modules.get(name) {
                Some(found) => needs.push(found),
                None if self.is_builtin(name) => {}
                None => {
                    return Err(KernelError::MissingDependency {
                        module: module.info.name.clone(),
                        needs: name.clone(),
                    });
                }
            }
        }
        Ok(needs)
    }

    /// The one module that serves a name or alias; `None` where it is built in or nowhere.
    ///
    /// Of several (crc32c is served by a generic and a CPU-specific module), one that loads on
    /// every processor is taken.
    fn provider(&self, word: &str) -> Option<&Module> {
        let name = canonical(word);
        if self.is_builtin(&name) {
            return None;
        }
        if let Some(module) = self.modules.get(&name) {
            return Some(module);
        }
        for alias in [name.clone(), format!("crypto_{name}")] {
            if self.builtin_aliases.contains_key(&alias) {
                return None;
            }
            let serving = || {
                self.aliases
                    .get(&alias)
                    .into_iter()
                    .flatten()
                    .filter_map(|name| self.modules.get(name))
            };
            let found = serving()
                .find(|module| {
                    !module
                        .info
                        .aliases
                        .iter()
                        .any(|alias| alias.starts_with("cpu:") || alias.starts_with("x86cpu:"))
                })
                .or_else(|| serving().next());
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "module_tree_tests.rs"]
mod tests;
