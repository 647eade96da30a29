"""Mixtures, parts by hash and templates against their definitions in a few lines of Python; and the same shards from
them however the work was split."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import odd_documents
from suite import _core
from suite.base.errors import SourceError
from suite.data import mix, pack, tokenizer
from suite.data.encode import Shape
from suite.data.mix import Member, Mixture, text_source, texts_of, weights_of
from suite.data.source import TextSource
from suite.data.spill import two_passes
from suite.data.template import Template, Templated
from suite.data.texts import Texts
from suite.executor.local import map_in_order, map_in_threads


def hashes(text: str) -> tuple[float, float]:
    """The definition in docs/mixtures.md."""
    first, second = struct.unpack(">2Q", hashlib.sha256(text.encode()).digest()[:16])
    return first / 2**64, second / 2**64


def documents(source: TextSource, block_bytes: int = 10**9) -> list[str]:
    return [
        text for block in source.blocks(block_bytes) for texts in source.pieces(block) for text in texts.documents()
    ]


def jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two sources; the second holds documents of the first, and some of its own twice."""
    folder = tmp_path_factory.mktemp("files")
    first = odd_documents(200, 1)
    second = odd_documents(120, 2)
    pq.write_table(pa.table({"text": second + first[50:80] + second[30:60]}), folder / "b.parquet", row_group_size=31)
    return jsonl(folder / "a.jsonl", first), folder / "b.parquet"


# ── by hash ──


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_hashes_are_those_of_hashlib(texts):
    expected = b"".join(hashlib.sha256(text.encode()).digest()[:16] for text in texts)
    assert _core.text_hashes(*Texts.of(texts)) == expected


@pytest.mark.parametrize("share", ["5", "0.5", "33.3", "99.9"])
def test_parts_by_hash_are_the_definition_and_together_all(files, share):
    held_out, rest = (text_source(str(files[1]), f"train@hash[{part}]") for part in (f":{share}%", f"{share}%:"))
    all_ = documents(text_source(str(files[1])))
    assert documents(held_out) == [text for text in all_ if hashes(text)[0] < float(share) / 100]
    assert documents(rest, 100) == [text for text in all_ if hashes(text)[0] >= float(share) / 100]
    assert not set(documents(held_out)) & set(documents(rest))  # though the file holds documents twice


def test_edges_of_parts_are_exact():
    """h / 2**64 < 10 / 100 in whole numbers; a part ends right where the next begins."""
    [(_, tenth)], [(_, rest)] = mix.parse("train@hash[:10%]"), mix.parse("train@hash[10%:]")
    assert tenth == (0, 2**64 // 10 + 1) and rest == (tenth.stop, 2**64)
    edge = np.array([0, tenth.stop - 1, tenth.stop, 2**64 - 1], np.uint64)
    assert tenth.hold(edge).tolist() == [True, True, False, False]
    assert rest.hold(edge).tolist() == [False, False, True, True]


def test_parts_by_hash_join_slices_and_each_other(files):
    spec = str(files[0])
    all_ = documents(text_source(spec))
    assert documents(text_source(spec, "train[:40]@hash[50%:]+train[90:]")) == [
        *(text for text in all_[:40] if hashes(text)[0] >= 0.5),
        *all_[90:],
    ]
    assert documents(text_source(spec, "train@hash[:25%]+train@hash[25%:]")) == [
        *(text for text in all_ if hashes(text)[0] < 0.25),
        *(text for text in all_ if hashes(text)[0] >= 0.25),
    ]
    assert documents(text_source(spec, "train@hash[:]")) == all_


@pytest.mark.parametrize(
    "split",
    ["train@hash", "train@hash[1:5]", "train@hash[:101%]", "train@hash[5%:5%]", "train@hash[-1%:]", "@hash[:1%]",
     "train@hash[:1%][:5]", "train@md5[:1%]", "train@hash[:0%]", "train@hash[:1%]@hash[:1%]"],
)  # fmt: skip
def test_what_is_no_split_is_refused(split):
    with pytest.raises(SourceError, match="split '"):
        text_source("stories:5", split)


# ── mixtures ──


def slow_mixture(sources: list[list[str]], weights: list[float]) -> list[str]:
    """The definition: every document floor(weight) times, and once more if its hash is below what is left."""
    return [
        text
        for texts, weight in zip(sources, weights, strict=True)
        for copy in range(math.floor(weight) + 1)
        for text in texts
        if copy < math.floor(weight) or hashes(text)[1] < weight % 1
    ]


some_texts = st.lists(st.sampled_from([*odd_documents(40), *(str(i) for i in range(60))]), min_size=1, max_size=40)
some_weights = st.floats(0, 4) | st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 1e-12])


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.tuples(some_texts, some_weights), min_size=1, max_size=3), block_bytes=st.integers(1, 900))
def test_a_mixture_reads_what_is_defined_in_order_for_any_block_size(tmp_path_factory, parts, block_bytes):
    folder = tmp_path_factory.mktemp("mixture")
    members = [
        Member(text_source(str(jsonl(folder / f"{number}.jsonl", texts))), "train", weight)
        for number, (texts, weight) in enumerate(parts)
    ]
    expected = slow_mixture([texts for texts, _ in parts], [weight for _, weight in parts])
    mixture = Mixture(tuple(members), "train")
    if all(int(weight % 1 * 2**64) == 0 and weight < 1 for _, weight in parts):
        with pytest.raises(SourceError, match="every weight is 0"):
            mixture.blocks()
    else:
        assert documents(mixture, block_bytes) == expected


