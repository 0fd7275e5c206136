"""Pseudonyms for subjects and volumes: keyed, so that nobody without the key can test a name against them.

A pseudonym is HMAC-SHA256 of the name under the consortium's key, cut to 60 bits. All sites of a consortium use one
key, so the same person has the same pseudonym at every site: a subject cannot train at one site and be tested at
another, and tests are paired over runs. The key stays with those who import. It is in no shard, no log, no report and
no error.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from fedrecon.sites.errors import InputError

KEY_FILE = "consortium.key"
"""Name of the key beside the shards, where no other file is named."""

SCHEME = "hmac-sha256"
"""Value of a shard's attribute ``pseudonyms``."""


@dataclass(frozen=True)
class Pseudonyms:
    """Names under one key.

    Attributes:
        key: 32 secret bytes; never shown.
        fingerprint: tells two keys apart and does not reveal either; a shard keeps it.
    """

    key: bytes = field(repr=False)

    @classmethod
    def of(cls, path: Path) -> Pseudonyms:
        """The key in the file ``path``; a new one is made at first use, readable by its owner alone.

        Raises:
            InputError: the file holds no key, or others can read it.
        """
        if not path.exists():
            _make(path)
        if not path.is_file():
            raise InputError(f"--key {path}: a file is needed.")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise InputError(f"--key {path}: others can read it. Make it yours alone: chmod 600 {path}")
        try:
            key = bytes.fromhex(path.read_text(encoding="utf-8").strip())
        except (ValueError, UnicodeDecodeError):
            key = b""
        if len(key) != 32:
            raise InputError(f"--key {path}: holds no key (64 hexadecimal digits); fedrecon makes one in a new file.")
        return cls(key)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that belong to this key."""
        return self._digest("fingerprint", "")[:8].hex()

    def subject(self, name: str) -> str:
        """The pseudonym of a person, such as ``p4qm2c7xkz3wd``."""
        return "p" + self._word("subject", name)

    def volume(self, name: str) -> str:
        """The pseudonym of a scan, from the name of its file."""
        return "v" + self._word("volume", name)

    def _word(self, kind: str, name: str) -> str:
        return base64.b32encode(self._digest(kind, name)).decode()[:12].lower()

    def _digest(self, kind: str, name: str) -> bytes:
        # One spelling of an umlaut: file systems store it as one character or as two.
        text = unicodedata.normalize("NFC", f"{kind}\x1f{name}")
        return hmac.new(self.key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()


def _make(path: Path) -> None:
    """Writes a new key. If several imports start at once, all of them read the key of the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        Path(scratch).unlink()
