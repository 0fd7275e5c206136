"""The simulated consortium: hospitals that image deformed MNI152 heads, each with its own scanner.

``simulate`` writes one shard for each hospital. Nothing is downloaded: the nilearn wheel contains the anatomy.
"""

from fedrecon.sites.phantom.consortium import DEFAULT_SITES, DEFAULT_SUBJECTS, simulate, split_of, volumes
from fedrecon.sites.phantom.protocol import PROTOCOLS, Protocol

__all__ = ["DEFAULT_SITES", "DEFAULT_SUBJECTS", "PROTOCOLS", "Protocol", "simulate", "split_of", "volumes"]
