"""The registry of networks. Each entry names a network's file and its parameters, with their defaults and bounds.

Importing this package loads no torch: the file of a network is imported when the network is built.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fedrecon.strategies.networks.network import NetworkEntry, added_later, entry, one_of

NORM = one_of("instance", "instance_affine", "batch")
DROPOUT = Field(0.0, ge=0.0, lt=1.0)
MOST_WEIGHTS = 1e9
"""The largest number of weights of a network: 4 GB in float32, and three times as much for Adam."""


def _many(default: int, least: int = 1) -> Any:
    """A number of features, or of modules that follow each other."""
    return Field(default, ge=least, le=4096)


def _unet(p: Any, channels: int | None = None) -> float:
    """The weights of one U-Net: 7.8 million with 32 channels and 4 poolings."""
    return float(30 * (p.channels if channels is None else channels) ** 2 * 4**p.pools)


def _regularisers(p: Any) -> float:
    """The weights of the U-Nets of an unrolled network."""
    return (1 if p.shared_weights else p.cascades) * _unet(p)


_UNET: dict[str, Any] = {
    "channels": _many(32),
    "pools": Field(4, ge=1, le=8),
    "dropout": DROPOUT,
    "residual": Field(True),
    "norm": NORM,
}
_UNROLLED: dict[str, Any] = {
    "cascades": _many(5),
    "channels": _many(8),
    "pools": Field(3, ge=1, le=8),
    "dropout": DROPOUT,
    "shared_weights": Field(False),
    "norm": NORM,
}

NETWORKS: dict[str, NetworkEntry] = {
    "unet": entry("unet", _unet, **_UNET),
    "dual_domain": entry("dual_domain", lambda p: 2 * _unet(p), in_kspace=True, **_UNET),
    "unrolled": entry(
        "unrolled",
        lambda p: _regularisers(p) + _unet(p, p.sensitivity_channels),
        in_kspace_with="sensitivity_channels",
        **_UNROLLED,
        sensitivity_channels=added_later(Field(0, ge=0, le=4096)),
    ),
    "film": entry(
        "film",
        lambda p: _regularisers(p) + 40.0 * p.hidden * p.channels * 2**p.pools * p.cascades,
        **_UNROLLED,
        hidden=_many(32),
    ),
    "mscan": entry(
        "mscan",
        lambda p: 9.0 * p.channels**2 * (p.groups * (p.blocks * (p.scales + 1) + 1) + 5),
        kind="super-resolution",
        channels=_many(20),
        groups=_many(3),
        blocks=_many(2),
        scales=Field(3, ge=1, le=6),
        attention=Field(True),
        reduction=_many(4),
    ),
    "srcnn": entry(
        "srcnn",
        lambda p: p.channels * (81.0 + p.kernel**2 * p.channels / 2),
        kind="super-resolution",
        channels=_many(64, 2),
        kernel=one_of(1, 3, 5, 7),
    ),
    "edsr": entry(
        "edsr",
        lambda p: 9.0 * p.channels**2 * (2 * p.blocks + 5),
        kind="super-resolution",
        channels=_many(64),
        blocks=_many(16),
    ),
    "rcan": entry(
        "rcan",
        lambda p: 9.0 * p.channels**2 * (p.groups * (2 * p.blocks + 1) + 5),
        kind="super-resolution",
        channels=_many(32),
        groups=_many(4),
        blocks=_many(4),
        reduction=_many(8),
    ),
    "style": entry(
        "style",
        lambda p: p.layers * p.latent**2 + 9.0 * p.channel_max**2 * 20 + 20.0 * p.channel_max * p.latent,
        kind="prior",
        at_inference=("truncation", "truncated"),
        latent=_many(512),
        layers=_many(8),
        channel_base=Field(16384, ge=64, le=10**6),
        channel_max=_many(512),
        skips=Field(False),
        noise_to=Field(1024, ge=0, le=4096),
        truncation=Field(0.7, gt=0, le=1),
        truncated=Field(8, ge=0, le=4096),
        content=one_of("magnitude", "complex"),
    ),
    "denoiser": entry(
        "denoiser",
        lambda p: 9.0 * p.channels**2 * (5 + 24 * p.pools) + p.channels * p.hidden * (5.0 + 6 * p.pools),
        kind="denoiser",
        channels=_many(32),
        pools=Field(2, ge=0, le=8),
        hidden=_many(64),
        shuffle=one_of(2, 1, 4),
        position=Field(True),
        sigma_data=Field(0.25, gt=0, le=100),
        content=one_of("complex", "magnitude"),
    ),
}
