//! The configuration file: TOML, flat, strict.
//!
//! Every key is one line of [`keys!`] below, from which the type, the parser, the messages and
//! `docs/configuration.md` are made. An unknown key, a wrong type or a value out of range is an
//! error that names the file and the key; a file of the Go program that was banger before is
//! recognised and left alone.

mod document;
mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::KernelName;

pub use document::document;
pub use value::{AcceleratorChoice, LogLevel, Size, UidRange, Value};

/// The longest console that is kept.
pub const LONGEST_CONSOLE: Size = Size::mib(64);

/// Overrides `log_level`.
pub const LOG_LEVEL_VARIABLE: &str = "BANGER_LOG_LEVEL";

/// One key, for people.
pub struct Key {
    pub name: &'static str,
    /// First sentence and the rest, as written in the source.
    pub doc: &'static str,
    /// What is accepted.
    pub form: &'static str,
    pub default: String,
}

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr;)*) => {
        /// The configuration of one daemon.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $type,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Config { $($name: $default,)* }
            }
        }

        impl Config {
            /// All keys, in the order of the documentation.
            pub fn keys() -> Vec<Key> {
                let default = Config::default();
                vec![$(Key {
                    name: stringify!($name),
                    doc: concat!($($doc, "\n"),+),
                    form: <$type as Value>::FORM,
                    default: default.$name.show(),
                },)*]
            }

            fn set(&mut self, key: &str, value: &toml::Value) -> Result<(), KeyError> {
                match key {
                    $(stringify!($name) => {
                        self.$name = <$type as Value>::parse(value).map_err(KeyError::Value)?;
                    })*
                    _ => return Err(KeyError::Unknown),
                }
                Ok(())
            }
        }
    };
}

enum KeyError {
    Unknown,
    Value(String),
}

keys! {
    /// How much is logged. The environment variable `BANGER_LOG_LEVEL` overrides it.
    log_level: LogLevel = LogLevel::Info;

    /// The image of `banger vm run` and `vm create` where none is named.
    default_image: String = "debian-12".to_owned();
    /// The kernel VMs boot where neither request nor image names one; pulled on first use.
    default_kernel: KernelName = value::known_kernel("debian-6.1-cloud");
    /// Virtual processors of a VM.
    vcpus: u32 = 2;
    /// Memory of a VM.
    memory: Size = Size::gib(1);
    /// Size of a VM's writable disk. It is sparse: it costs what the guest writes.
    disk_size: Size = Size::gib(8);

    /// How guest instructions run. `auto` boots a kernel once under KVM and believes only that.
    accelerator: AcceleratorChoice = AcceleratorChoice::Auto;
    /// QEMU: a path, or a name to look up on `PATH`.
    qemu_bin: PathBuf = PathBuf::from("qemu-system-x86_64");
    /// How long the KVM probe's kernel has to boot.
    probe_timeout: Duration = Duration::from_secs(5);
    /// User ids for VMMs where the daemon runs as root: one per VM. The default lies in a range that
    /// neither distributions nor systemd's containers hand out. Of a large range each daemon takes a
    /// block of 65,536, chosen by its directory, so that two daemons on a host share none.
    vm_uids: UidRange = UidRange { first: 1_900_000_000, last: 1_999_999_999 };

    /// How long a VM has from the start of its VMM to its agent being ready, and a VMM to answer a
    /// `bangerd` that comes back.
    boot_timeout: Duration = Duration::from_secs(180);
    /// How long a guest has to switch itself off before its VMM is killed.
    stop_timeout: Duration = Duration::from_secs(30);
    /// How long a guest's agent has to answer a question.
    agent_timeout: Duration = Duration::from_secs(10);
    /// How much of a VM's serial console is kept; at most 64 MiB.
    console_log_size: Size = Size::mib(1);
    /// How much of the output of a VM's main process is kept.
    main_log_size: Size = Size::mib(16);

    /// How long the result of an ended operation can be asked for.
    operation_retention: Duration = Duration::from_secs(600);
    /// How large the daemon's own log may become; half of it is kept then.
    log_size: Size = Size::mib(16);

    /// A TOML file with images and kernels that come before those built in.
    catalog: Option<PathBuf> = None;
    /// How many bytes of layers one image may have as they are fetched.
    max_download_bytes: Size = Size::gib(64);
    /// How large one layer may be once it is decompressed. A gzip bomb ends here.
    max_layer_bytes: Size = Size::gib(64);
    /// How large an image's base file may become.
    max_base_bytes: Size = Size::gib(128);
    /// How much memory the names, links and attributes of one image may take while it is imported.
    max_metadata_bytes: Size = Size::mib(256);
    /// How many files, directories and links an image may have. A million takes about 130 MiB of
    /// memory beside `max_metadata_bytes` while it is imported.
    max_entries: u64 = 2_000_000;
    /// How many layers are fetched at once, by all pulls together.
    parallel_downloads: u32 = 3;
    /// How long a registry may be silent before a request is tried again.
    registry_timeout: Duration = Duration::from_secs(30);
    /// How often a request to a registry is made before it is given up.
    registry_attempts: u32 = 5;
}

