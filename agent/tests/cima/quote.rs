// SPDX-License-Identifier: Apache-2.0
//! `cima verify` of what a software TPM signed, by cima's own key and by keys of tpm2-tools.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cima_policies::VERIFICATION_DEFAULT;
use ima_log::{Entry, HashAlgorithm};
use serde_json::Value;

use crate::{
    command::{Files, Ran, cima, cima_reading},
    evidence::{evidence, extend},
    list::{List, binary},
    swtpm::Swtpm,
};

/// Evidence of a list whose last entry was not extended, in a file.
struct Case {
    files: Files,
    evidence: Value,
    path: String,
    key: String,
}

impl Case {
    fn new(nonce: &str) -> Self {
        let (files, tpm, list) = (Files::new(), Swtpm::start(), List::good());
        extend(&tpm, 13, &list.entries[..8]);
        let listed = files.write("list.ima", list.binary());
        let evidence = evidence(&tpm, nonce, &listed);
        let path = files.write("node.json", evidence.to_string());
        let key = cima(["evidence", "key", "--json", "--tpm", &tpm.tcti()]);
        let key = files.write("ak.json", key.bytes);
        Self {
            files,
            evidence,
            path,
            key,
        }
    }

    fn verify(&self, more: &[&str]) -> Ran {
        cima([&["verify", "--evidence", &self.path], more].concat())
    }

    /// The same with something else in the evidence.
    fn with(&self, change: impl FnOnce(&mut Value)) -> Ran {
        let mut evidence = self.evidence.clone();
        change(&mut evidence);
        let path = self.files.write("other.json", evidence.to_string());
        let words = ["verify", "--evidence", &path, "--nonce", "chosen"];
        cima([&words[..], &["--ak", &self.key, "--json"]].concat())
    }
}

fn kinds(ran: &Ran) -> Vec<String> {
    let verdict = ran.json();
    let faults = verdict["faults"].as_array().unwrap();
    let kind = |fault: &Value| fault["kind"].as_str().unwrap().to_owned();
    faults.iter().map(kind).collect()
}

/// One part of a quote, changed.
fn changed(quote: &str, at: usize, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut parts: Vec<_> = quote[1..]
        .split(':')
        .map(|part| STANDARD.decode(part).unwrap())
        .collect();
    change(&mut parts[at]);
    let parts: Vec<_> = parts.iter().map(|part| STANDARD.encode(part)).collect();
    format!("r{}", parts.join(":"))
}