def mixture_of(files: tuple[Path, Path]) -> Mixture:
    """Weights and parts by hash together."""
    split = "train@hash[20%:]"
    weights = {"a": (files[0], 1.5), "b": (files[1], 0.75)}
    return Mixture(
        tuple(
            part
            for name, (path, weight) in weights.items()
            for part in mix.weighed(text_source(str(path), split), weight, name)
        ),
        split,
    )


def test_weights_and_parts_by_hash_do_not_lean_on_the_same_bits(files):
    held = [[t for t in documents(text_source(str(path))) if hashes(t)[0] >= 0.2] for path in files]
    assert documents(mixture_of(files)) == slow_mixture(held, [1.5, 0.75])


WAYS = [
    (one_pass, block_bytes)
    for one_pass in (
        pack.one_pass(map_in_order(1)),
        pack.one_pass(map_in_threads(3), map_in_order(2)),
        two_passes(map_in_order(1)),
    )
    for block_bytes in (300, 10**9)
] + [(two_passes(map_in_order(2)), 2000)]


def test_shards_of_a_mixture_do_not_depend_on_how_work_was_split(files, tokenizer_dir, tmp_path):
    encoder, shape = tokenizer.load(tokenizer_dir), Shape(16, 0, 50)
    found = []
    for number, (work, block_bytes) in enumerate(WAYS):
        tokens, _ = pack.tokenize(
            mixture_of(files),
            encoder,
            tmp_path / str(number),
            shape,
            work,
            name="t",
            block_bytes=block_bytes,
        )
        found.append(tokens.split("t"))
    assert len(found[0].shards) > 3 and all(one == found[0] for one in found)
    assert found[0].documents == len(documents(mixture_of(files)))


def test_the_manifest_names_members_and_weights_and_the_fingerprint_knows_them(files):
    mixture = mixture_of(files)
    assert f"a: {files[0]} feature=text weight=1.5; b: {files[1]}" in mixture.identity()
    a, b = mixture.members
    others = [
        Mixture((b, a), mixture.split),
        Mixture((dataclasses.replace(a, weight=1.25), b), mixture.split),
        Mixture((dataclasses.replace(a, hashes=mix.ALL), b), mixture.split),
        Mixture((a, dataclasses.replace(b, source=text_source(str(files[0])))), mixture.split),
    ]
    assert len({one.fingerprint() for one in (mixture, *others)}) == 5
    assert mixture_of(files).fingerprint() == mixture.fingerprint()


@given(st.lists(st.tuples(st.floats(0.01, 1), st.integers(1, 10**12)), min_size=1, max_size=5), st.floats(0.1, 9))
def test_weights_give_each_its_share_and_are_the_largest(parts, max_epochs):
    shares, sizes = zip(*parts, strict=True)
    weights = weights_of(shares, sizes, max_epochs)
    assert max(weights) == pytest.approx(max_epochs) and max(weights) <= max_epochs
    total = sum(weight * size for weight, size in zip(weights, sizes, strict=True))
    for weight, size, share in zip(weights, sizes, shares, strict=True):
        assert weight * size / total == pytest.approx(share / sum(shares))