/// Keys of the Go program that used the same file.
const GO_KEYS: &[&str] = &[
    "auto_stop_stale_after",
    "bridge_ip",
    "bridge_name",
    "cidr",
    "customize_script",
    "default_dns",
    "default_image_name",
    "default_packages_file",
    "default_rootfs",
    "file_sync",
    "firecracker_bin",
    "jailer_bin",
    "jailer_chroot_base",
    "jailer_enabled",
    "mapdns_bin",
    "metrics_poll_interval",
    "repo_root",
    "runtime_dir",
    "ssh_key_path",
    "stats_poll_interval",
    "tap_pool_size",
    "vm_defaults",
    "vsock_ping_helper_path",
    "web_listen_addr",
];

fn bad(message: String) -> ApiError {
    ApiError::new(ErrorKind::BadConfig, message)
}

impl Config {
    /// Reads a configuration file; one that does not exist says nothing.
    ///
    /// # Errors
    /// `bad_config`, naming the file and the key.
    pub fn load(file: &Path) -> Result<Config, ApiError> {
        match std::fs::read_to_string(file) {
            Ok(text) => Config::parse(&text, file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
            Err(error) => Err(bad(format!("cannot read {}: {error}", file.display()))),
        }
    }

    /// Parses the text of a configuration file; `file` is for the messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Config, ApiError> {
        let file = file.display();
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            bad(format!("{file} is not TOML: {}", error.message()))
                .details(error.to_string().lines().map(str::to_owned).collect())
        })?;
        let go: Vec<&str> = GO_KEYS
            .iter()
            .copied()
            .filter(|key| table.contains_key(*key))
            .collect();
        if !go.is_empty() {
            return Err(bad(format!(
                "{file} belongs to the banger written in Go: it sets {}",
                go.join(", ")
            ))
            .hint("it is left alone; move it away, and see docs/configuration.md for the keys of this banger"));
        }
        let mut config = Config::default();
        for (key, value) in &table {
            match config.set(key, value) {
                Ok(()) => {}
                Err(KeyError::Value(reason)) => {
                    return Err(bad(format!("{key} in {file}: {reason}")));
                }
                Err(KeyError::Unknown) => {
                    let error = bad(format!("unknown key {key} in {file}"));
                    return Err(match nearest(key) {
                        Some(known) => error.hint(format!("did you mean {known}?")),
                        None => error.hint("see docs/configuration.md for the keys"),
                    });
                }
            }
        }
        config
            .check()
            .map_err(|reason| bad(format!("{reason} in {file}")))?;
        Ok(config)
    }

    /// The log level, with the environment's word above the file's.
    ///
    /// # Errors
    /// `bad_config` where the variable holds no level.
    pub fn log_level(&self, variable: Option<&str>) -> Result<LogLevel, ApiError> {
        match variable.filter(|text| !text.is_empty()) {
            None => Ok(self.log_level),
            Some(text) => {
                LogLevel::parse(&toml::Value::String(text.to_owned())).map_err(|reason| {
                    bad(format!("{LOG_LEVEL_VARIABLE}: {reason}"))
                        .hint("unset it to have the log_level of the configuration file")
                })
            }
        }
    }

    /// What no single value can say.
    fn check(&self) -> Result<(), String> {
        let at_least = |key: &str, size: Size, least: Size| {
            if size >= least {
                Ok(())
            } else {
                Err(format!("{key} must be at least {}", least.show()))
            }
        };
        at_least("memory", self.memory, Size::mib(64))?;
        at_least("disk_size", self.disk_size, Size::mib(16))?;
        at_least("console_log_size", self.console_log_size, Size::mib(1))?;
        // Half of it is held in memory when it is cut, and all of it when it is read.
        if self.console_log_size > LONGEST_CONSOLE {
            return Err(format!(
                "console_log_size must be at most {}",
                LONGEST_CONSOLE.show()
            ));
        }
        // One of them is the KVM probe's.
        if self.vm_uids.first == self.vm_uids.last {
            return Err("vm_uids must hold at least two ids".to_owned());
        }
        at_least("main_log_size", self.main_log_size, Size::mib(1))?;
        at_least("log_size", self.log_size, Size::mib(1))?;
        for (key, number) in [
            ("vcpus", u64::from(self.vcpus)),
            ("parallel_downloads", u64::from(self.parallel_downloads)),
            ("registry_attempts", u64::from(self.registry_attempts)),
            ("max_entries", self.max_entries),
        ] {
            if number == 0 {
                return Err(format!("{key} must be at least 1"));
            }
        }
        for (key, duration) in [
            ("probe_timeout", self.probe_timeout),
            ("boot_timeout", self.boot_timeout),
            ("agent_timeout", self.agent_timeout),
            ("registry_timeout", self.registry_timeout),
        ] {
            if duration.is_zero() {
                return Err(format!("{key} must be longer than nothing"));
            }
        }
        if self.default_image.is_empty() {
            return Err("default_image must not be empty".to_owned());
        }
        Ok(())
    }
}

