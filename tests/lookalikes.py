"""Tiny look-alikes of the Hub datasets that configs/data names: the same configs, paths, splits and columns, few rows.

    folder = make("HuggingFaceFW/fineweb", tmp_path)      # a folder as `git clone` of the repo would leave

README.md carries the YAML that decides which files a config reads, where the real one does, and beside the files that
are read lie others that must not be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from conftest import odd_documents

ROWS = 150

Table = Mapping[str, Sequence[Any]]


def _parquet(path: Path, table: Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(table)), path, row_group_size=40)


def _readme(folder: Path, license_: str, configs: Mapping[str, Mapping[str, str]]) -> None:
    """Config name -> split -> pattern of paths."""
    lines = ["---", f"license: {license_}", "language:", "- en"]
    lines += ["configs:"] if configs else []
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, pattern in splits.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "", "# A look-alike, for tests", ""]))


def _web_page(seed: int, rows: int = ROWS) -> Table:
    """Columns of a page in FineWeb."""
    return {
        "text": odd_documents(rows, seed),
        "id": [f"<urn:uuid:{seed}-{i}>" for i in range(rows)],
        "dump": ["CC-MAIN-2013-20"] * rows,
        "url": [f"http://example.com/{i}" for i in range(rows)],
        "date": ["2013-05-18T05:48:54Z"] * rows,
        "file_path": ["s3://commoncrawl/crawl-data/CC-MAIN-2013-20/segments/0.warc.gz"] * rows,
        "language": ["en"] * rows,
        "language_score": [0.9] * rows,
        "token_count": [17] * rows,
    }


def _fineweb(folder: Path) -> None:
    _parquet(folder / "data/CC-MAIN-2013-20/000_00000.parquet", _web_page(1, 9))
    for part in range(2):
        _parquet(folder / f"sample/10BT/{part:03d}_00000.parquet", _web_page(2 + part))
    _parquet(folder / "sample/100BT/000_00000.parquet", _web_page(4, 9))
    configs = {
        "default": {"train": "data/*/*"},
        "sample-10BT": {"train": "sample/10BT/*"},
        "sample-100BT": {"train": "sample/100BT/*"},
        "CC-MAIN-2013-20": {"train": "data/CC-MAIN-2013-20/*"},
    }
    _readme(folder, "odc-by", configs)


def _smollm_corpus(folder: Path) -> None:
    for part in range(2):
        texts = odd_documents(ROWS, 10 + part)
        page = {
            "text": texts,
            "id": [f"<urn:uuid:{part}-{i}>" for i in range(ROWS)],
            "metadata": [{"dump": "CC-MAIN-2021-39", "url": "http://example.com", "int_score": 3, "score": 3.1}] * ROWS,
        }
        _parquet(folder / f"fineweb-edu-dedup/train-{part:05d}-of-00234.parquet", page)
        lesson = {
            "prompt": ["Write a lesson."] * ROWS,
            "text": odd_documents(ROWS, 20 + part),
            "token_length": list(range(ROWS)),
            "audience": ["general"] * ROWS,
            "format": ["textbook_academic"] * ROWS,
            "seed_data": ["fineweb"] * ROWS,
        }
        _parquet(folder / f"cosmopedia-v2/train-{part:05d}-of-00104.parquet", lesson)
    code = {"blob_id": ["00ff"], "repo_name": ["a/b"], "path": ["/c.py"], "length_bytes": [1], "score": [4.1],
            "int_score": [4]}  # fmt: skip
    _parquet(folder / "python-edu/train-00000-of-00002.parquet", code)
    names = ("cosmopedia-v2", "fineweb-edu-dedup", "python-edu")
    _readme(folder, "odc-by", {name: {"train": f"{name}/train-*"} for name in names})


def _tinystories(folder: Path) -> None:
    for part in range(2):
        name = f"data/train-{part:05d}-of-00004-2d5a1467fff1081b.parquet"
        _parquet(folder / name, {"text": odd_documents(ROWS, 30 + part)})
    name = "data/validation-00000-of-00001-869c898b519ad725.parquet"
    _parquet(folder / name, {"text": odd_documents(40, 32)})
    for name in ("TinyStories-train.txt", "TinyStories-valid.txt", "TinyStoriesV2-GPT4-train.txt"):
        (folder / name).write_text("Not to be read.\n<|endoftext|>\n")
    _readme(folder, "cdla-sharing-1.0", {})  # the files' names say the splits


def _wikitext(folder: Path) -> None:
    names = ("wikitext-103-raw-v1", "wikitext-103-v1", "wikitext-2-raw-v1", "wikitext-2-v1")
    for number, name in enumerate(names):
        parts = 2 if "103" in name else 1
        for split, shards in (("test", 1), ("train", parts), ("validation", 1)):
            for shard in range(shards):
                lines = [f" {text} \n" if text.strip() else "" for text in odd_documents(60, 40 + number + shard)]
                _parquet(folder / f"{name}/{split}-{shard:05d}-of-{shards:05d}.parquet", {"text": lines})
    splits = ("test", "train", "validation")
    _readme(folder, "cc-by-sa-3.0", {name: {split: f"{name}/{split}-*" for split in splits} for name in names})


def _openorca(folder: Path) -> None:
    for seed, name in ((50, "1M-GPT4-Augmented.parquet"), (60, "3_5M-GPT3_5-Augmented.parquet")):
        table = {
            "id": [f"niv.{i}" for i in range(ROWS)],
            "system_prompt": ["" if i % 3 else "You are an AI assistant." for i in range(ROWS)],
            "question": odd_documents(ROWS, seed),
            "response": odd_documents(ROWS, seed + 1)[::-1],
        }
        _parquet(folder / name, table)
    _readme(folder, "mit", {})  # no name says a split, so all is train


LOOKALIKES: dict[str, Callable[[Path], None]] = {
    "HuggingFaceFW/fineweb": _fineweb,
    "HuggingFaceTB/smollm-corpus": _smollm_corpus,
    "Open-Orca/OpenOrca": _openorca,
    "Salesforce/wikitext": _wikitext,
    "roneneldan/TinyStories": _tinystories,
}


def make(repo: str, under: Path) -> Path:
    """The repo's folder, `under`/OWNER/NAME, written anew."""
    folder = under / repo
    folder.mkdir(parents=True)
    LOOKALIKES[repo](folder)
    return folder
