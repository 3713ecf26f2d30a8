//! What authentication costs: a refresh that is granted, a stranger that is refused, a challenge;
//! and the responses of a whole batch in lanes beside one after the other.
//!
//! The MD5 response is hashed over two blocks and the account is known, as in a refresh.

use std::hint::black_box;

use bindery::auth::digest::{self, Ha1Set, Secret};
use bindery::auth::md5_lanes::Batch;
use bindery::auth::nonce_count::{NonceCounts, RequestHash};
use bindery::auth::policy::{Algorithm, Policy};
use bindery::auth::{Authenticator, NonceKeys, Sink, Verdict};
use bindery::time::{DeltaSeconds, Now};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use md5::Digest;

const NOW: Now = Now { millis: 0, unix: 1_700_000_000 };
const URI: &str = "sip:sip.example.com";

struct Octets(Vec<u8>);

impl Sink for Octets {
    fn put(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }
}

fn hex<H: Digest>(text: &str) -> String {
    H::digest(text).iter().map(|octet| format!("{octet:02x}")).collect()
}

fn header<H: Digest>(algorithm: Algorithm, nonce: &[u8]) -> String {
    let nonce = String::from_utf8_lossy(nonce);
    let ha1 = hex::<H>("1001:sip.example.com:secret");
    let ha2 = hex::<H>(&format!("REGISTER:{URI}"));
    let response = hex::<H>(&format!("{ha1}:{nonce}:00000001:0a4f113b:auth:{ha2}"));
    format!(
        "Digest username=\"1001\", realm=\"sip.example.com\", nonce=\"{nonce}\", uri=\"{URI}\", \
         response=\"{response}\", algorithm={}, cnonce=\"0a4f113b\", qop=auth, nc=00000001",
        algorithm.token()
    )
}

fn benches(c: &mut Criterion) {
    let policy = Policy {
        realm: "sip.example.com".into(),
        algorithms: Algorithm::ALL.into(),
        nonce_lifetime: DeltaSeconds(300),
        qop_auth: true,
    };
    let keys = NonceKeys::from_bytes(&[7; 32]);
    let authenticator = Authenticator::new(policy, keys).expect("the policy has what it needs");
    let ha1s = Ha1Set::of_password(&Algorithm::ALL, b"1001", b"sip.example.com", b"secret");
    let nonce = *authenticator.challenge(NOW, RequestHash(1)).nonce();
    let verify = |header: &str, secret| {
        let values = [header.as_bytes()];
        let verdict = authenticator
            .verify_any(NOW, b"REGISTER", URI.as_bytes(), values, |_| black_box(secret));
        matches!(verdict, Verdict::Granted(_))
    };

    let mut group = c.benchmark_group("verify");
    for (algorithm, header) in [
        (Algorithm::Md5, header::<md5::Md5>(Algorithm::Md5, &nonce)),
        (Algorithm::Sha256, header::<sha2::Sha256>(Algorithm::Sha256, &nonce)),
        (Algorithm::Sha512_256, header::<sha2::Sha512_256>(Algorithm::Sha512_256, &nonce)),
    ] {
        assert!(verify(&header, Some(Secret::Ha1(ha1s))), "the bench measures a grant");
        group.bench_function(algorithm.token(), |b| {
            b.iter(|| verify(black_box(&header), Some(Secret::Ha1(ha1s))));
        });
    }
    let known = header::<md5::Md5>(Algorithm::Md5, &nonce);
    group.bench_function("unknown user", |b| b.iter(|| verify(black_box(&known), None)));
    let forged = header::<md5::Md5>(Algorithm::Md5, b"AAAAAAAAAAAAAAAAAAAAAA");
    group.bench_function("forged nonce", |b| {
        b.iter(|| verify(black_box(&forged), Some(Secret::Ha1(ha1s))));
    });
    group.finish();

    c.bench_function("challenge", |b| {
        let mut out = Octets(Vec::with_capacity(1024));
        b.iter(|| {
            out.0.clear();
            authenticator.challenge(black_box(NOW), RequestHash(9)).encode_into(&mut out);
            out.0.len()
        });
    });
    c.bench_function("digits of a digest", |b| {
        b.iter(|| digest::digits_of(black_box(&[0xa5; 16])));
    });
    c.bench_function("digest of digits", |b| {
        b.iter(|| digest::octets_of(black_box(b"939e7578ed9e3c518a452acee763bce9")));
    });
    c.bench_function("nonce counts", |b| {
        b.iter(|| NonceCounts::decode(black_box(&[1; NonceCounts::MAX_LEN])));
    });
}

/// What goes into a response. The length of its hashes is known to the compiler, that of the others
/// is not, as in a request.
struct Parts<'a> {
    ha1: [u8; 32],
    nonce: &'a [u8],
    nc: &'a [u8],
    cnonce: &'a [u8],
    ha2: [u8; 32],
}

impl Parts<'_> {
    #[inline(always)]
    fn all(&self) -> [&[u8]; 9] {
        let Self { ha1, nonce, nc, cnonce, ha2 } = self;
        [ha1, b":", nonce, b":", nc, b":", cnonce, b":auth:", ha2]
    }
}

/// Two blocks with a `cnonce` of up to 16 characters, three with 32.
fn parts(cnonce: &[u8]) -> Parts<'_> {
    let hash = *b"939e7578ed9e3c518a452acee763bce9";
    Parts { ha1: hash, nonce: b"AAAAAAAAAAAAAAAAAAAAAA", nc: b"00000001", cnonce, ha2: hash }
}

/// Time for each batch, from parts to digests; elements are messages.
fn lanes(c: &mut Criterion) {
    let mut group = c.benchmark_group("responses");
    let (short, long) = (parts(b"0a4f113b"), parts(b"0a4f113b0a4f113b0a4f113b0a4f113b"));
    for count in [1, 2, 3, 4, 8, 16, 32] {
        group.throughput(Throughput::Elements(count));
        let mut digests = Vec::with_capacity(32);
        group.bench_function(format!("{count}, one by one"), |b| {
            b.iter(|| {
                digests.clear();
                for _ in 0..count {
                    let mut hasher = md5::Md5::new();
                    black_box(&short).all().iter().for_each(|part| hasher.update(part));
                    digests.push(hasher.finalize());
                }
                digests.len()
            });
        });
        for (name, mut batch, long_ones) in [
            ("lanes", Batch::with_capacity(32), 0),
            ("lanes of any CPU", Batch::portable(32), 0),
            ("lanes, a quarter of three blocks", Batch::with_capacity(32), count / 4),
        ] {
            if name.ends_with("blocks") && long_ones == 0 {
                continue;
            }
            group.bench_function(format!("{count}, {name}"), |b| {
                b.iter(|| {
                    batch.clear();
                    for n in 0..count {
                        let parts = black_box(if n < long_ones { &long } else { &short });
                        batch.push(&parts.all()).expect("it is not too long");
                    }
                    batch.digests().len()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(digest, benches, lanes);
criterion_main!(digest);
