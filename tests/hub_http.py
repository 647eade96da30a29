"""The plumbing of the look-alike Hub: requests kept, bodies read, answers sent, accounts checked, routes found."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_store import Repo

if TYPE_CHECKING:
    from hub_server import HubServer

MOST_KEPT = 1 << 20  # of a request's body; larger ones are blobs, which lie in the store


@dataclass
class Answer:
    """A fault, or any answer: `body` is bytes, or a value sent as JSON. `hang` seconds pass before it goes out."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang: float = 0


@dataclass
class Request:
    """One request as it came, and how it was answered. `sent` counts the answer's body."""

    method: str
    path: str  # as sent: quoted
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""
    status: int = 0
    sent: int = 0


class RefusalError(Exception):
    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        told = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.answer = Answer(status, {"error": message}, told | headers)


ROUTES: list[tuple[str, re.Pattern[str], str]] = []


def route(methods: str, pattern: str) -> Callable[[Callable], Callable]:
    def note(method: Callable) -> Callable:
        ROUTES.extend((verb, re.compile(pattern), method.__name__) for verb in methods.split())
        return method

    return note


class Plumbing(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else 40 ms a request
    wbufsize = 1 << 16
    request: Any  # of socketserver's
    come: Request

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.come = Request(self.command, parts.path, parse_qs(parts.query, keep_blank_values=True), headers)
        self.unread = int(headers.get("content-length", 0))
        self.chunked = headers.get("transfer-encoding") == "chunked"
        self.hub.requests.append(self.come)
        try:
            answer = self.hub.fault(self.come) or self.dispatch()
        except RefusalError as refusal:
            answer = refusal.answer
        except (ConnectionError, TimeoutError):
            self.close_connection = True
            return
        with contextlib.suppress(ConnectionError):
            for _ in self.pieces():  # a connection is used again only when the body was read
                pass
            self.send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 (the base class looks for these)

    def dispatch(self) -> Answer:
        for verb, pattern, name in ROUTES:
            if verb == self.command and (match := pattern.fullmatch(self.come.path)):
                found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                if "id" in found:
                    found["type"] = found.get("type", "model")
                return getattr(self, name)(**found)
        raise RefusalError(404, f"the look-alike has no {self.command} {self.come.path}")

    # What comes and goes

    def pieces(self) -> Iterator[bytes]:
        """The rest of the request's body, piece by piece."""
        while self.chunked:
            size = int(self.rfile.readline().split(b";")[0], 16)
            piece = self.rfile.read(size)
            self.rfile.readline()
            self.chunked = size > 0
            yield piece
        while self.unread:
            piece = self.rfile.read(min(self.unread, 1 << 16))
            if not piece:
                raise ConnectionError("cut in the middle of a body")
            self.unread -= len(piece)
            yield piece

    def body(self) -> bytes:
        content = b"".join(self.pieces())
        self.come.body = content[:MOST_KEPT]
        return content

    def json(self) -> Any:
        return json.loads(self.body() or b"{}")

    def send(self, answer: Answer) -> None:
        if answer.hang:
            self.hub.stopping.wait(answer.hang)
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer.headers}
        self.come.status = answer.status
        self.send_response(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.come.sent = len(body)
            self.wfile.write(body)
        self.wfile.flush()

    # Who may what

    def account(self) -> tuple[str, tuple[str, ...]] | None:
        """The user and organisations of the token that came, None without one."""
        value = self.come.headers.get("authorization")
        if value is None:
            return None
        if (token := value.removeprefix("Bearer ")) not in self.hub.accounts:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return self.hub.accounts[token]

    def readable(self, type: str, id: str) -> Repo:
        repo, account = self.hub.store.repos.get((type, id)), self.account()
        if repo is None or (repo.private and not (account and self.owns(account, id))):
            raise RefusalError(404 if account else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, type: str, id: str) -> Repo:
        account = self.account()
        repo = self.readable(type, id)
        self.check_write(account, id)
        return repo

    def check_write(self, account: tuple[str, tuple[str, ...]] | None, id: str) -> None:
        if account is None:
            raise RefusalError(401, "Invalid username or password.")
        if not self.owns(account, id):
            raise RefusalError(403, f"You don't have the rights to write to {id}")

    @staticmethod
    def owns(account: tuple[str, tuple[str, ...]], id: str) -> bool:
        return id.split("/")[0] in (account[0], *account[1])

    def at(self, repo: Repo, revision: str) -> str:
        if (sha := repo.sha(revision)) is None:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha
