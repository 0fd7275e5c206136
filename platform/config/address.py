"""Checks whether a server answers at a network address. Ray and MLflow themselves would try for minutes."""

from __future__ import annotations

import socket


def no_answer(host: str, port: int, seconds: float) -> str | None:
    """The reason why no server answers at ``host:port`` within ``seconds``; None if a server answers."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None
