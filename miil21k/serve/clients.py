"""Who may ask, and how often: API keys, and a limit for each client."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import time
from collections import OrderedDict
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["KEYS_VARIABLE", "Keys", "Limiter", "client_of", "keys_of"]

KEYS_VARIABLE = "MIIL21K_API_KEYS"
_LEAST_LENGTH = 16  # characters of a key
_MOST_CLIENTS = 100_000  # that are remembered


class Keys:
    """API keys, of which only the digests are kept."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __repr__(self) -> str:
        return f"Keys({len(self._digests)} keys)"

    def __len__(self) -> int:
        return len(self._digests)

    def owner(self, given: str) -> str | None:
        """Return what stands for the owner of a key, the same for each request; None when it is none of the keys.

        The time that it takes says nothing about the keys: digests are compared, each with all, in constant time.
        """
        digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return f"key {found.index(True) + 1}" if any(found) else None


def keys_of(file: str | Path | None, environment: Mapping[str, str] = os.environ) -> Keys | None:
    """Return the keys of a file, one a line, and of the environment, with commas; None when there are neither.

    Lines that begin with # are no keys. Raises UsageError for a file that cannot be read or holds none, and for a key
    that is shorter than 16 characters or holds others than those that a header can; it never shows one.
    """
    found: list[tuple[str, str]] = []
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
            raise UsageError(f"The API keys of '{file}' cannot be read ({reason}).") from None
        numbered = [(f"Line {number} of '{file}'", line.strip()) for number, line in enumerate(lines, 1)]
        found += [(where, key) for where, key in numbered if key and not key.startswith("#")]
        if not found:
            raise UsageError(f"'{file}' holds no API key: write one a line.")
    if KEYS_VARIABLE in environment:
        listed = [key.strip() for key in environment[KEYS_VARIABLE].split(",") if key.strip()]
        if not listed:
            raise UsageError(f"{KEYS_VARIABLE} is set and holds no API key: unset it, or list keys with commas.")
        found += [(f"Key {number} of {KEYS_VARIABLE}", key) for number, key in enumerate(listed, 1)]
    for where, key in found:
        if len(key) < _LEAST_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
            raise UsageError(
                f"{where} is no API key: at least {_LEAST_LENGTH} printable ASCII characters without blanks, for "
                "instance from `openssl rand -hex 24`."
            )
    return Keys(key for _, key in found) if found else None


def client_of(host: str | None) -> str:
    """Return what stands for the client at this address: IPv6 hands each of them a network of 64 bits."""
    try:
        address = ip_address((host or "").partition("%")[0])
    except ValueError:
        return host or "unknown"
    if address.version == 6:
        return str(ip_network((address, 64), strict=False))
    return str(address)


class Limiter:
    """At most so many requests of each client per second, as many at once as a second allows, and at least one.

    clock: returns seconds. A bucket per client that fills at that rate; the least recent of 100,000 is forgotten.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock, self._most = rate, clock, max(1.0, rate)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> int:
        """Count a request; returns 0 where it may be answered, else the whole seconds until the next one may."""
        now = self._clock()
        left, since = self._left.pop(client, (self._most, now))
        left = min(self._most, left + (now - since) * self._rate)
        taken = left >= 1
        self._left[client] = (left - 1 if taken else left, now)
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        return 0 if taken else max(1, math.ceil((1 - left) / self._rate))