/// The known key that needs the fewest changed letters, if that is few enough to be a typing error.
fn nearest(key: &str) -> Option<&'static str> {
    let key: String = key.chars().take(64).collect();
    Config::keys()
        .into_iter()
        .map(|known| (changes(&key, known.name), known.name))
        .min()
        .filter(|(changes, name)| *changes <= 2.max(name.len() / 3))
        .map(|(_, name)| name)
}

/// Levenshtein distance.
fn changes(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ApiError> {
        Config::parse(text, Path::new("/c/config.toml"))
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
        let absent = tempfile::tempdir().unwrap().path().join("absent.toml");
        assert_eq!(Config::load(&absent).unwrap(), Config::default());
    }

    #[test]
    fn every_key_can_be_set_to_its_default() {
        for key in Config::keys() {
            if key.default == "not set" {
                continue;
            }
            let text = format!("{} = {}", key.name, key.default);
            assert_eq!(parse(&text).unwrap(), Config::default(), "{text}");
        }
    }

    #[test]
    fn values() {
        let config = parse(
            r#"
            log_level = "debug"
            memory = "512M"
            disk_size = 2048
            stop_timeout = "1m 30s"
            accelerator = "tcg"
            vm_uids = "5000-5999"
            catalog = "/etc/banger/images.toml"
            "#,
        )
        .unwrap();
        assert_eq!(config.log_level, LogLevel::Debug);
        assert_eq!(config.memory, Size::mib(512));
        assert_eq!(config.disk_size, Size::gib(2));
        assert_eq!(config.stop_timeout, Duration::from_secs(90));
        assert_eq!(config.accelerator, AcceleratorChoice::Tcg);
        assert_eq!((config.vm_uids.first, config.vm_uids.last), (5000, 5999));
        assert_eq!(
            config.catalog,
            Some(PathBuf::from("/etc/banger/images.toml"))
        );
    }

    #[test]
    fn errors_name_file_and_key() {
        for (text, message, hint) in [
            (
                "log_levle = 'info'",
                "unknown key log_levle in /c/config.toml",
                "did you mean log_level?",
            ),
            (
                "[vm]\ncpus = 1",
                "unknown key vm in /c/config.toml",
                "see docs/configuration.md for the keys",
            ),
            (
                "vcpus = 0",
                "vcpus must be at least 1 in /c/config.toml",
                "",
            ),
            (
                "vcpus = -1",
                "vcpus in /c/config.toml: -1 is not a whole number from 0 to 4294967295",
                "",
            ),
            (
                "vcpus = 'two'",
                "vcpus in /c/config.toml: expected a whole number, got a string",
                "",
            ),
            (
                "memory = '1M'",
                "memory must be at least \"64M\" in /c/config.toml",
                "",
            ),
            (
                "memory = 'lots'",
                "memory in /c/config.toml: \"lots\" is not a size: write an integer and K, M, G or T, for instance 512M or 8GiB",
                "",
            ),
            (
                "memory = -1",
                "memory in /c/config.toml: -1 is not a number of MiB",
                "",
            ),
            (
                "stop_timeout = 30",
                "stop_timeout in /c/config.toml: expected a string such as \"30s\" or \"5m\", got an integer",
                "",
            ),
            (
                "stop_timeout = '30'",
                "stop_timeout in /c/config.toml: \"30\" is not a duration: write numbers with ms, s, m or h, for instance 30s",
                "",
            ),
            (
                "boot_timeout = '0s'",
                "boot_timeout must be longer than nothing in /c/config.toml",
                "",
            ),
            (
                "console_log_size = '65M'",
                "console_log_size must be at most \"64M\" in /c/config.toml",
                "",
            ),
            (
                "vm_uids = '9-9'",
                "vm_uids must hold at least two ids in /c/config.toml",
                "",
            ),
            (
                "vm_uids = '9-1'",
                "vm_uids in /c/config.toml: \"9-1\" is not a range of user ids: write FIRST-LAST, both above 0",
                "",
            ),
            (
                "vm_uids = '0-1'",
                "vm_uids in /c/config.toml: \"0-1\" is not a range of user ids: write FIRST-LAST, both above 0",
                "",
            ),
            (
                "accelerator = 'hvf'",
                "accelerator in /c/config.toml: \"hvf\" is none of auto, kvm, tcg",
                "",
            ),
            (
                "default_kernel = '../x'",
                "default_kernel in /c/config.toml: \"../x\" is not a kernel name: use 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', beginning with a letter or digit",
                "",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind, ErrorKind::BadConfig, "{text}");
            assert_eq!(error.message, message);
            assert_eq!(error.hint.unwrap_or_default(), hint, "{text}");
        }
        let error = parse("a = = 1").unwrap_err();
        assert!(
            error.message.starts_with("/c/config.toml is not TOML: "),
            "{error}"
        );
        assert!(error.details.iter().any(|line| line.contains("line 1")));
    }

    #[test]
    fn a_file_of_the_go_program_is_recognised_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        let text = "log_level = \"info\"\nbridge_name = \"br-fc\"\ntap_pool_size = 4\n\n[vm_defaults]\nvcpu = 2\n";
        std::fs::write(&file, text).unwrap();
        let error = Config::load(&file).unwrap_err();
        assert!(error.message.ends_with(
            "belongs to the banger written in Go: it sets bridge_name, tap_pool_size, vm_defaults"
        ), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }

    #[test]
    fn no_key_of_ours_was_one_of_the_go_program() {
        for key in Config::keys() {
            assert!(!GO_KEYS.contains(&key.name), "{}", key.name);
        }
    }

    #[test]
    fn the_environment_overrides_the_level() {
        let config = Config::default();
        assert_eq!(config.log_level(None).unwrap(), LogLevel::Info);
        assert_eq!(config.log_level(Some("")).unwrap(), LogLevel::Info);
        assert_eq!(config.log_level(Some("trace")).unwrap(), LogLevel::Trace);
        let error = config.log_level(Some("loud")).unwrap_err();
        assert_eq!(
            error.message,
            "BANGER_LOG_LEVEL: \"loud\" is none of error, warn, info, debug, trace"
        );
    }

    #[test]
    fn distances() {
        for (left, right, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3)] {
            assert_eq!(changes(left, right), expected);
        }
    }
}
