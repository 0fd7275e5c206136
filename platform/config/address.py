"""Whether something listens at a network address. Ray and MLflow themselves would try for minutes."""

from __future__ import annotations

import socket


def no_answer(host: str, port: int, seconds: float) -> str | None:
    """Why nothing answers at ``host:port`` within ``seconds``; None if something does."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None
