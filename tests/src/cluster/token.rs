//! Tokens of service accounts whose time is over in seconds, signed with the API server's own key: it
//! gives none itself that lives for less than ten minutes (`validation.go` of its TokenRequest).

use anyhow::{Context, anyhow};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
use rcgen::KeyPair;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// Who issues tokens, and whom they are for unless they say otherwise.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// For so long after its time a token is still taken, since clocks differ (`DefaultLeeway` of go-jose).
const LEEWAY: Duration = Duration::from_mins(1);
/// How long ago it claims to have been issued.
const AGE: Duration = Duration::from_hours(1);

/// A token of a service account, told by namespace, name and UID, that is taken for `life` from now on.
///
/// # Errors
/// When the key, a P-256 key as PEM, cannot be used.
pub fn brief(key: &str, account: (&str, &str, &str), life: Duration) -> anyhow::Result<String> {
    let (namespace, name, uid) = account;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let issued_s = now.saturating_sub(AGE).as_secs();
    let claims = json!({
        "iss": ISSUER,
        "aud": [ISSUER],
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "iat": issued_s,
        "nbf": issued_s,
        "exp": (now + life).saturating_sub(LEEWAY).as_secs(),
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}},
    });
    sign(key, &claims)
}

/// As RFC 7515 has it, with ES256 of RFC 7518.
fn sign(key: &str, claims: &Value) -> anyhow::Result<String> {
    let key = KeyPair::from_pem(key).context("read the key of the service accounts")?;
    let random = SystemRandom::new();
    let der = key.serialize_der();
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
        .map_err(|error| anyhow!("use the key of the service accounts: {error}"))?;
    let header = json!({"alg": "ES256", "typ": "JWT"});
    let [header, claims] = [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let text = format!("{header}.{claims}");
    let signature = signer.sign(&random, text.as_bytes());
    let signature = signature.map_err(|error| anyhow!("sign a token: {error}"))?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
