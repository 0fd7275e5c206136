"""Checks whether a server answers at a network address. Ray and MLflow themselves would try for minutes."""

from __future__ import annotations

import socket

from fedrecon.sites.errors import RunError

CONNECT_TIMEOUT = 5.0
"""Time in seconds for a cluster's address to answer; Ray itself would try for minutes."""


def no_answer(host: str, port: int, seconds: float) -> str | None:
    """The reason why no server answers at ``host:port`` within ``seconds``; None if a server answers."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def check_cluster(address: str | None) -> None:
    """Refuses the address of a Ray cluster at which nothing answers. What is no ``HOST:PORT`` (``auto``) Ray looks up.

    Raises:
        RunError: nothing answers there.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    if (reason := no_answer(host, int(port), CONNECT_TIMEOUT)) is not None:
        raise RunError(f"no Ray cluster answers at '{address}': {reason}")