def test_bytes_are_counted_exactly_by_any_number_of_workers(files):
    source = text_source(str(files[1]), "train@hash[10%:]")
    heard: list[float] = []
    counts = {mix.num_bytes(source, block_bytes, map_, heard.append)
              for block_bytes, map_ in ((1, map_in_threads(3)), (10**9, map_in_order(1)))}  # fmt: skip
    assert counts == {sum(len(text.encode()) for text in documents(source))}
    assert sum(heard) == pytest.approx(2 * counts.pop() / 1e6)


# ── templates ──


@given(st.lists(st.sampled_from(["{a}", "{b}", "{c d}", "{{", "}}", "\n", "é ", "x"]), min_size=1))
def test_a_template_says_what_format_says(pieces):
    text = "".join(pieces)
    rows = {"a": ["", "1", "ü"], "b": ["{a}", "}", "2"], "c d": ["x y", "", "{"]}
    if not {"{a}", "{b}", "{c d}"} & set(pieces):
        with pytest.raises(SourceError, match="names no column"):
            Template.parse(text)
        return
    template = Template.parse(text)
    source = Templated(template, tuple(Pieces(rows[name], 1) for name in template.columns))
    assert documents(source) == [
        text.format(**dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)
    ]


@pytest.mark.parametrize(
    "text",
    ["", "plain", "{", "{a", "}", "{}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a:{b}}", "{ a}", "{a.__class__}"],
)
def test_a_template_is_data_not_code(text):
    with pytest.raises(SourceError, match="template"):
        Template.parse(text)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A source of one block, whose documents come `size` at a time: columns are not read in step."""

    texts: list[str]
    size: int
    spec: str = "pieces"
    split: str = "train"

    def blocks(self, block_bytes: int = 0) -> list[int]:
        return [0]

    def pieces(self, block: int) -> Iterator[Texts]:
        yield Texts.of([])
        for start in range(0, len(self.texts), self.size):
            yield Texts.of(self.texts[start : start + self.size])

    def head(self, block: int) -> Texts:
        return next(self.pieces(block))

    def fingerprint(self) -> str:
        return str(self.texts)

    def identity(self) -> str:
        return self.spec


@pytest.mark.parametrize("sizes", [(1, 1), (3, 7), (100, 1), (2, 100)])
def test_columns_that_come_in_different_pieces_are_joined_row_by_row(sizes):
    a, b = odd_documents(50, 1), odd_documents(50, 2)
    source = Templated(Template.parse("{a}|{b}"), (Pieces(a, sizes[0]), Pieces(b, sizes[1])))
    assert documents(source) == [f"{x}|{y}" for x, y in zip(a, b, strict=True)]


def test_columns_of_different_lengths_are_refused():
    source = Templated(Template.parse("{a}|{b}"), (Pieces(["x"] * 4, 3), Pieces(["x"] * 5, 2)))
    with pytest.raises(SourceError, match="column 'b' has more rows"):
        documents(source)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_templates_read_files_and_name_the_row_that_lacks_a_field(tmp_path, kind):
    rows = [{"q": q, "a": a} for q, a in zip(odd_documents(60, 3), odd_documents(60, 4), strict=True)]
    path = tmp_path / f"x.{kind}"

    def write(rows: list[dict[str, str | None]]) -> None:
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=17)

    write(rows)
    source = text_source(str(path), template="Q: {q}\nA: {a}")
    expected = [f"Q: {row['q']}\nA: {row['a']}" for row in rows]
    assert documents(source) == documents(source, 100) == [t for some in texts_of(source) for t in some.documents()]
    assert documents(source) == expected
    assert documents(text_source(str(path), "train@hash[:50%]", template="Q: {q}\nA: {a}")) == [
        text for text in expected if hashes(text)[0] < 0.5
    ]
    write([*rows[:30], {"q": "x", "a": None}])
    with pytest.raises(SourceError, match=r"line 31: field 'a' is null|row 30: column 'a' is null"):
        documents(source)
    with pytest.raises(SourceError, match=r"no (field|column) 'b'"):
        documents(text_source(str(path), template="{q}{b}"))


def test_blocks_are_cut_by_the_column_that_has_most_text(tmp_path):
    pq.write_table(pa.table({"q": ["x"] * 400, "a": ["many words " * 50] * 400}), tmp_path / "x.parquet")
    for template in ("{q}{a}", "{a}{q}"):
        assert len(text_source(str(tmp_path / "x.parquet"), template=template).blocks(100)) > 1


def test_a_fingerprint_knows_its_template(files):
    one, other = (text_source(str(files[0]), template=t).fingerprint() for t in ("{text}", "{text} "))
    assert one != other != text_source(str(files[0])).fingerprint()
