"""The cache of decoded rows: decoded once, sealed whole, shared, bounded; and found where the environment says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from suite.base.errors import ConfigError, TokensError
from suite.data import cache, decode, shards
from test_shards import sealed

U16 = np.dtype(np.uint16)
STREAM = [3 + i * 7 % 990 for i in range(7 * 50)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SUITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entries(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "tokens").iterdir())


def fill_with(value: int):
    def fill(rows: np.ndarray) -> None:
        rows[:] = value

    return fill


def never(rows: np.ndarray) -> None:
    raise AssertionError("decoded a second time")


def test_the_same_tokens_are_decoded_once_wherever_they_lie(tmp_path, home, monkeypatch):
    one, two = sealed(tmp_path / "one", STREAM), sealed(tmp_path / "two", STREAM)
    rows = one.rows("train")
    monkeypatch.setattr(shards.Tokens, "_decode", lambda *_: never(rows))
    assert np.array_equal(two.rows("train"), rows) and np.array_equal(one.rows("train"), rows)
    [name] = entries(home)
    assert (home / "tokens" / name / "rows.bin").read_bytes() == rows.astype("<u2").tobytes()
    for folder in (home, home / "tokens", home / "tokens" / name):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_shard_damaged_after_it_was_decoded_is_still_an_error(tmp_path, home, monkeypatch):
    tokens = sealed(tmp_path / "one", STREAM)
    tokens.rows("train")
    checked: list[str] = []
    before = decode.check
    monkeypatch.setattr(decode, "check", lambda path, sha256: (checked.append(path.name), before(path, sha256)))
    tokens.rows("train")
    assert checked == []
    path = tmp_path / "one" / "train-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(TokensError, match=r"train-00001\.parquet: SHA-256 is"):
            tokens.rows("train")
    assert checked == ["train-00001.parquet"] * 2
    path.unlink()
    with pytest.raises(TokensError, match=r"train-00001\.parquet: missing"):
        tokens.rows("train")


def test_a_damaged_shard_leaves_nothing_in_the_cache(tmp_path, home):
    tokens = sealed(tmp_path / "one", STREAM)
    (tmp_path / "one" / "train-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(TokensError, match=r"train-00002\.parquet"):
        tokens.rows("train")
    [name] = entries(home)
    assert [path.name for path in (home / "tokens" / name).iterdir()] == [".lock"]


def test_rows_cannot_be_written_to(home):
    rows = cache.mapped("k", (4, 4), U16, "it", fill_with(7))
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 1
    assert cache.mapped("none", (0, 4), U16, "it", never).shape == (0, 4)


DECODER = """
import sys, time
import numpy as np
from suite.data import cache
def fill(rows):
    rows[:2] = 9
    print("half", flush=True)
    time.sleep(float(sys.argv[1]))
    rows[:] = 7