#[test]
fn evidence_is_good_by_the_nonce_and_the_key_that_were_chosen() {
    let case = Case::new("chosen");
    let ran = case.verify(&["--nonce", "chosen", "--ak", &case.key]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!(
        ran.verdict(),
        "good: all 8 entries are in PCR 13, unaltered and in order"
    );
    assert!(!ran.out.contains("fresh"), "{}", ran.out);
    assert!(ran.out.contains("quote: ecdsa by the key with SHA-256"));
    assert!(ran.out.contains("sha256 match   replayed and quote"));
    let verdict = case.verify(&["--nonce", "chosen", "--ak", &case.key, "--json"]);
    let verdict = verdict.json();
    let quote = &verdict["quote"];
    assert_eq!(
        (&quote["good"], &quote["key_trusted"]),
        (&true.into(), &true.into())
    );
    assert_eq!(quote["pcrs"][0]["pcrs"][0], 13);
    assert_eq!(verdict["values_from"], "quote");
    // What nobody chose is not checked, and that is said.
    let ran = case.verify(&[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.out
            .contains("whether the quote is fresh was not checked")
    );
    assert!(
        ran.out
            .contains("the key that signed is the evidence's own claim")
    );
    let words = ["verify", "--evidence", "-", "--nonce", "chosen"];
    let piped = cima_reading(words, case.evidence.to_string().as_bytes());
    assert_eq!(piped.code, Some(0), "{piped:?}");
}

#[test]
fn a_quote_that_anybody_can_make_is_none_where_one_is_asked_for() {
    let case = Case::new("chosen");
    let policy = VERIFICATION_DEFAULT.replace("no_quote = \"warn\"", "no_quote = \"refuse\"");
    let policy = policy.replace("unregistered = \"refuse\"", "unregistered = \"accept\"");
    let policy = case.files.write("policy.toml", policy);
    let key = ["--ak", &case.key];
    let nonce = ["--nonce", "chosen"];
    let cases = [
        (vec![], Some("neither key nor nonce was given")),
        (nonce.to_vec(), Some("a key that it names itself: none")),
        (key.to_vec(), Some("is fresh was not checked: no nonce")),
        ([nonce, key].concat(), None),
    ];
    for (more, said) in cases {
        let terms = ["--policy", &policy, "--json"];
        let ran = case.verify(&[&terms[..], &more].concat());
        assert_eq!(ran.code, Some(i32::from(said.is_some())), "{ran:?}");
        let verdict = ran.json();
        let reasons = verdict["node"]["reasons"].as_array().unwrap();
        let reason = reasons.iter().find(|one| one["kind"] == "no-quote");
        assert_eq!(reason.is_some(), said.is_some(), "{verdict}");
        if let (Some(reason), Some(said)) = (reason, said) {
            let sentence = reason["sentence"].as_str().unwrap();
            assert!(sentence.contains(said), "{said}: {sentence}");
        }
    }
}

#[test]
fn what_is_wrong_with_evidence_is_named() {
    let case = Case::new("chosen");
    let ran = case.verify(&["--nonce", "another", "--ak", &case.key]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.verdict()
            .contains("over another nonce: it has \"chosen\"")
    );
    let quote = case.evidence["quote"].as_str().unwrap();
    let with_quote = |at, change: fn(&mut Vec<u8>)| {
        let quote = changed(quote, at, change);
        case.with(|evidence| evidence["quote"] = quote.into())
    };
    let flipped = with_quote(0, |message| *message.last_mut().unwrap() ^= 1);
    assert_eq!(flipped.code, Some(1), "{flipped:?}");
    assert!(kinds(&flipped).contains(&"quote-signature".to_owned()));
    let other_type = with_quote(0, |message| message[5] = 0x17);
    assert!(kinds(&other_type).contains(&"quote-type".to_owned()));
    let cut = with_quote(0, |message| message.truncate(60));
    assert!(kinds(&cut).contains(&"quote-form".to_owned()));
    let signature = with_quote(1, |signature| *signature.last_mut().unwrap() ^= 1);
    assert_eq!(kinds(&signature)[0], "quote-signature");
    let values = with_quote(2, |values| values[150] ^= 1);
    assert_eq!(kinds(&values)[0], "quote-values");
    // A list that is not the quote's.
    let lines = case.evidence["ima_measurement_list"].as_str().unwrap();
    let shorter = lines
        .lines()
        .take(7)
        .fold(String::new(), |all, line| all + line + "\n");
    let shorter = case.with(|evidence| evidence["ima_measurement_list"] = shorter.into());
    assert_eq!(
        (shorter.code, kinds(&shorter)),
        (Some(1), vec!["no-replay".to_owned()])
    );
    // Another TPM's key.
    let other = Case::new("chosen");
    let ran = case.verify(&["--nonce", "chosen", "--ak", &other.key]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.out
            .contains("names another key than the one that is trusted")
    );
    let none = case.files.write("none.json", "{}");
    cima(["verify", "--evidence", &none]).refused(&["none.json is no evidence", "quote"]);
    let key = case.files.write("key", "hello");
    case.verify(&["--ak", &key]).refused(&["it is no key"]);
    let list = case.files.path("list.ima");
    cima(["verify", &list, "--nonce", "x"]).refused(&["--nonce and --ak are for a quote"]);
    case.verify(&[&list])
        .refused(&["has cima's own list in it"]);
}

/// A quote by tpm2-tools: message, signature and values in files, the key as PEM and as a `TPM2B_PUBLIC`.
struct Tools {
    message: String,
    signature: String,
    values: String,
    pem: String,
    public: String,
}

impl Tools {
    fn quote(files: &Files, tpm: &Swtpm, algorithm: &[&str], pcrs: &str, form: &str) -> Self {
        let path = |name: &str| files.path(name);
        let ek = path("ek.ctx");
        let ak = path("ak.ctx");
        let run = |words: &[&str]| {
            let ran = tpm.run(words);
            assert!(ran.status.success(), "{words:?}: {ran:?}");
        };
        let tools = Self {
            message: path("msg"),
            signature: path("sig"),
            values: path("pcrs"),
            pem: path("ak.pem"),
            public: path("ak.pub"),
        };
        run(&["tpm2_createek", "-G", "rsa", "-c", &ek]);
        let create = ["tpm2_createak", "-C", &ek, "-c", &ak, "-u", &tools.public];
        run(&[&create, algorithm].concat());
        run(&["tpm2_flushcontext", "-t"]);
        run(&["tpm2_readpublic", "-c", &ak, "-f", "pem", "-o", &tools.pem]);
        run(&["tpm2_flushcontext", "-t"]);
        let quote = ["tpm2_quote", "-c", &ak, "-l", pcrs, "-q", "5f1c08"];
        let out = [
            "-m",
            &tools.message,
            "-s",
            &tools.signature,
            "-o",
            &tools.values,
        ];
        let scheme = ["--scheme", algorithm[5]];
        run(&[&quote[..], &out, &scheme, &["-F", form]].concat());
        run(&["tpm2_flushcontext", "-t"]);
        tools
    }

    fn verify(&self, list: &str, more: &[&str]) -> Ran {
        let quote = ["--quote-msg", &self.message, "--quote-sig", &self.signature];
        cima([&["verify", list][..], &quote, more].concat())
    }
}

#[test]
fn quotes_of_tpm2_tools_are_taken_by_each_kind_of_key() {
    let (files, tpm, list) = (Files::new(), Swtpm::start(), List::good());
    extend(&tpm, 13, &list.entries);
    let path = files.write("list.ima", list.binary());
    let nonce = ["--nonce-hex", "5f1c08"];
    let algorithms: [&[&str]; 3] = [
        &["-G", "ecc", "-g", "sha256", "-s", "ecdsa"],
        &["-G", "rsa", "-g", "sha256", "-s", "rsassa"],
        &["-G", "rsa", "-g", "sha256", "-s", "rsapss"],
    ];
    for algorithm in algorithms {
        let tools = Tools::quote(&files, &tpm, algorithm, "sha256:13", "serialized");
        for key in [&tools.pem, &tools.public] {
            let ak = ["--ak", key];
            let values = ["--quote-pcrs", &tools.values];
            for more in [
                [&nonce[..], &ak, &values].concat(),
                [&nonce[..], &ak].concat(),
            ] {
                let ran = tools.verify(&path, &more);
                assert_eq!(
                    (ran.code, ran.err.as_str()),
                    (Some(0), ""),
                    "{algorithm:?} {ran:?}"
                );
                let untold = ran.out.contains("PEM does not tell");
                assert_eq!(untold, key == &tools.pem, "{}", ran.out);
            }
        }
        let ran = tools.verify(&path, &["--nonce-hex", "5f1c09", "--ak", &tools.public]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        tools.verify(&path, &[]).usage("--ak");
    }
}

#[test]
fn a_quote_of_several_banks_and_pcrs_vouches_for_those_that_the_list_extends() {
    let (files, tpm, list) = (Files::new(), Swtpm::start(), List::good());
    extend(&tpm, 13, &list.entries[..7]);
    // Somebody else's.
    let zeros = "0".repeat(64);
    tpm.tool(&["tpm2_pcrextend", &format!("14:sha256={zeros}")]);
    let path = files.write("list.ima", list.binary());
    let ecc = ["-G", "ecc", "-g", "sha256", "-s", "ecdsa"];
    let nonce = ["--nonce-hex", "5f1c08"];
    for (pcrs, form) in [
        ("sha1:13+sha256:13,14", "serialized"),
        ("sha256:0,1,2,3,4,5,6,7,13,14", "serialized"),
        ("sha1:13+sha256:13,14", "values"),
    ] {
        let tools = Tools::quote(&files, &tpm, &ecc, pcrs, form);
        let ak = ["--ak", &tools.public];
        let values = ["--quote-pcrs", &tools.values];
        let ran = tools.verify(&path, &[&nonce[..], &ak, &values].concat());
        assert_eq!(
            (ran.code, ran.err.as_str()),
            (Some(0), ""),
            "{pcrs}: {ran:?}"
        );
        // Two were listed since.
        assert_eq!(
            ran.verdict(),
            "good: the first 7 entries are in PCR 13, unaltered and in order; 2 more are behind the quote"
        );
        assert!(
            ran.out.contains("warning: 2 entries are behind the quote"),
            "{}",
            ran.out
        );
        // Of several the values are needed.
        let ran = tools.verify(&path, &[&nonce[..], &ak].concat());
        assert_eq!(ran.code, Some(1), "{ran:?}");
    }
    let tools = Tools::quote(&files, &tpm, &ecc, "sha256:14", "serialized");
    let ran = tools.verify(
        &path,
        &[
            &nonce[..],
            &["--ak", &tools.public, "--quote-pcrs", &tools.values],
        ]
        .concat(),
    );
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.out.contains("nothing of it vouches for PCR 13"),
        "{}",
        ran.out
    );
}

#[test]
fn a_key_that_signs_whatever_it_is_given_is_refused() {
    let (files, tpm, list) = (Files::new(), Swtpm::start(), List::good());
    extend(&tpm, 13, &list.entries);
    let path = files.write("list.ima", list.binary());
    let run = |words: &[&str]| {
        let ran = tpm.run(words);
        assert!(ran.status.success(), "{words:?}: {ran:?}");
    };
    let [primary, key, public, private, message, signature] =
        ["primary", "key", "public", "private", "msg", "sig"].map(|name| files.path(name));
    run(&["tpm2_createprimary", "-C", "o", "-c", &primary]);
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign";
    run(&[
        "tpm2_create",
        "-C",
        &primary,
        "-G",
        "ecc:ecdsa-sha256",
        "-a",
        attributes,
        "-u",
        &public,
        "-r",
        &private,
        "-c",
        &key,
    ]);
    run(&["tpm2_flushcontext", "-t"]);
    run(&[
        "tpm2_quote",
        "-c",
        &key,
        "-l",
        "sha256:13",
        "-q",
        "01",
        "-m",
        &message,
        "-s",
        &signature,
    ]);
    let ran = cima([
        "verify",
        &path,
        "--quote-msg",
        &message,
        "--quote-sig",
        &signature,
        "--ak",
        &public,
        "--nonce-hex",
        "01",
    ]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.verdict()
            .contains("the key could have signed a quote that no TPM made: it is not restricted"),
        "{}",
        ran.out
    );
}

#[test]
fn a_hosts_list_is_taken_from_evidence_and_what_is_behind_the_quote_proves_nothing() {
    let (files, tpm) = (Files::new(), Swtpm::start());
    let ledger = List::in_host("kernel", crate::list::BOOT).filled();
    let foreign = |path: &str| {
        let digest = HashAlgorithm::Sha256.digest(path.as_bytes());
        Entry::ima_sig(10, digest, path, &[]).unwrap()
    };
    let mut host = vec![foreign("boot_aggregate")];
    host.extend(ledger.entries[..7].iter().cloned());
    extend(&tpm, 10, &host);
    let listed = files.write("host.ima", binary(&host));
    let evidence = evidence(&tpm, "chosen", &listed);
    let path = files.write("node.json", evidence.to_string());
    let ran = cima(["verify", "--evidence", &path, "--nonce", "chosen"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.verdict().contains("7 are cima's"), "{}", ran.out);
    // The ledger was copied later, and has more.
    let whole = files.write("ledger.ima", ledger.binary());
    let ran = cima(["verify", &whole, "--evidence", &path, "--nonce", "chosen"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert!(
        ran.verdict().contains("with the first 7 of the ledger"),
        "{}",
        ran.out
    );
    // One is missing in between.
    let mut lacking = host.clone();
    lacking.remove(4);
    let other = Swtpm::start();
    extend(&other, 10, &lacking);
    let listed = files.write("lacking.ima", binary(&lacking));
    let evidence = crate::evidence::evidence(&other, "chosen", &listed);
    let path = files.write("lacking.json", evidence.to_string());
    let ran = cima(["verify", &whole, "--evidence", &path, "--nonce", "chosen"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.out.contains("it is not in the host's list"),
        "{}",
        ran.out
    );
}
