//! Who is let in: passwords, tokens, and what happens without.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use banger_image::error::{ImageError, ImageErrorKind as Kind};
use banger_image::registry::Credentials;

use crate::fake::{Fake, Reply, Request};
use crate::images::TestImage;
use crate::{Root, whole};

/// `ann:s3cret`.
const BASIC: &str = "Basic YW5uOnMzY3JldA==";

fn ann() -> Credentials {
    Credentials::Password {
        username: "ann".into(),
        password: "s3cret".into(),
    }
}

fn image() -> TestImage {
    TestImage::new(&[
        crate::images::tar(&[("one", b"1")]),
        crate::images::tar(&[("two", b"2")]),
    ])
}

/// A registry that hands out tokens on its own port; `let_in` judges each token request, and
/// `valid` each token.
fn token_registry(
    let_in: fn(&Request) -> bool,
    valid: impl Fn(&Request, &str) -> bool + Send + Sync + 'static,
) -> Fake {
    let port = Arc::new(OnceLock::new());
    let handed_out = AtomicUsize::new(0);
    let fake = Fake::new({
        let port = Arc::clone(&port);
        move |request, honest| {
            if request.path.starts_with("/token") {
                if !let_in(request) {
                    return Reply::new(401, r#"{"details":"incorrect username or password"}"#);
                }
                let number = handed_out.fetch_add(1, Ordering::SeqCst);
                return Reply::new(200, format!(r#"{{"token":"t{number}"}}"#));
            }
            let token = request
                .header("authorization")
                .and_then(|header| header.strip_prefix("Bearer "));
            if token.is_some_and(|token| valid(request, token)) {
                return honest;
            }
            let port: u16 = *port.get().unwrap();
            Reply::new(
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#,
            )
            .header(
                "www-authenticate",
                &format!(
                    "Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"reg istry\",\
                         scope=\"repository:app:pull\""
                ),
            )
        }
    });
    port.set(fake.port).unwrap();
    fake.put("app", "1", &image());
    fake
}

fn token_requests(fake: &Fake) -> Vec<Request> {
    let log = fake.log().into_iter();
    log.filter(|request| request.path.starts_with("/token"))
        .collect()
}

#[tokio::test]
async fn passwords_are_asked_for_and_sent() {
    let fake = Fake::new(|request, honest| {
        if request.header("authorization") == Some(BASIC) {
            return honest;
        }
        Reply::new(401, r#"{"errors":[{"message":"authentication required"}]}"#)
            .header("www-authenticate", "Basic realm=\"x\"")
    });
    fake.put("app", "1", &image());
    let reference = fake.reference("app:1");
    let root = Root::new();
    root.pull_as(&reference, ann()).await.unwrap();

    let root = Root::new();
    let error = root.pull(&reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    let hint = error.hint().unwrap();
    assert!(
        hint.starts_with("log in first: `docker login 127.0.0.1:"),
        "{hint}"
    );

    let wrong = Credentials::Password {
        username: "ann".into(),
        password: "wrong".into(),
    };
    let error = root.pull_as(&reference, wrong).await.unwrap_err();
    assert!(
        whole(&error).contains("authentication required"),
        "{}",
        whole(&error)
    );
    assert!(error.hint().unwrap().starts_with("log in again"));

    let token = Credentials::IdentityToken { token: "x".into() };
    let error = root.pull_as(&reference, token).await.unwrap_err();
    assert!(
        whole(&error).contains("an identity token was given"),
        "{}",
        whole(&error)
    );
    root.assert_nothing_published();
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_for_all_requests() {
    let fake = token_registry(
        |request| request.header("authorization").is_none(),
        |_, _| true,
    );
    let root = Root::new();
    root.pull(&fake.reference("app:1")).await.unwrap();
    let requests = token_requests(&fake);
    assert_eq!(requests.len(), 1);
    assert_eq!(
        requests[0].path,
        "/token?service=reg+istry&scope=repository%3Aapp%3Apull"
    );
}

#[tokio::test]
async fn a_token_is_fetched_with_a_password() {
    let fake = token_registry(
        |request| request.header("authorization") == Some(BASIC),
        |_, _| true,
    );
    let root = Root::new();
    root.pull_as(&fake.reference("app:1"), ann()).await.unwrap();

    let error = root.pull(&fake.reference("app:1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(
        whole(&error).contains("incorrect username or password"),
        "{}",
        whole(&error)
    );
}

#[tokio::test]
async fn an_identity_token_is_exchanged() {
    let fake = token_registry(
        |request| {
            request.method == "POST"
                && request.body
                    == "grant_type=refresh_token&client_id=banger\
                        &scope=repository%3Aapp%3Apull&refresh_token=r%26t&service=reg+istry"
        },
        |_, _| true,
    );
    let root = Root::new();
    let token = Credentials::IdentityToken {
        token: "r&t".into(),
    };
    root.pull_as(&fake.reference("app:1"), token).await.unwrap();
}

#[tokio::test]
async fn a_token_that_runs_out_is_fetched_anew() {
    // The first token is good for manifests only.
    let fake = token_registry(
        |_| true,
        |request, token| token != "t0" || !request.is_blob(),
    );
    let root = Root::new();
    root.pull(&fake.reference("app:1")).await.unwrap();
    assert_eq!(token_requests(&fake).len(), 2);
}

#[tokio::test]
async fn a_token_that_is_never_good_is_a_refusal() {
    let fake = token_registry(|_| true, |_, _| false);
    let root = Root::new();
    let error = root.pull(&fake.reference("app:1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(whole(&error).contains("who are you"), "{}", whole(&error));
    assert_eq!(token_requests(&fake).len(), 1);
    root.assert_nothing_published();
}

#[tokio::test]
async fn no_password_is_sent_to_a_token_server_over_plain_http() {
    let fake = Fake::new(|_, _| {
        Reply::new(401, "").header(
            "www-authenticate",
            "Bearer realm=\"http://192.0.2.1/token\",service=\"x\"",
        )
    });
    let root = Root::new();
    let error = root
        .pull_as(&fake.reference("app:1"), ann())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ImageError::Unauthorized { detail, .. } if detail.contains("token server")),
        "{}",
        whole(&error)
    );
}

#[test]
fn credentials_are_never_shown() {
    let shown = format!(
        "{:?} {:?}",
        ann(),
        Credentials::IdentityToken {
            token: "tok".into()
        }
    );
    assert!(!shown.contains("s3cret") && !shown.contains("tok\"") && !shown.contains("ann"));
}
