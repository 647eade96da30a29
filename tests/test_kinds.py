"""Kinds of tokenizers: known shapes load and encode, a reference is followed, SentencePiece models are exact, pads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from conftest import call, odd_documents, refusal, run_suite
from suite.base.errors import TokenizerError
from suite.data import convert, kinds, sentences, shards, tokenizer
from suite.data.library import Library
from suite.data.source import Source
from suite.data.texts import Texts
from suite.data.tokenizer import Tokenizer

DOCUMENTS = [*odd_documents(150), *Source("stories:60").documents(), *convert.ODD, "<unk><s></s><|end|>[UNK] a</s>"]
CODE_POINTS = [chr(point) for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
LLAMA_3 += r"|\s+(?!\S)|\s+"


def trained(backend: Any, special: list[Any], **options: Any) -> Any:
    kind = {models.WordPiece: trainers.WordPieceTrainer, models.Unigram: trainers.UnigramTrainer}
    made = kind.get(type(backend.model), trainers.BpeTrainer)
    backend.train_from_iterator(DOCUMENTS, made(vocab_size=600, special_tokens=special, show_progress=False, **options))
    return backend


def byte_level(*before: Any, special: list[str]) -> Any:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(False, use_regex=not before)])
    backend.decoder = decoders.ByteLevel()
    return trained(backend, special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def gpt_2() -> Any:
    backend = byte_level(special=["<|end|>"])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return backend


def llama_3() -> Any:
    backend = byte_level(pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), special=["<|begin|>", "<|end|>"])
    template = processors.TemplateProcessing("<|begin|> $A", "$A $B", [("<|begin|>", 0)])
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    content = json.loads(backend.to_str())
    content["model"]["ignore_merges"] = True
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def qwen() -> Any:
    backend = byte_level(pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), special=["<|end|>"])
    backend.normalizer = normalizers.NFC()
    return backend


def llama_2() -> Any:
    """As its tokenizer.json has it: no pre_tokenizer, the spaces are the normaliser's work."""
    special = ["<unk>", "<s>", "</s>"]
    letters = sorted({char for text in DOCUMENTS[:200] for char in text if char.isascii() and char > " "} | {"▁"})
    pairs = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("▁", "a"), ("a", "n"), ("▁a", "n"), ("▁", "▁"), ("▁▁", "▁▁")]
    tokens = [*special, *BYTES, *letters, *(left + right for left, right in pairs if left + right != "▁an")]
    vocab = {token: number for number, token in enumerate([*tokens, "▁an"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    template = [("<s>", 1), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> <s> $B </s>", template)
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return backend


def metaspace() -> Any:
    """Llama 2's as transformers writes it now: Metaspace instead of the normaliser."""
    backend = llama_2()
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return backend


def bert() -> Any:
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return trained(backend, ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])


def t5() -> Any:
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer, backend.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return trained(backend, ["<pad>", "</s>", "<unk>"], unk_token="<unk>")


SHAPES = {  # how it is made, <bos>, <eos>, how its special tokens are named
    "gpt-2": (gpt_2, "<|end|>", "<|end|>", "config"),
    "llama-3": (llama_3, "<|begin|>", "<|end|>", "config"),
    "qwen": (qwen, "<|end|>", "<|end|>", "config"),
    "llama-2": (llama_2, "<s>", "</s>", "tables"),
    "metaspace": (metaspace, "<s>", "</s>", "map"),
    "bert": (bert, "[CLS]", "[SEP]", "map"),
    "t5": (t5, "<pad>", "</s>", "config"),
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    for name, (make, bos, eos, way) in SHAPES.items():
        (root / name).mkdir()
        make().save(str(root / name / "tokenizer.json"))
        names: dict[str, Any] = {"bos_token": bos, "eos_token": eos}
        if way == "tables":
            names = {
                role: {"__type": "AddedToken", "content": token, "lstrip": False, "special": True}
                for role, token in names.items()
            }
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": None, **(names if way != "map" else {})}
        (root / name / "tokenizer_config.json").write_text(json.dumps(config))
        if way == "map":
            (root / name / "special_tokens_map.json").write_text(json.dumps(names))
    return root


@pytest.mark.parametrize("shape", SHAPES)
def test_a_known_shape_gives_its_own_ids(shapes, shape):
    from transformers import PreTrainedTokenizerFast

    ours = tokenizer.load(shapes / shape)
    _, bos, eos, _ = SHAPES[shape]
    assert (ours.library.token_of(ours.special.bos), ours.library.token_of(ours.special.eos)) == (bos, eos)
    assert (ours.slow_because is None) == (shape == "gpt-2") and ours.special.pad is None
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(shapes / shape / "tokenizer.json"))
    documents = [document for document in DOCUMENTS if len(document) < 4000]
    ids = theirs(documents, add_special_tokens=False, split_special_tokens=True).input_ids
    expected = [number for document in ids for number in [*document, ours.special.eos]]
    assert ours.stream(Texts.of(documents)).tolist() == expected


def test_special_tokens_that_nobody_names(shapes, tmp_path):
    (tmp_path / "tokenizer.json").write_text((shapes / "qwen" / "tokenizer.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": null, "eos_token": "<|end|>"}')
    with pytest.raises(TokenizerError, match=r'no bos token; rows begin with <bos> .* so set "bos_token" in'):
        tokenizer.load(tmp_path)


def like(shapes: Path, shape: str, out: Path, *arguments: str) -> Tokenizer:
    call("train_tokenizer", "-i", "stories:400", "--reference-tokenizer", shapes / shape, "--out-dir", out, *arguments)
    return tokenizer.load(out)


@pytest.mark.parametrize("shape", ["llama-2", "metaspace"])
def test_like_llama_2(shapes, shape, tmp_path):
    from transformers import AutoTokenizer

    one = like(shapes, shape, tmp_path, "-v", "700")
    assert one.vocab_size == 700 and (one.special.bos, one.special.eos, one.special.pad) == (1, 2, 3)
    made, reference = (json.loads((at / "tokenizer.json").read_text()) for at in (tmp_path, shapes / shape))
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        assert made[part] == reference[part]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("a").input_ids == [1, *one.encode("a"), 2] and theirs.pad_token_id == 3
    for document in DOCUMENTS:
        ids = one.encode(document)
        assert not set(ids) & {0, 1, 2, 3}
        if len(document) > 2000:
            continue
        assert ids == theirs(document, add_special_tokens=False, split_special_tokens=True).input_ids
        if "▁" not in document and not (shape == "metaspace" and document.startswith(" ")):  # no prefix then
            assert theirs.decode(ids) == document
    texts = ["".join(CODE_POINTS[at : at + 5000]) for at in range(0, len(CODE_POINTS), 5000)]
    for text, ids in zip(texts, one.library.encode(texts), strict=True):
        assert not set(ids) & {0, 1, 2, 3} and one.decode(ids) == text.replace("▁", " ")


def test_its_merges_are_those_of_the_library_on_the_same_words(shapes, tmp_path):
    """The library's own trainer, its words divided before spaces as ours are, on text whose characters are all kept."""
    one = like(shapes, "llama-2", tmp_path, "-v", "600", "--character-coverage", "1")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words = [pre_tokenizers.Split(Regex("▁*[^▁\n]+|▁+"), "isolated"), pre_tokenizers.Split("\n", "removed")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(words)
    characters = len(one.library.content["model"]["vocab"]) - len(one.library.content["model"]["merges"]) - 4 - 256
    size = characters + len(one.library.content["model"]["merges"])
    backend.train_from_iterator(
        Source("stories:400").documents(), trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False)
    )
    assert one.library.content["model"]["merges"] == json.loads(backend.to_str())["model"]["merges"]


@pytest.mark.parametrize("shape", ["llama-3", "qwen", "t5"])
def test_like_others(shapes, shape, tmp_path):
    one = like(shapes, shape, tmp_path, "-v", "500", "--character-coverage", "1")
    reference = tokenizer.load(shapes / shape)
    names = [reference.library.token_of(number) for number in (reference.special.bos, reference.special.eos)]
    assert [one.library.token_of(number) for number in (one.special.bos, one.special.eos)] == names
    assert one.vocab_size == 500 and one.special.pad is not None
    story = next(Source("stories:400").documents())
    assert one.decode(one.encode(story)) == story
    assert len(one.encode(story)) < len(story) / 2
    post = one.library.content["post_processor"]
    if shape == "llama-3":
        assert post["processors"][1]["special_tokens"]["<|begin|>"]["ids"] == [one.special.bos]


def test_names_of_special_tokens_in_the_text_make_no_tokens(shapes, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(['{"text": "<s>x</s> <0x0A> ▁<s> <s>"}'] * 20))
    out = tmp_path / "t"
    reference = ("--reference-tokenizer", shapes / "llama-2")
    call("train_tokenizer", "-i", tmp_path / "a.jsonl", *reference, "-v", "300", "--out-dir", out)
    one = tokenizer.load(out)
    assert one.library.token_of(1) == "<s>" and one.library.token_of(4 + 10) == "<0x0A>"
    ids = one.encode("<s>x</s> <0x0A>\n")
    assert not set(ids) & {1, 2} and ids.count(14) == 1 and one.decode(ids) == "<s>x</s> <0x0A>\n"


def test_num_samples_are_the_first_documents_and_threads_do_not_matter(shapes, corpus, tmp_path):
    lines = corpus.read_text(encoding="utf-8").splitlines()
    (tmp_path / "first.jsonl").write_text("\n".join(lines[:100]), encoding="utf-8")
    common = ("-v", "500", "--reference-tokenizer", shapes / "metaspace", "--out-dir")
    run_suite("train-tokenizer", "-i", tmp_path / "first.jsonl", *common, tmp_path / "a")
    env = {**__import__("os").environ, "RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}
    run_suite("train-tokenizer", "-i", corpus, "--num-samples", "100", *common, tmp_path / "b", env=env)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    several = [Texts.of(["a", "b"]), Texts.of(["c", "d"]), Texts.of(["e"])]
    assert [list(some.documents()) for some in kinds.first(several, 3)] == [["a", "b"], ["c"]]
    assert [list(some.documents()) for some in kinds.first(several, 4)] == [["a", "b"], ["c", "d"]]


def piece_tokenizer(kind: str, out: Path, *arguments: str | Path) -> tuple[Tokenizer, Any]:
    """What `suite train-tokenizer` makes, and the package's own view of its tokenizer.model."""
    call(
        "train_tokenizer",
        "-i",
        "stories:400",
        "-v",
        "600",
        "--kind",
        f"sentencepiece-{kind}",
        "--out-dir",
        out,
        *arguments,
    )
    return tokenizer.load(out), sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))


@pytest.mark.parametrize("kind", sentences.KINDS)
def test_a_sentencepiece_model_is_encoded_as_by_its_package(kind, tmp_path):
    from transformers import AutoTokenizer

    one, package = piece_tokenizer(kind, tmp_path)
    assert one.vocab_size == 600 and (one.special.bos, one.special.eos, one.special.pad) == (1, 2, 3)
    assert (tmp_path / "tokenizer.json").is_file() == (kind == "bpe")
    code_points = ["".join(CODE_POINTS[at : at + 5000]) for at in range(0, len(CODE_POINTS), 5000)]
    documents = [*DOCUMENTS, *code_points]
    assert one.library.encode(documents) == package.encode(documents)
    expected = [number for ids in package.encode(documents) for number in [*ids, 2]]
    assert one.stream(Texts.of(documents)).tolist() == expected and not set(package.encode(documents)[-1]) & {
        0,
        1,
        2,
        3,
    }
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 3)
    spelled = one.bytes_of_ids()
    assert spelled and len(spelled) == 600
    for document in DOCUMENTS:
        ids = one.encode(document)
        if not any(name in document for name in sentences.SPECIAL_TOKENS):
            assert theirs(document, add_special_tokens=False).input_ids == ids
        joined = b"".join(spelled[number] for number in ids)
        assert joined == (b" " if document else b"") + document.replace("▁", " ").encode()
        assert one.spelled(document) == document.replace("▁", " ").encode()
        assert one.decode(ids) == document.replace("▁", " ")


def test_its_training_is_the_same_again_and_its_model_is_loaded_by_path(tmp_path):
    one, _ = piece_tokenizer("unigram", tmp_path / "a")
    piece_tokenizer("unigram", tmp_path / "b", "--num-samples", "399999")
    model = tmp_path / "a" / "tokenizer.model"
    assert model.read_bytes() == (tmp_path / "b" / "tokenizer.model").read_bytes()
    by_path = tokenizer.load(model)
    assert by_path.sha256 == one.sha256 and by_path.encode("a b") == one.encode("a b")
    by_path.copy_to(tmp_path / "copy")
    assert tokenizer.load(tmp_path / "copy").sha256 == one.sha256


def test_a_model_makes_tokens_by_its_path(tmp_path):
    piece_tokenizer("unigram", tmp_path / "t")
    model, tokens = tmp_path / "t" / "tokenizer.model", tmp_path / "tokens"
    call("tokenize", "-i", "stories:50", "-t", model, "-l", "64", "--out-dir", tokens, "--workers", "1")
    shards.read(tokens).check_tokenizer(tokenizer.load(tokens / "tokenizer"))


def test_without_byte_fallback_there_is_an_unknown_token(tmp_path):
    one, _ = piece_tokenizer("bpe", tmp_path, "--no-byte-fallback")
    spelled = one.bytes_of_ids()
    assert spelled and one.encode("東")[-1] == 0 and spelled[0] == b"\xff"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.sampled_from("a é東\n"), max_size=9000), max_size=3))