rows = cache.mapped("k", (4, 4), np.dtype(np.uint16), "it", fill)
print(rows.sum(), flush=True)
"""


def decoder(seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", DECODER, str(seconds)], stdout=subprocess.PIPE, text=True)


def test_a_process_killed_half_way_leaves_nothing_that_is_believed(home):
    with decoder(60) as process:
        assert process.stdout is not None and process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert (home / "tokens" / "k" / "rows.tmp").exists()
    assert cache.mapped("k", (4, 4), U16, "it", fill_with(5)).sum() == 80
    assert sorted(path.name for path in (home / "tokens" / "k").iterdir()) == [".lock", "rows.bin"]


def test_others_wait_for_the_one_that_decodes(home):
    with decoder(0.3) as process:
        assert process.stdout is not None and process.stdout.readline() == "half\n"
        assert cache.mapped("k", (4, 4), U16, "it", never).sum() == 7 * 16


def test_what_was_used_longest_ago_makes_room_but_never_what_is_in_use(home, monkeypatch):
    monkeypatch.setenv("SUITE_CACHE_GB", "0.000025")  # 25 kB
    shape = (10, 500)  # 10 kB
    in_use = cache.mapped("a", shape, U16, "it", fill_with(1))
    for name in "bc":
        cache.mapped(name, shape, U16, "it", fill_with(2))
    assert entries(home) == ["a", "c"]  # b was nobody's
    part = in_use[3:5, 1:]
    del in_use
    cache.mapped("d", shape, U16, "it", fill_with(3))
    assert entries(home) == ["a", "d"] and part.sum() == 2 * 499  # a slice keeps it
    del part
    for name in "ad":
        os.utime(home / "tokens" / name / ".lock", (1, 1 if name == "d" else 2))
    cache.mapped("e", shape, U16, "it", fill_with(4))
    assert entries(home) == ["a", "e"]
    cache.mapped("a", shape, U16, "it", never)  # used now
    os.utime(home / "tokens" / "e" / ".lock", (1, 1))
    cache.mapped("f", shape, U16, "it", fill_with(4))
    assert entries(home) == ["a", "f"]
    monkeypatch.setenv("SUITE_CACHE_GB", "0")
    large = cache.mapped("g", shape, U16, "it", fill_with(4))  # what a run needs is made, bound or not
    assert entries(home) == ["g"] and large.sum() == 4 * 5000


def test_many_processes_that_crowd_each_other_out_all_read_their_own(home, tmp_path):
    script = (
        "import sys, numpy as np\nfrom suite.data import cache\n"
        "for turn in range(40):\n"
        "    value = (int(sys.argv[1]) + turn) % 5\n"
        "    rows = cache.mapped(str(value), (10, 500), np.dtype(np.uint16), 'it', lambda rows: rows.fill(value))\n"
        "    assert (rows == value).all()\n"
    )
    environment = {**os.environ, "SUITE_CACHE_GB": "0.000025"}
    running = [subprocess.Popen([sys.executable, "-c", script, str(start)], env=environment) for start in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4


def test_no_room_is_a_line_that_names_folder_and_variable(home):
    with pytest.raises(TokensError, match=r"cache: no room for it: .* set SUITE_CACHE to a folder") as caught:
        cache.mapped("huge", (2**40, 512), U16, "it", never)
    assert "\n" not in str(caught.value) and str(home) in str(caught.value)


def test_a_bound_that_is_no_number(home, monkeypatch):
    monkeypatch.setenv("SUITE_CACHE_GB", "lots")
    with pytest.raises(ConfigError, match="SUITE_CACHE_GB is 'lots'"):
        cache.mapped("k", (4, 4), U16, "it", never)


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("SUITE_CACHE", str(tmp_path / "asked" / "for"))
    assert cache.root() == tmp_path / "asked" / "for"
    monkeypatch.delenv("SUITE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg" / "suite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.root() == tmp_path / "home" / ".cache" / "suite"


def test_without_a_home_it_is_a_private_folder_among_temporary_files(tmp_path, monkeypatch):
    monkeypatch.delenv("SUITE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "home").write_text("")  # root may write to any folder, but not into a file
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    folder = cache.root()
    assert folder.parent == tmp_path / "tmp" and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(TokensError, match="not a private folder"):
        cache.root()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(TokensError, match="not a private folder"):
        cache.root()
    monkeypatch.setenv("SUITE_CACHE", str(tmp_path / "home" / "x"))
    with pytest.raises(TokensError, match="cannot be written; set SUITE_CACHE"):
        cache.root()


def test_a_process_does_not_hold_the_tokens(tmp_path, home):
    """Random rows of a mapped split: memory of its own grows by far less than the split."""
    script = (
        "import numpy as np\nfrom suite.data import cache\n"
        "def own(): return {l.split(':')[0]: int(l.split()[1]) for l in open('/proc/self/status') if l[:3] == 'Rss'}\n"
        "before = own()['RssAnon']\n"
        "rows = cache.mapped('k', (100_000, 512), np.dtype(np.uint16), 'it', lambda rows: rows.fill(3))\n"
        "total = sum(int(rows[at:at + 1000].sum()) for at in range(0, 100_000, 1000))\n"
        "print(total, own()['RssAnon'] - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    total, kilobytes = map(int, done.stdout.split())
    assert total == 3 * 512 * 100_000 and kilobytes < 20_000  # of 102,400
    assert time.time() - (home / "tokens" / "k" / ".lock").stat().st_mtime < 60
