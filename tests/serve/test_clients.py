"""Who may ask a server, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from miil21k.errors import UsageError
from miil21k.serve.clients import KEYS_VARIABLE, Keys, Limiter, client_of, keys_of

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = "a" * 16, "0123456789abcdef0123"


def test_a_key_has_an_owner_and_what_is_none_has_not() -> None:
    keys = Keys([FIRST, SECOND])
    assert (keys.owner(FIRST), keys.owner(SECOND)) == ("key 1", "key 2")
    assert [keys.owner(text) for text in ("", FIRST[:-1], FIRST + "a", "\udcff", "ä" * 16)] == [None] * 5
    assert FIRST not in repr(keys)
    assert FIRST not in str(vars(keys))


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"# ours\n\n {FIRST} \n")
    found = keys_of(file, {KEYS_VARIABLE: f"{SECOND}, "})
    assert found is not None
    assert (len(found), found.owner(FIRST), found.owner(SECOND)) == (2, "key 1", "key 2")
    assert keys_of(None, {}) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [("# none\n", "holds no API key"), ("short\n", "Line 1 of"), (f"{FIRST}\n{FIRST} x\n", "Line 2 of")],
)
def test_a_file_of_keys_that_is_none_is_refused_without_showing_one(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(text)
    with pytest.raises(UsageError, match=words) as refused:
        keys_of(file, {})
    assert "short" not in str(refused.value)
    assert FIRST not in str(refused.value)


def test_what_holds_no_keys_is_refused_and_never_means_an_open_server(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        keys_of(tmp_path / "absent", {})
    with pytest.raises(UsageError, match="is set and holds no API key"):
        keys_of(None, {KEYS_VARIABLE: " ,"})


def test_a_client_gets_its_rate_and_its_burst_and_no_other_pays_for_it() -> None:
    now = 0.0
    limiter = Limiter(2.0, lambda: now)
    assert [limiter.wait("a") for _ in range(4)] == [0, 0, 1, 1]
    assert limiter.wait("b") == 0
    now = 0.5
    assert [limiter.wait("a") for _ in range(2)] == [0, 1]
    now = 100.0
    assert [limiter.wait("a") for _ in range(3)] == [0, 0, 1]


def test_a_rate_below_one_says_how_long_to_wait() -> None:
    now = 0.0
    limiter = Limiter(0.1, lambda: now)
    assert [limiter.wait("a"), limiter.wait("a")] == [0, 10]
    now = 4.5
    assert limiter.wait("a") == 6
    now = 10.0
    assert limiter.wait("a") == 0


def test_the_clients_of_one_network_of_ipv6_are_one() -> None:
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff") == "2001:db8::/64"
    assert client_of("192.0.2.1") != client_of("192.0.2.2")
    assert client_of("fe80::1%eth0") == "fe80::/64"
    assert client_of(None) == "unknown"