def test_sentences_are_the_text_and_short_enough(documents):
    for document in documents:
        found = list(sentences.parts((document * 40).encode()))
        assert all(0 < len(one) <= sentences.SENTENCE_BYTES and one.decode() for one in found)
        assert b"".join(found) == (document * 40).replace("\n", "").encode()


def test_more_text_than_memory_should_hold_is_cut_and_said(tmp_path, monkeypatch):
    texts = list(Source("stories:400").texts())
    whole, cut = sentences.train(texts, "bpe", sentences.Options(500, max_bytes=40_000))
    first = [document for some in texts for document in some.documents()][:80]
    assert cut and whole.encode(first) != sentences.train(texts, "bpe", sentences.Options(500))[0].encode(first)


def test_what_goes_wrong_while_the_package_reads_is_said_as_it_is():
    def texts():
        yield Texts.of(["a b c"])
        raise TokenizerError("no more")

    with pytest.raises(TokenizerError, match=r"^no more$"):
        sentences.train(texts(), "bpe", sentences.Options(300))


def test_a_model_that_changes_texts_stays_a_model(tmp_path, capsys):
    """sentencepiece's own defaults: NFKC and more, spaces dropped. It gets a pad token all the same."""
    out = str(tmp_path / "own")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(Source("stories:200").documents()), model_prefix=out, model_type="bpe", vocab_size=400,
        character_coverage=0.9995, minloglevel=3,
    )  # fmt: skip
    kinds.adapt(tmp_path / "own.model", tmp_path / "new", "<pad>", print)
    assert (
        "note: without a tokenizer.json, sentencepiece itself encodes: a tokenizer.json does" in capsys.readouterr().out
    )
    before, after = tokenizer.load(tmp_path / "own.model"), tokenizer.load(tmp_path / "new")
    assert not (tmp_path / "new" / "tokenizer.json").exists() and after.special.pad == before.vocab_size == 400
    assert after.library.encode(DOCUMENTS) == before.library.encode(DOCUMENTS)
    spelled = before.bytes_of_ids()
    assert spelled and before.spelled(" a  fox") == b"a fox"
    assert before.spelled(" a  fox") in b"".join(spelled[number] for number in before.encode("and  a fox\u00a0"))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pad_token_is_one_more_and_changes_no_id(shapes, shape, tmp_path):
    from transformers import AutoTokenizer

    before = tokenizer.load(shapes / shape)
    pad = "<|pad|>"
    said = call("convert_tokenizer", shapes / shape, "--out-dir", tmp_path, "--pad-token", pad)
    after = tokenizer.load(tmp_path)
    assert after.special.pad == before.vocab_size and after.vocab_size == before.vocab_size + 1
    assert f"pad id {after.special.pad}" in said
    assert (after.special.bos, after.special.eos) == (before.special.bos, before.special.eos)
    documents = [*DOCUMENTS, f"a {pad} b"]
    assert after.library.encode(documents) == before.library.encode(documents)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.pad_token == pad and theirs.pad_token_id == after.special.pad
    assert "has a pad token" in refused(tmp_path, tmp_path / "again", pad)


