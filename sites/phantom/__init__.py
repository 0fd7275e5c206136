"""The simulated consortium: hospitals that image deformed MNI152 heads or synthesised ones.

``simulate`` writes one shard for each hospital. Nothing is downloaded: the nilearn wheel contains the anatomy.
"""

from fedrecon.sites.phantom.consortium import (
    DEFAULT_SITES,
    DEFAULT_SUBJECTS,
    SCANNERS,
    Population,
    simulate,
    split_of,
    volumes,
)
from fedrecon.sites.phantom.protocol import PROTOCOLS, Protocol
from fedrecon.sites.phantom.scanner import ANATOMIES

__all__ = [
    "ANATOMIES",
    "DEFAULT_SITES",
    "DEFAULT_SUBJECTS",
    "PROTOCOLS",
    "SCANNERS",
    "Population",
    "Protocol",
    "simulate",
    "split_of",
    "volumes",
]
