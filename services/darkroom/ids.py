"""Ids of every noun of the house.

A prefix comes in; a new id goes out: prefix, "_", then 32 lower-case hex digits (48 bits of milliseconds since 1970, 80
random bits), so that ids sort by the time they were made. Rooms store them as text; `validation` checks the ones that
callers send.
"""

import re
import secrets
import time

PREFIXES = frozenset({"gen", "ten", "key", "lora", "med", "run", "req", "lea", "chg", "txn", "pri"})

_BODY = re.compile(r"[0-9a-f]{32}")


def new(prefix: str, *, now_ms: int | None = None) -> str:
    """Make an id such as "gen_0193…"; `now_ms` (milliseconds since 1970) is the present if not given."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    return f"{prefix}_{ms & (1 << 48) - 1:012x}{secrets.token_hex(10)}"


def check(value: str, prefix: str) -> str:
    """Return `value` if it is an id with this prefix; ValueError says what an id looks like, not what it was."""
    if not value.startswith(f"{prefix}_") or not _BODY.fullmatch(value, len(prefix) + 1):
        raise ValueError(f'must be an id: "{prefix}_" and 32 lower-case hex digits')
    return value
