"""The simulated consortium: hospitals that image deformed MNI152 heads, each with its own scanner.

``simulate`` writes one shard a hospital. Nothing is downloaded: the anatomy ships inside the nilearn wheel.
"""

from fedrecon.sites.phantom.consortium import DEFAULT_SITES, DEFAULT_SUBJECTS, simulate, split_of, volumes
from fedrecon.sites.phantom.protocol import PROTOCOLS, Protocol

__all__ = ["DEFAULT_SITES", "DEFAULT_SUBJECTS", "PROTOCOLS", "Protocol", "simulate", "split_of", "volumes"]
