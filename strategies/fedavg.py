"""FedAvg: the server takes the weighted mean of the sites' parameters, once a round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from fedrecon.strategies.strategy import Strategy


class FedAvg(Strategy):
    """Federated averaging (McMahan et al., AISTATS 2017, algorithm 1), every site in every round.

    Attributes:
        weighting: rule for the weight of a site. ``slices`` (the paper's) takes its share of the training slices,
            n_i / N. ``uniform`` takes 1 / K for K sites, as the published code of FedMRI, FL-MRCM and FedGIMP does.
    """

    paper: ClassVar[str] = """
        @inproceedings{mcmahan2017fedavg,
            author = {McMahan, Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and
                Ag{\\"u}era y Arcas, Blaise},
            title = {Communication-Efficient Learning of Deep Networks from Decentralized Data},
            booktitle = {Proceedings of the 20th International Conference on Artificial Intelligence and Statistics},
            series = {Proceedings of Machine Learning Research},
            volume = {54},
            pages = {1273--1282},
            year = {2017}
        }
    """

    weighting: Literal["slices", "uniform"] = "slices"

    def weights(self, n_slices: Mapping[str, int]) -> dict[str, float]:
        """n_i / N for ``slices``, 1 / K for ``uniform``."""
        if self.weighting == "uniform":
            return {member: 1 / len(n_slices) for member in n_slices}
        return super().weights(n_slices)
