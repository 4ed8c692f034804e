//! Signatures by the [Standard Webhooks](https://www.standardwebhooks.com) scheme.

use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// What the scheme asks for.
const KEY_BYTES: RangeInclusive<usize> = 24..=64;

const PREFIX: &str = "whsec_";

/// Secrets are handed out with padding and without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a secret is, and how one is made.
pub(super) const EXPECTED: &str = "expected `whsec_` and a key in base64, as \
    `echo \"whsec_$(openssl rand -base64 32)\"` prints";

/// A key that sender and receiver share. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SigningKey(Vec<u8>);

impl SigningKey {
    /// Reads `whsec_` and the key in base64. What is wrong is said without repeating the text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(EXPECTED.into());
        };
        let Ok(key) = BASE64.decode(encoded) else {
            return Err("expected base64 after `whsec_`".into());
        };
        if !KEY_BYTES.contains(&key.len()) {
            let (least, most) = KEY_BYTES.into_inner();
            let length = key.len();
            return Err(format!(
                "its key is {length} bytes long, expected {least} to {most}"
            ));
        }
        Ok(Self(key))
    }

    /// The signature of a request, such as `v1,…`.
    fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        let code = mac.finalize().into_bytes();
        format!("v1,{}", BASE64_STANDARD.encode(code))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(_)")
    }
}

/// The value of `webhook-signature`: a signature by each of `keys`. While a key is changed, a receiver
/// finds one that it knows.
pub(super) fn sign(keys: &[SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures: Vec<_> = keys
        .iter()
        .map(|key| key.sign(id, timestamp, body))
        .collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the scheme's own documentation and reference libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_request_is_signed_as_the_scheme_shows() {
        let key = SigningKey::parse(SECRET).unwrap();
        let signature = sign(
            &[key],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_key_signs() {
        let other = format!("whsec_{}", BASE64_STANDARD.encode([7; 24]));
        let keys = [SECRET, &other].map(|text| SigningKey::parse(text).unwrap());
        let both = sign(&keys, "id", 1, b"{}");
        let alone = keys.map(|key| sign(&[key], "id", 1, b"{}"));
        assert_eq!(both, alone.join(" "));
    }

    #[test]
    fn a_secret_that_is_none_is_refused_without_being_shown() {
        let encoded = |length| format!("whsec_{}", BASE64_STANDARD.encode(vec![7; length]));
        for (text, expected) in [
            ("", EXPECTED),
            (&SECRET[6..], EXPECTED),
            ("whsec_not base64", "expected base64 after `whsec_`"),
            ("whsec_", "its key is 0 bytes long, expected 24 to 64"),
            (&encoded(23), "its key is 23 bytes long, expected 24 to 64"),
            (&encoded(65), "its key is 65 bytes long, expected 24 to 64"),
        ] {
            assert_eq!(SigningKey::parse(text), Err(expected.into()), "{text}");
        }
        for text in [encoded(24), encoded(64), encoded(25).replace('=', "")] {
            let key = SigningKey::parse(&text).unwrap();
            assert_eq!(format!("{key:?}"), "SigningKey(_)");
        }
    }
}
