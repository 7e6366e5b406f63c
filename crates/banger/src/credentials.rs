//! Registry credentials: read as the user from docker's `config.json` and its helpers, for the one
//! registry a request is about, and sent with that request.
//!
//! No file and no entry mean anonymous. A helper named for the registry that fails is an error; the
//! general store (`credsStore`) failing is only told, since it is often one that is not installed
//! here, and most images are public.

use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_protocol::api::image::{Image, RegistryCredentials};
use banger_protocol::api::path;
use banger_protocol::error::{ApiError, ErrorKind};
use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde::Deserialize;

use crate::client::Client;
use crate::environment::Environment;
use crate::failure::tell;

/// How long a helper may take; some ask the user something.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// docker's own name for the registry `docker.io`.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The part of `config.json` that says whether there can be credentials at all.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: serde_json::Map<String, serde_json::Value>,
    creds_store: Option<String>,
    cred_helpers: serde_json::Map<String, serde_json::Value>,
}

impl DockerConfig {
    fn is_empty(&self) -> bool {
        self.auths.is_empty()
            && self.cred_helpers.is_empty()
            && self.creds_store.as_deref().unwrap_or_default().is_empty()
    }
}

/// Credentials for a VM's image, which may be local already: then none are needed or read.
/// `None` as the image means the daemon's default.
///
/// # Errors
/// A helper named for the registry fails.
pub async fn for_vm(
    environment: &Environment,
    client: &Client,
    image: Option<&str>,
) -> Result<Option<RegistryCredentials>, ApiError> {
    let Some(config) = Config::read(environment) else {
        return Ok(None);
    };
    let image = image.unwrap_or(&client.daemon().defaults.image);
    if client
        .get::<Image>(&path::fill(path::IMAGE, &[image]))
        .await
        .is_ok()
    {
        return Ok(None);
    }
    config.retrieve(image).await
}

/// Credentials for pulling a reference.
///
/// # Errors
/// A helper named for the registry fails.
pub async fn for_reference(
    environment: &Environment,
    reference: &str,
) -> Result<Option<RegistryCredentials>, ApiError> {
    match Config::read(environment) {
        Some(config) => config.retrieve(reference).await,
        None => Ok(None),
    }
}

struct Config {
    file: PathBuf,
    bytes: Vec<u8>,
    docker: DockerConfig,
}

impl Config {
    /// `None` where nothing is configured; a file that cannot be used is told.
    fn read(environment: &Environment) -> Option<Config> {
        let file = environment.docker_config.as_ref()?.join("config.json");
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn(&file, &error.to_string());
                return None;
            }
        };
        match serde_json::from_slice::<DockerConfig>(&bytes) {
            Ok(docker) if docker.is_empty() => None,
            Ok(docker) => Some(Config {
                file,
                bytes,
                docker,
            }),
            Err(error) => {
                warn(&file, &error.to_string());
                None
            }
        }
    }

    async fn retrieve(self, reference: &str) -> Result<Option<RegistryCredentials>, ApiError> {
        let server = server(reference);
        let has_own_helper = self.docker.cred_helpers.contains_key(&server);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (asked, bytes) = (server.clone(), self.bytes);
        // A thread of its own: a helper that hangs must not hold up the end of the process.
        std::thread::spawn(move || {
            let result = docker_credential::get_credential_from_reader(bytes.as_slice(), &asked);
            let _ = sender.send(result);
        });
        let failure = match tokio::time::timeout(HELPER_TIMEOUT, receiver).await {
            Ok(Ok(Ok(DockerCredential::UsernamePassword(username, password)))) => {
                return Ok(Some(RegistryCredentials::Basic { username, password }));
            }
            Ok(Ok(Ok(DockerCredential::IdentityToken(token)))) => {
                return Ok(Some(RegistryCredentials::IdentityToken { token }));
            }
            Ok(Ok(Err(error))) => match reason(&error) {
                Some(reason) => reason,
                None => return Ok(None),
            },
            Ok(Err(_)) => "the helper's answer could not be understood".to_owned(),
            Err(_) => format!(
                "the helper did not answer within {} s",
                HELPER_TIMEOUT.as_secs()
            ),
        };
        let what = format!("cannot get credentials for {server}: {failure}");
        if has_own_helper {
            return Err(ApiError::new(ErrorKind::Unauthorized, what).hint(format!(
                "mend or remove the helper named in {}",
                self.file.display()
            )));
        }
        tell(&format!("banger: {what}; going on without\n"));
        Ok(None)
    }
}

