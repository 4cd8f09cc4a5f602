//! An identity provider: keys that openssl makes, a server of their documents, and tokens signed with them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ledger::Clock;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

pub(super) const ISSUER: &str = "https://id.example/realms/shop";
pub(super) const AUDIENCE: &str = "ledger";

/// A key pair of a provider.
#[derive(Clone)]
pub(super) struct Signer {
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    pub(super) key: EncodingKey,
    /// Its public half: `kty` and the numbers, nothing else.
    pub(super) public: Value,
}

impl Signer {
    pub(super) fn rsa(kid: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        openssl(dir.path(), &["genrsa", "-out", "key", "2048"])?;
        let der = openssl(dir.path(), &["rsa", "-in", "key", "-traditional", "-outform", "DER"])?;
        let modulus = openssl(dir.path(), &["rsa", "-in", "key", "-noout", "-modulus"])?;
        let modulus = String::from_utf8(modulus)?;
        let hex = modulus.trim().strip_prefix("Modulus=").context("no modulus")?;
        let public = json!({"kty": "RSA", "n": BASE64.encode(hex::decode(hex)?), "e": "AQAB"});
        Ok(Self {
            kid: kid.into(),
            algorithm: Algorithm::RS256,
            key: EncodingKey::from_rsa_der(&der),
            public,
        })
    }

    pub(super) fn ec(kid: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        openssl(dir.path(), &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key"])?;
        let der = openssl(dir.path(), &["pkcs8", "-topk8", "-nocrypt", "-in", "key", "-outform", "DER"])?;
        let public = openssl(dir.path(), &["ec", "-in", "key", "-pubout", "-outform", "DER"])?;
        let point = public.last_chunk::<64>().context("no point")?;
        let (x, y) = point.split_at(32);
        let public = json!({"kty": "EC", "crv": "P-256", "x": BASE64.encode(x), "y": BASE64.encode(y)});
        Ok(Self { kid: kid.into(), algorithm: Algorithm::ES256, key: EncodingKey::from_ec_der(&der), public })
    }

    pub(super) fn ed(kid: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        openssl(dir.path(), &["genpkey", "-algorithm", "ed25519", "-out", "key"])?;
        let der = openssl(dir.path(), &["pkcs8", "-topk8", "-nocrypt", "-in", "key", "-outform", "DER"])?;
        let public = openssl(dir.path(), &["pkey", "-in", "key", "-pubout", "-outform", "DER"])?;
        let x = public.last_chunk::<32>().context("no point")?;
        let public = json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(x)});
        Ok(Self { kid: kid.into(), algorithm: Algorithm::EdDSA, key: EncodingKey::from_ed_der(&der), public })
    }

    /// The public half with these members beside it.
    pub(super) fn jwk(&self, members: Value) -> Value {
        let mut jwk = self.public.clone();
        jwk["kid"] = json!(self.kid);
        merge(&mut jwk, members);
        jwk
    }

    /// A token of these claims and, beside `alg` and `kid`, these members in its head.
    pub(super) fn sign(&self, head: Value, claims: &Value) -> Result<String> {
        let mut header = serde_json::to_value(Header::new(self.algorithm))?;
        header["kid"] = json!(self.kid);
        merge(&mut header, head);
        let message = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm)?;
        Ok(format!("{message}.{signature}"))
    }
}

/// Claims that are right, and these in their place; null takes one away.
pub(super) fn claims(clock: &Clock, changed: Value) -> Value {
    let now = clock.now().timestamp();
    let mut claims = json!({"sub": "idp|ada", "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 3600});
    merge(&mut claims, changed);
    claims
}

fn merge(into: &mut Value, members: Value) {
    let (Value::Object(into), Value::Object(members)) = (into, members) else { return };
    for (name, value) in members {
        match value {
            Value::Null => into.remove(&name),
            value => into.insert(name, value),
        };
    }
}

fn openssl(dir: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let made = Command::new("openssl").args(arguments).current_dir(dir).output()?;
    ensure!(made.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&made.stderr));
    Ok(made.stdout)
}

/// A provider's server of its keys.
pub(super) struct Provider {
    pub(super) url: String,
    served: Arc<Served>,
    _server: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Served {
    /// None: an error of the provider's.
    document: Mutex<Option<Value>>,
    requests: AtomicUsize,
}

impl Provider {
    pub(super) async fn start() -> Result<Self> {
        let served = Arc::new(Served::default());
        let app = Router::new().fallback(serve).with_state(Arc::clone(&served));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/protocol/openid-connect/certs", listener.local_addr()?);
        let serving = async { axum::serve(listener, app).await.expect("it serves") };
        Ok(Self { url, served, _server: AbortOnDropHandle::new(tokio::spawn(serving)) })
    }

    pub(super) fn publish(&self, keys: &[Value]) {
        *self.served.document.lock() = Some(json!({ "keys": keys }));
    }

    pub(super) fn publish_text(&self, document: Value) {
        *self.served.document.lock() = Some(document);
    }

    pub(super) fn fail(&self) {
        *self.served.document.lock() = None;
    }

    pub(super) fn requests(&self) -> usize {
        self.served.requests.load(Ordering::SeqCst)
    }

    /// Settings of an api whose users sign in there.
    pub(super) fn settings(&self) -> [(&str, &str); 4] {
        [
            ("JWT_JWKS_URL", &self.url),
            ("JWT_ISSUER", ISSUER),
            ("JWT_AUDIENCE", AUDIENCE),
            ("TRUSTED_PROXIES", "127.0.0.1/32"),
        ]
    }
}

async fn serve(State(served): State<Arc<Served>>) -> (StatusCode, String) {
    served.requests.fetch_add(1, Ordering::SeqCst);
    match &*served.document.lock() {
        Some(document) => (StatusCode::OK, document.to_string()),
        None => (StatusCode::BAD_GATEWAY, String::new()),
    }
}
