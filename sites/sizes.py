"""Numbers of bytes as people read them."""

from __future__ import annotations


def size(n_bytes: float) -> str:
    """A number of bytes with its unit: ``3.4 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"