fn warn(file: &Path, reason: &str) {
    tell(&format!(
        "banger: cannot use {}: {reason}; going on without registry credentials\n",
        file.display()
    ));
}

/// Why there are none although there should be; `None` where there simply are none.
fn reason(error: &CredentialRetrievalError) -> Option<String> {
    match error {
        CredentialRetrievalError::NoCredentialConfigured
        | CredentialRetrievalError::ConfigNotFound => None,
        CredentialRetrievalError::HelperFailure {
            helper,
            stdout,
            stderr,
        } => {
            let said = format!("{stdout} {stderr}");
            // What docker's helpers say about a registry they have nothing for.
            if said.contains("credentials not found") {
                return None;
            }
            Some(format!("{helper} failed: {}", said.trim()))
        }
        CredentialRetrievalError::HelperCommunicationError => {
            Some("the helper is not installed or cannot be executed".to_owned())
        }
        other => Some(other.to_string()),
    }
}

/// The key of a reference's registry in docker's configuration.
fn server(reference: &str) -> String {
    let registry = reference.split_once('/').map(|(first, _)| first);
    match registry {
        Some(host) if host.contains(['.', ':']) || host == "localhost" => {
            if matches!(host, "docker.io" | "index.docker.io") {
                DOCKER_HUB.to_owned()
            } else {
                host.to_owned()
            }
        }
        _ => DOCKER_HUB.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(config: &str) -> (tempfile::TempDir, Environment) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        let environment = Environment {
            docker_config: Some(directory.path().to_owned()),
            ..Environment::default()
        };
        (directory, environment)
    }

    async fn found(config: &str, reference: &str) -> Result<Option<RegistryCredentials>, ApiError> {
        let (_directory, environment) = environment(config);
        for_reference(&environment, reference).await
    }

    #[test]
    fn registries() {
        for (reference, expected) in [
            ("debian", DOCKER_HUB),
            ("debian:12", DOCKER_HUB),
            ("team/app", DOCKER_HUB),
            ("docker.io/team/app", DOCKER_HUB),
            ("ghcr.io/a/b:c", "ghcr.io"),
            ("localhost/a", "localhost"),
            ("127.0.0.1:5000/a@sha256:00", "127.0.0.1:5000"),
        ] {
            assert_eq!(server(reference), expected, "{reference}");
        }
    }

    #[tokio::test]
    async fn credentials_are_those_of_the_registry_in_question() {
        // "user:secret"
        let config = r#"{"auths":{"ghcr.io":{"auth":"dXNlcjpzZWNyZXQ="},
            "reg.example":{"identitytoken":"tok"}}}"#;
        assert_eq!(
            found(config, "ghcr.io/a/b").await.unwrap(),
            Some(RegistryCredentials::Basic {
                username: "user".into(),
                password: "secret".into()
            })
        );
        assert_eq!(
            found(config, "reg.example/x").await.unwrap(),
            Some(RegistryCredentials::IdentityToken {
                token: "tok".into()
            })
        );
        assert_eq!(found(config, "debian").await.unwrap(), None);
        assert_eq!(found(config, "ghcr.io.evil.example/a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn without_a_usable_file_it_is_anonymous() {
        assert_eq!(found("{}", "debian").await.unwrap(), None);
        assert_eq!(found("not json", "debian").await.unwrap(), None);
        let nowhere = Environment {
            docker_config: Some("/nonexistent".into()),
            ..Environment::default()
        };
        assert_eq!(for_reference(&nowhere, "debian").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_helper_of_the_registry_that_fails_is_an_error_a_store_is_not() {
        let helper = r#"{"credHelpers":{"reg.example":"banger-absent"}}"#;
        let error = found(helper, "reg.example/x").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthorized);
        assert!(error.hint.unwrap().contains("config.json"));
        assert_eq!(found(helper, "ghcr.io/x").await.unwrap(), None);
        let store = r#"{"credsStore":"banger-absent"}"#;
        assert_eq!(found(store, "reg.example/x").await.unwrap(), None);
    }

    #[test]
    fn a_helper_without_an_entry_is_anonymous() {
        let failure = |stdout: &str| CredentialRetrievalError::HelperFailure {
            helper: "docker-credential-x".into(),
            stdout: stdout.into(),
            stderr: String::new(),
        };
        assert_eq!(
            reason(&failure("credentials not found in native keychain")),
            None
        );
        assert!(reason(&failure("locked")).unwrap().contains("locked"));
    }
}
