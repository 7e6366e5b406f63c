//! What a registry wants to see before it answers: the `WWW-Authenticate` header.

use http_auth::parser::ChallengeParser;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        /// Where tokens are handed out.
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The strongest challenge that we can meet. Unknown schemes and what cannot be parsed are passed
/// over.
pub(crate) fn choose<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for challenge in ChallengeParser::new(header).map_while(Result::ok) {
            let parameter = |name: &str| {
                challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = parameter("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: parameter("service"),
                        scope: parameter("scope"),
                    });
                }
            } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        })
    }

    #[test]
    fn the_strongest_known_challenge_is_taken() {
        for (headers, expected) in [
            (&[][..], None),
            (&["Basic realm=\"x\""][..], Some(Challenge::Basic)),
            (&["basic"], Some(Challenge::Basic)),
            (&["Negotiate", "Basic realm=x"], Some(Challenge::Basic)),
            (
                &["Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:x/y:pull,push\""],
                bearer("https://a/t", Some("s"), Some("repository:x/y:pull,push")),
            ),
            (
                &["Basic realm=x, Bearer realm=\"https://a\""],
                bearer("https://a", None, None),
            ),
            (
                &["Basic realm=x", "BEARER Realm=\"https://a\""],
                bearer("https://a", None, None),
            ),
            (&["Bearer service=\"s\""], None),
            (&["Bearer realm=\"unclosed"], None),
            (&["\u{1}\u{2},,,="], None),
        ] {
            assert_eq!(choose(headers.iter().copied()), expected, "{headers:?}");
        }
    }
}