def test_a_model_gets_a_pad_token_and_a_tokenizer_json(tmp_path):
    for kind in sentences.KINDS:
        out = tmp_path / kind
        out.mkdir()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(document for document in DOCUMENTS[6:200] if document),
            model_prefix=str(out / "own"), model_type=kind, vocab_size=500, byte_fallback=True, minloglevel=3,
            normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False,
        )  # fmt: skip
        before = tokenizer.load(out / "own.model")
        assert before.special.pad is None
        call("convert_tokenizer", out / "own.model", "--out-dir", out / "new", "--pad-token", "<pad>")
        after = tokenizer.load(out / "new")
        assert (out / "new" / "tokenizer.json").is_file() == (kind == "bpe")
        assert after.special.pad == before.vocab_size and after.vocab_size == before.vocab_size + 1
        assert after.library.encode(DOCUMENTS) == before.library.encode(DOCUMENTS)


def refused(path: Path, out: Path, pad: str | None = None) -> str:
    with pytest.raises(TokenizerError) as error:
        kinds.adapt(path, out, pad, print)
    assert not (out / "tokenizer.json").exists() or out == path
    return str(error.value)


def test_what_cannot_be_done_is_said(shapes, corpus, tmp_path):
    llama = shapes / "llama-2"
    assert "nothing to do without --pad-token" in refused(llama, tmp_path / "x")
    assert "is a token that texts may have" in refused(llama, tmp_path / "x", "▁the")
    assert "name another folder" in refused(llama, llama, "<pad>")
    (tmp_path / "bad.model").write_bytes(b"no model")
    (tmp_path / "empty.model").write_bytes(b"")
    for name in ("bad", "empty"):
        with pytest.raises(TokenizerError, match=rf"{name}\.model: not a SentencePiece model"):
            tokenizer.load(tmp_path / f"{name}.model")
    with pytest.raises(TokenizerError, match=r"corpus.jsonl: expected a folder with a tokenizer.json, or a Sentence"):
        tokenizer.load(corpus)
    with pytest.raises(TokenizerError, match=r"no tokenizer.json or tokenizer.model there"):
        tokenizer.load(tmp_path)
    texts = [Texts.of(odd_documents(50))]
    for recipe, said in [
        (kinds.Recipe(300, "bpe"), "--kind bpe: expected byte-level-bpe, sentencepiece-unigram or sentencepiece-bpe"),
        (kinds.Recipe(300, "sentencepiece-bpe", llama), "exclude each other"),
        (kinds.Recipe(300, num_samples=0), "--num-samples is 0; it must be 1 or more"),
        (kinds.Recipe(300, character_coverage=1.5), "--character-coverage is 1.5; expected a share"),
        (kinds.Recipe(270, reference=llama), "vocab_size is 270; 2.. is the least: 4 special tokens, 256 bytes"),
        (kinds.Recipe(300, reference=shapes / "bert"), "a WordPiece model cannot be a reference; expected BPE or Uni"),
        (kinds.Recipe(270, "sentencepiece-bpe"), "sentencepiece cannot train this: Vocabulary size is smaller than"),
    ]:
        with pytest.raises(TokenizerError, match=said):
            kinds.train(texts, recipe, lambda megabytes, note: None, print)
    for kind in kinds.KINDS[1:]:
        with pytest.raises(TokenizerError, match=tokenizer.NO_TEXT):
            kinds.train([Texts.of(["", "\n"])], kinds.Recipe(300, kind), lambda megabytes, note: None, print)
    with pytest.raises(TokenizerError, match=tokenizer.NO_TEXT):
        kinds.train([], kinds.Recipe(300, reference=llama), lambda megabytes, note: None, print)
    line = refusal("train-tokenizer", "-i", corpus, "--kind", "wordpiece", "--out-dir", tmp_path / "t")
    assert line.startswith("error: --kind wordpiece: expected") and not (tmp_path / "t").exists()


