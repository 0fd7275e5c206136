"""LG-FedAvg: personal early layers and shared late layers."""

from __future__ import annotations

from typing import ClassVar

from fedrecon.strategies.partial import Partial


class LGFedAvg(Partial):
    """Personal early layers, shared late layers (Liang et al., arXiv 2001.01523, algorithm 1).

    Each site learns a representation of its own. The layers after it are averaged over the sites. FedMRI does the
    opposite: it shares the encoder and keeps the decoder private.

    Attributes:
        private: parts that stay at the site; by default the network's ``encoder``.
    """

    paper: ClassVar[str] = """
        @misc{liang2020lgfedavg,
            author = {Liang, Paul Pu and Liu, Terrance and Ziyin, Liu and Allen, Nicholas B. and Auerbach, Randy P. and
                Brent, David and Salakhutdinov, Ruslan and Morency, Louis-Philippe},
            title = {Think Locally, Act Globally: Federated Learning with Local and Global Representations},
            howpublished = {arXiv:2001.01523},
            year = {2020}
        }
    """

    private: tuple[str, ...] = ("encoder",)
