//! Turns models/tokenizer.json into perfect hash tables for `src/tokenizer.rs`, so that an instance parses
//! nothing. What the tokenizer's settings may be is checked here: only what the code does is accepted.

use std::path::Path;
use std::{env, fs};

use phf_codegen::Map;
use serde_json::{Value, json};

const SOURCE: &str = "models/tokenizer.json";
const CONTINUES: &str = "##";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let text = fs::read_to_string(SOURCE)
        .unwrap_or_else(|error| panic!("{SOURCE}: {error}. Run examples/fetch-models, which brings it."));
    let tokenizer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{SOURCE}: {error}"));
    check(&tokenizer);

    let vocabulary =
        tokenizer["model"]["vocab"].as_object().expect("tokenizer.json: model.vocab is not an object");
    let tokens = || vocabulary.iter().map(|(token, id)| (token.as_str(), id.to_string()));
    let beginnings = tokens().filter(|(token, _)| !token.starts_with(CONTINUES));
    let continuations = tokens().filter_map(|(token, id)| Some((token.strip_prefix(CONTINUES)?, id)));
    let longest = tokens().map(|(token, _)| token.len()).max().expect("tokenizer.json: model.vocab is empty");
    let special = ["PAD", "UNK", "CLS", "SEP", "MASK"].map(|name| {
        let id = vocabulary
            .get(&format!("[{name}]"))
            .unwrap_or_else(|| panic!("tokenizer.json: no token [{name}]"));
        format!("pub const {name}: u16 = {id};\n")
    });

    let out = format!(
        "{}const TOKEN_LEN_MAX: usize = {longest};\n{}{}",
        special.concat(),
        table("BEGINNINGS", beginnings),
        table("CONTINUATIONS", continuations)
    );
    let target = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&target).join("vocabulary.rs"), out).expect("OUT_DIR can be written");
}

fn table<'a>(name: &str, tokens: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut map = Map::new();
    for (token, id) in tokens {
        map.entry(token, id);
    }
    format!("static {name}: phf::Map<&'static str, u16> = {};\n", map.build())
}

fn check(tokenizer: &Value) {
    let expected = [
        ("/normalizer/type", json!("BertNormalizer")),
        ("/normalizer/clean_text", json!(true)),
        ("/normalizer/handle_chinese_chars", json!(true)),
        ("/normalizer/strip_accents", json!(null)),
        ("/normalizer/lowercase", json!(true)),
        ("/pre_tokenizer/type", json!("BertPreTokenizer")),
        ("/post_processor/type", json!("TemplateProcessing")),
        ("/model/type", json!("WordPiece")),
        ("/model/unk_token", json!("[UNK]")),
        ("/model/continuing_subword_prefix", json!(CONTINUES)),
        ("/model/max_input_chars_per_word", json!(100)),
    ];
    for (place, value) in expected {
        assert_eq!(
            tokenizer.pointer(place),
            Some(&value),
            "{SOURCE}: {place} is not what src/tokenizer.rs does"
        );
    }
}
