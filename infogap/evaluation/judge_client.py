"""Chat completions over HTTP with patience: retries, waits that grow, and errors that say what to do."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import IO, Any, Final

_NOT_RETRIED: Final = {301, 302, 303, 307, 308, 401, 403, 404}
_MOST_BYTES: Final = 1 << 22
_LONGEST_WAIT_S: Final = 60.0
_LONGEST_ASKED_WAIT_S: Final = 3600.0

logger = logging.getLogger(__name__)


class JudgeError(ValueError):
    """The judge cannot be asked; the message says why, and what to do."""


@dataclass(frozen=True)
class Patience:
    """How long a client tries.

    Attributes:
        timeout_s: seconds that a connection, or the next part of a reply, may take.
        retries: how often a request is made again.
        first_wait_s: seconds before the first retry, doubled for each further one.
    """

    timeout_s: float
    retries: int
    first_wait_s: float


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """Follow none, so that the redirect becomes an ``HTTPError``."""


@dataclass(frozen=True)
class _Failure:
    """Why a request brought no reply; ``wait_s`` is what the server asked for."""

    what: str
    retried: bool = True
    wait_s: float = 0.0


class ChatClient:
    """Sends prompts to ``POST {base_url}/chat/completions``, greedily. Several threads may share it.

    Args:
        base_url: address of the endpoint up to and including its version.
        model: name of the model there.
        key: sent as a bearer token; None: none is sent. It appears in no message.
        key_variable: the environment variable that the key came from, for messages.
        max_tokens: most tokens of a reply.
        patience: how long it tries.

    Raises:
        JudgeError: if the key is empty, or holds characters that no HTTP header may hold.
    """

    def __init__(
        self, base_url: str, model: str, key: str | None, key_variable: str | None, max_tokens: int, patience: Patience
    ) -> None:
        self.url = base_url.rstrip("/") + "/chat/completions"
        self._model, self._max_tokens, self._patience = model, max_tokens, patience
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            key = key.strip()
            if not key or not key.isascii() or not key.isprintable():
                what = "holds characters that no key has" if key else "is not set, or empty"
                raise JudgeError(
                    f"The environment variable {key_variable}, named by the judge's api_key_variable, {what}: set it."
                )
            self._headers["Authorization"] = f"Bearer {key}"
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._stopped = threading.Event()
        self._fault = ""

    def stop(self) -> None:
        """Have requests that wait for a retry give up, and make no more."""
        self._stopped.set()

    def reply(self, prompt: str) -> str:
        """Send a prompt.

        Returns:
            What the model wrote; empty if it wrote no text.

        Raises:
            JudgeError: if no reply came, or another thread's request has failed for good, after which none is made.
        """
        request = urllib.request.Request(self.url, self._body(prompt), self._headers, method="POST")
        tries = 0
        while not self._stopped.is_set():
            outcome = self._try_once(request)
            if isinstance(outcome, str):
                return outcome
            wait_s = max(min(self._patience.first_wait_s * 2.0**tries, _LONGEST_WAIT_S), outcome.wait_s)
            tries += 1
            if tries > self._patience.retries or not outcome.retried:
                self._fault = self._fault or (
                    f"The judge at {self.url} {outcome.what} ({tries} {'try' if tries == 1 else 'tries'}): mend that "
                    "and start the command again; rows that are finished and verdicts that were reached are kept."
                )
                self.stop()
            elif not self._stopped.is_set():
                logger.warning("The judge at %s %s: it is asked again in %.0f s.", self.url, outcome.what, wait_s)
                self._stopped.wait(wait_s)
        raise JudgeError(self._fault or f"The judge at {self.url} is not asked any more.")

    def _body(self, prompt: str) -> bytes:
        content = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        return json.dumps(content).encode()

    def _try_once(self, request: urllib.request.Request) -> str | _Failure:
        try:
            with self._opener.open(request, timeout=self._patience.timeout_s) as response:
                data = response.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                return _refusal(error.code, _asked_wait(error.headers.get("Retry-After")))
        except (OSError, http.client.HTTPException) as error:
            return self._failure(error)
        return _content(data)

    def _failure(self, error: Exception) -> _Failure:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            return _Failure(f"did not answer within {self._patience.timeout_s:g} s")
        told = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        return _Failure(f"cannot be reached ({told})")


def _content(data: bytes) -> str | _Failure:
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, TypeError, LookupError):
        return _Failure("answered with something that is no chat completion")
    return content if isinstance(content, str) else ""


def _refusal(code: int, wait_s: float) -> _Failure:
    # the standard's words for the status, for those of the server may hold anything, the key included
    what = f"answered HTTP {code} {http.client.responses.get(code, '')}".rstrip()
    if wait_s > _LONGEST_ASKED_WAIT_S:
        return _Failure(f"{what} and asked to be left alone for {wait_s:.0f} s", retried=False)
    return _Failure(what, code not in _NOT_RETRIED, wait_s)


def _asked_wait(header: str | None) -> float:
    """Seconds that a Retry-After header asks for: a number of them, or a date (RFC 9110, section 10.2.3)."""
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0
