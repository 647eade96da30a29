"""The Hugging Face Hub's client with bounded waits, and its failures as one line that holds no secret.

The client itself waits for ever: it sets no timeout, and sleeps as long as a 429 tells it to. Its exceptions carry the
request, and with it the token, so they are put into words here and go no further. The token is the environment's
(HF_TOKEN) or the one of `hf auth login`; it is read by the client alone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, TypeVar

from suite.base.errors import HubError, SuiteError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ANSWER_SECONDS = 60.0  # for the Hub to take or send the next bytes
CONNECT_SECONDS = 15.0
LONGEST_WAIT_SECONDS = 60.0  # that a 429 may ask for
ATTEMPTS = 4
PAUSE_SECONDS = 1.0  # before the second attempt; doubled for each one after it
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
Done = TypeVar("Done")
_XET_BOUNDS = {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "3", "HF_XET_CLIENT_RETRY_MAX_DURATION": "60s"}
_TRANSIENT = (408, 412, 429, 500, 502, 503, 504)  # 412: somebody else's commit came in between


def api() -> HfApi:
    """The client, as every part of ours uses it."""
    import huggingface_hub

    from suite import __version__

    bound_the_client()
    return huggingface_hub.HfApi(library_name="suite", library_version=__version__)


def token() -> str | None:
    """The token that the client will send; None when there is none."""
    import huggingface_hub

    return huggingface_hub.get_token()


@functools.cache
def bound_the_client() -> None:
    """Gives the client of this process its timeouts. `api` does it; who reads hf:// through fsspec does it first."""
    import huggingface_hub

    for name, value in _XET_BOUNDS.items():
        os.environ.setdefault(name, value)
    hooks = (
        huggingface_hub.get_session().event_hooks
    )  # the client's own: they give a request its id, and refuse offline

    def bounded() -> Any:
        import httpx2

        return httpx2.Client(
            event_hooks={"request": hooks["request"], "response": [*hooks["response"], _refuse_a_long_wait]},
            follow_redirects=True,
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        )

    huggingface_hub.set_client_factory(bounded)


def _refuse_a_long_wait(response: Any) -> None:
    if response.status_code == 429:
        match = re.search(r"\bt=(\d+)", response.headers.get("ratelimit", ""))
        seconds = match[1] if match else response.headers.get("retry-after", "")
        if seconds.isdigit() and int(seconds) > LONGEST_WAIT_SECONDS:
            raise HubError(f"too many requests: the Hub takes more in {int(seconds)} seconds (429)")


@contextlib.contextmanager
def speaking(of: str) -> Iterator[None]:
    """Turns what the client raises into a HubError that begins with the thing spoken of."""
    try:
        yield
    except Exception as error:
        if not _is_the_clients(error):
            raise
        raise HubError(f"{of}: {explain(error)}") from None  # the cause would carry the token


def patiently(of: str, work: Callable[[], Done]) -> Done:
    """What `work` returns; tried again while its failure may pass. Raises HubError."""
    with speaking(of):
        for attempt in range(1, ATTEMPTS):
            try:
                return work()
            except Exception as error:
                if not may_pass(error):
                    raise
                print(f"warning: {of}: {explain(error)}; trying again", file=sys.stderr)
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.8, 1.2))
        return work()


def _is_the_clients(error: Exception) -> bool:
    import httpx2

    # RuntimeError and ValueError: what an upload wraps its causes in, and a name or answer that is not well formed.
    return isinstance(error, HubError | httpx2.HTTPError | OSError | RuntimeError | ValueError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception, or what caused it, came with."""
    for one in _chain(error):
        if (response := getattr(one, "response", None)) is not None:
            return response.status_code
    return None


def may_pass(error: BaseException) -> bool:
    """Whether another try may go better: a lost connection, no answer in time, a server in trouble."""
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    if any(isinstance(one, SuiteError | OfflineModeIsEnabled) for one in _chain(error)):
        return False
    if (status := status_of(error)) is not None:
        return status in _TRANSIENT
    # JSONDecodeError: an answer such as a proxy's page.
    return any(isinstance(one, httpx2.TransportError | ConnectionError | JSONDecodeError) for one in _chain(error))


def explain(error: BaseException) -> str:
    """What went wrong and what to do, in one line. Holds neither addresses, which may be signed, nor headers."""
    import httpx2
    from huggingface_hub import errors

    chain = list(_chain(error))
    for one in chain:
        match one:
            case HubError():
                return str(one)
            case errors.OfflineModeIsEnabled():
                return "HF_HUB_OFFLINE is set, so the Hub is not asked"
            case errors.GatedRepoError():
                return f"the repo is gated: accept its terms on the Hub, and {LOG_IN}"
            case errors.RevisionNotFoundError():
                return "the repo has no such revision"
            case errors.RepositoryNotFoundError():
                return f"no such repo, or a private one that the token does not open; {LOG_IN}"
            case errors.RemoteEntryNotFoundError():
                return "the repo has no such file"
            case httpx2.TimeoutException():
                return f"the Hub did not answer within {ANSWER_SECONDS:g} seconds"
            case httpx2.TransportError() | ConnectionError():
                return f"the Hub cannot be reached ({type(one).__name__}); is there a network?"
    if (status := status_of(error)) is not None:
        said = next((m for one in chain if (m := getattr(one, "server_message", None))), "")
        said = f": {' '.join(said.split())[:200]}" if said else ""
        return _meaning(status) + f" ({status}{said})"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _meaning(status: int) -> str:
    match status:
        case 401:
            return f"the Hub does not accept the token; {LOG_IN}" if token() else f"the Hub wants a token; {LOG_IN}"
        case 403:
            return "the token may not do this; it needs write access to the repo's owner"
        case 404:
            return "not found on the Hub"
        case 412:
            return "somebody else's commit came in between"
        case 429:
            return "too many requests; try again later"
        case _ if status >= 500:
            return "the Hub is in trouble; try again later"
        case _:
            return "the Hub refused"
