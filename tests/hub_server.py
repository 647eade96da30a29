"""A look-alike of the Hugging Face Hub on loopback, for tests with the real clients. Standard library only.

    with HubServer(tmp_path / "hub") as hub:
        hub.add("OWNER/NAME", folder)                    # a local folder as a dataset repo, at a new commit
        client(hub, tmp_path / "home", "import datasets; ...")   # or any process with hub.environment(home)
        hub.repo("OWNER/NAME").files()                   # what it holds now
        hub.requests                                     # what came in

What it answers is what huggingface_hub asks for: whoami; repos made, described, listed in pages, deleted; branches and
tags; files by HEAD and GET with ranges; preupload, LFS (whole and in parts) and commits. Writing needs a token with the
repo's owner among its namespaces, reading a private repo too. `hub.fault` may answer in place of any request.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from hub_api import Api
from hub_http import Answer, Request
from hub_store import Repo, Store

TOKEN = "hf_testtesttesttesttesttesttesttest"
USER = "tester"


class HubServer:
    """A server in threads of this process, stopped by leaving the `with`; started on the same folder it goes on."""

    def __init__(self, folder: Path, port: int = 0, page_size: int = 1000, part_bytes: int = 64 << 20) -> None:
        self.store = Store(folder)
        self.page_size = page_size
        self.part_bytes = part_bytes  # LFS blobs above this go up in parts
        self.accounts = {TOKEN: (USER, ())}  # token -> user, organisations
        self.requests: list[Request] = []
        self.fault: Callable[[Request], Answer | None] = lambda request: None
        self._http = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (Api,), {"hub": self}))
        self._http.daemon_threads = True
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """What makes the real clients come here, with a cache of their own. Must be set before they are imported."""
        found = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_OFFLINE": "0",
        }
        return found | ({"HF_TOKEN": token} if token else {})

    def add(self, id_: str, folder: Path, *, type_: str = "dataset", private: bool = False) -> str:
        """Makes the repo hold exactly the files of a local folder. Returns the commit's id."""
        return self.store.add(type_, id_, Path(folder), private)

    def repo(self, id_: str, type_: str = "dataset") -> Repo:
        return self.store.repos[type_, id_]

    def content(self, id_: str, path: str, revision: str = "main", type_: str = "dataset") -> bytes:
        return self.store.blob(self.repo(id_, type_).files(revision)[path].sha256).read_bytes()

    def asked(self, method: str = "", pattern: str = "") -> list[Request]:
        """The requests whose method is this and whose path has a match of the pattern."""
        return [one for one in self.requests if method in ("", one.method) and re.search(pattern, one.path)]

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def client(hub: HubServer, home: Path, code: str, *arguments: object, token: str | None = TOKEN) -> str:
    """What a process with the real clients prints. They read their environment once, when they are imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=environment | hub.environment(home, token),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


if __name__ == "__main__":  # python tests/hub_server.py FOLDER [PORT]: a Hub to try things on by hand
    with HubServer(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0) as server:
        print(f"HF_ENDPOINT={server.url} HF_TOKEN={TOKEN} HF_HUB_DISABLE_XET=1", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            os._exit(0)
