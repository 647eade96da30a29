"""Memory is bounded by settings, not by the input: peaks of processes of their own, measured by the system."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from test_formats import as_kind

MEGABYTE = 1 << 20

# The peak of a child is its own only when its parent is small: at its start it has the parent's.
PEAK = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, *sys.argv[1:]], capture_output=True, text=True)
if done.returncode:
    sys.exit(done.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""

READ = """
import sys
from suite.data.source import Source
source = Source(sys.argv[1], separator="\\x1e" if ".txt" in sys.argv[1] else None)
for block in source.blocks(1 << 20):
    for texts in source.pieces(block):
        pass
"""


def peak(*arguments: str | Path) -> int:
    """Megabytes that a Python process had at most."""
    done = subprocess.run([sys.executable, "-c", PEAK, *map(str, arguments)], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return int(done.stdout)


def write(path: Path, documents: list[str]) -> Path:
    kind, _, suffix = path.name.partition(".")[2].partition(".")
    if kind == "parquet":  # one row group; pages of few rows, as a page is what parquet reads at the least
        out = io.BytesIO()
        pq.write_table(pa.table({"text": documents}), out, row_group_size=10**9, write_batch_size=8)
        data = out.getvalue()
    else:
        data = as_kind(kind, documents)
    path.write_bytes(gzip.compress(data, 1) if suffix else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.txt.gz", "a.parquet"])
def test_reading_holds_a_few_pieces_whatever_the_size(tmp_path, name):
    """100 MB in documents from 10 bytes to half a megabyte, the shortest first."""
    documents = sorted((f"{i} " * (2 << (i % 17)) for i in range(2000)), key=len)
    small = peak("-c", READ, write(tmp_path / name, documents[:10]))
    assert sum(map(len, documents)) > 100 * MEGABYTE
    assert peak("-c", READ, write(tmp_path / name, documents)) - small < 25


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.txt", "a.txt.gz", "a.parquet"])
def test_a_long_document_passes_within_six_times_its_size(tmp_path, tokenizer_dir, name):
    def tokenized(document: str) -> int:
        path = write(tmp_path / name, [document])
        out = tmp_path / f"out-{len(document)}"
        return peak("-m", "suite", "tokenize", "-i", path, "-t", tokenizer_dir, "-l", 128, "--out-dir", out)

    words = "Once upon a time there was a fox, and it was told that the sea is over the hill. "
    document = words * (100 * MEGABYTE // len(words))
    assert tokenized(document) - tokenized(words) < 6 * 100