def test_the_reference_may_not_be_a_model(tmp_path):
    piece_tokenizer("unigram", tmp_path)
    with pytest.raises(TokenizerError, match=r"no tokenizer.json; `suite convert-tokenizer` makes one"):
        kinds.train([], kinds.Recipe(300, reference=tmp_path), lambda megabytes, note: None, print)


def test_a_tokenizer_json_takes_the_place_of_another_kind(shapes, tmp_path):
    """A model left from before would be found by nobody, or by somebody who should not."""
    piece_tokenizer("unigram", tmp_path)
    one = like(shapes, "llama-2", tmp_path, "-v", "400")
    assert isinstance(one.library, Library) and not (tmp_path / "tokenizer.model").exists()


def test_the_examples_of_the_page(shapes, tmp_path, monkeypatch):
    import shlex

    monkeypatch.chdir(tmp_path)
    Path("llama-2").symlink_to(shapes / "llama-2")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(Source("stories:200").documents()), model_prefix="own", model_type="bpe",
        vocab_size=400, minloglevel=3, normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    page = (Path(__file__).parents[1] / "docs" / "tokenizers.md").read_text()
    commands = [shlex.split(line)[2:] for line in page.splitlines() if line.startswith("$ suite ")]
    sizes: dict[str, int] = {}
    for verb, *arguments in commands:
        call(verb.replace("-", "_"), *arguments)
        sizes[arguments[-1]] = tokenizer.load(Path(arguments[-1])).vocab_size
    assert [Path(folder).name for folder in sizes] == ["stories", "like", "unigram", "pieces", "own", "llama-2-pad"]
    assert list(sizes.values())[:4] == [1000] * 4
    assert Path("tokenizers/own/tokenizer.json").is_file() and not Path("tokenizers/unigram/tokenizer.json").exists()
