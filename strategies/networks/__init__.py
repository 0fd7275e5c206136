"""The registry of networks. Each entry names a network's file and its parameters, with their defaults and bounds.

Importing this package loads no torch: the file of a network is imported when the network is built.
"""

from __future__ import annotations

from pydantic import Field

from fedrecon.strategies.networks.network import NetworkEntry, entry, one_of

NORM = one_of("instance", "instance_affine", "batch")
DROPOUT = Field(0.0, ge=0.0, lt=1.0)

NETWORKS: dict[str, NetworkEntry] = {
    "unet": entry(
        "unet",
        channels=Field(32, ge=1),
        pools=Field(4, ge=1, le=8),
        dropout=DROPOUT,
        residual=Field(True),
        norm=NORM,
    ),
    "dual_domain": entry(
        "dual_domain",
        in_kspace=True,
        channels=Field(32, ge=1),
        pools=Field(4, ge=1, le=8),
        dropout=DROPOUT,
        residual=Field(True),
        norm=NORM,
    ),
    "unrolled": entry(
        "unrolled",
        cascades=Field(5, ge=1),
        channels=Field(8, ge=1),
        pools=Field(3, ge=1, le=8),
        dropout=DROPOUT,
        shared_weights=Field(False),
        norm=NORM,
    ),
    "mscan": entry(
        "mscan",
        kind="super-resolution",
        channels=Field(20, ge=1),
        groups=Field(3, ge=1),
        blocks=Field(2, ge=1),
        scales=Field(3, ge=1, le=6),
        attention=Field(True),
        reduction=Field(4, ge=1),
    ),
    "srcnn": entry(
        "srcnn",
        kind="super-resolution",
        channels=Field(64, ge=2),
        kernel=one_of(1, 3, 5, 7),
    ),
    "edsr": entry("edsr", kind="super-resolution", channels=Field(64, ge=1), blocks=Field(16, ge=1)),
    "rcan": entry(
        "rcan",
        kind="super-resolution",
        channels=Field(32, ge=1),
        groups=Field(4, ge=1),
        blocks=Field(4, ge=1),
        reduction=Field(8, ge=1),
    ),
    "style": entry(
        "style",
        kind="prior",
        latent=Field(512, ge=1),
        layers=Field(8, ge=1),
        channel_base=Field(16384, ge=64),
        channel_max=Field(512, ge=1),
        skips=Field(False),
        noise_to=Field(1024, ge=0),
        truncation=Field(0.7, gt=0, le=1),
        truncated=Field(8, ge=0),
        content=one_of("magnitude", "complex"),
    ),
}
