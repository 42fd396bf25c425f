//! The server's token: what a client must know where other machines can reach the port.

use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::{HeaderMap, HeaderValue};

use crate::error::{Result, ServeError};

/// Shortest token that is accepted, in characters.
pub const TOKEN_CHARS_MIN: usize = 16;

/// A token, kept only as hashes: comparing two of them takes the same time for any guess.
#[derive(Debug, Clone)]
pub struct Token {
    secret: blake3::Hash,
    cookie: blake3::Hash,
    cookie_name: String,
}

impl Token {
    /// Checks and takes a token; the cookie carries the port, since browsers share cookies between ports.
    ///
    /// # Errors
    /// When it is too short, or has characters that a URL would change.
    pub fn new(token: &str, port: u16) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        if token.len() < TOKEN_CHARS_MIN || !token.bytes().all(plain) {
            return Err(ServeError::WeakToken {
                min: TOKEN_CHARS_MIN,
            });
        }
        Ok(Self {
            secret: blake3::hash(token.as_bytes()),
            cookie: blake3::Hash::from(blake3::derive_key(
                "expman-mesh 2026 dashboard cookie",
                token.as_bytes(),
            )),
            cookie_name: format!("expman_{port}"),
        })
    }

    /// Whether this is the token. `blake3::Hash` compares in constant time.
    pub fn is(&self, guess: &str) -> bool {
        blake3::hash(guess.as_bytes()) == self.secret
    }

    /// Whether the request shows the token: as a bearer, or by the cookie that the page was given.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let bearer = headers
            .get(AUTHORIZATION)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| {
                let (scheme, token) = v.split_once(' ')?;
                scheme
                    .eq_ignore_ascii_case("bearer")
                    .then_some(token.trim())
            });
        if bearer.is_some_and(|token| self.is(token)) {
            return true;
        }
        headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == self.cookie_name)
            .filter_map(|(_, value)| blake3::Hash::from_hex(value).ok())
            .any(|hash| hash == self.cookie)
    }

    /// The cookie for a browser that showed the token; it does not contain the token.
    pub fn set_cookie(&self) -> Option<HeaderValue> {
        let text = format!(
            "{}={}; Path=/; HttpOnly; SameSite=Strict",
            self.cookie_name,
            self.cookie.to_hex()
        );
        HeaderValue::from_str(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "0123456789abcdef";

    fn with(name: axum::http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn short_or_odd_tokens_are_refused() {
        for bad in ["", "short", "has a space in it!", "sixteen-chars-%00"] {
            assert!(
                matches!(Token::new(bad, 1), Err(ServeError::WeakToken { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_bearer_or_the_cookie_is_admitted_and_nothing_else() {
        let token = Token::new(GOOD, 8000).unwrap();
        assert!(token.admits(&with(AUTHORIZATION, "Bearer 0123456789abcdef")));
        assert!(token.admits(&with(AUTHORIZATION, "bearer 0123456789abcdef")));
        for bad in [
            "Bearer 0123456789abcdee",
            "Bearer",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert!(!token.admits(&with(AUTHORIZATION, bad)), "{bad}");
        }
        let cookie = token.set_cookie().unwrap();
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        assert!(token.admits(&with(COOKIE, &format!("other=1; {pair}"))));
        assert!(!token.admits(&with(COOKIE, &format!("expman_8000={GOOD}"))));
        assert!(!token.admits(&with(COOKIE, &pair.replace("expman_8000", "expman_8001"))));
        assert!(!token.admits(&HeaderMap::new()));
    }
}
