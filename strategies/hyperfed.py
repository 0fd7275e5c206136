"""HyperFed: a shared imaging network, modulated by a hypernetwork that each site keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from fedrecon.sites.errors import InputError
from fedrecon.strategies.partial import Partial

if TYPE_CHECKING:
    from torch import nn

    from fedrecon.sites.imaging.measurement import Images

HYPERNETWORK = "hypernetwork"


class HyperFed(Partial):
    """Shared imaging network, private hypernetwork (the idea of HyperFed, Yang et al., for CT).

    Each site learns its own map from how a slice was measured (acceleration, sampled lines, coils, matrix) to the
    scales and shifts of the shared network's features. So it needs a network with a part ``hypernetwork``: ``film``.

    Ours, not theirs: MR instead of CT, the protocol vector, the unrolled network and where it is modulated. Their
    numbers do not hold here.

    Attributes:
        private: parts that stay at the site; by default the network's ``hypernetwork``.
    """

    paper: ClassVar[str] = """
        @article{yang2023hyperfed,
            author = {Yang, Ziyuan and Xia, Wenjun and Lu, Zexin and Chen, Yingyu and Li, Xiaoxiao and Zhang, Yi},
            title = {Hypernetwork-Based Physics-Driven Personalized Federated Learning for {CT} Imaging},
            journal = {IEEE Transactions on Neural Networks and Learning Systems},
            year = {2023}
        }
    """

    private: tuple[str, ...] = (HYPERNETWORK,)

    def build(self, network: Any, images: Images) -> nn.Module:
        """The network of the experiment.

        Raises:
            InputError: the network has no hypernetwork, and ``private`` names it.
        """
        module = super().build(network, images)
        if HYPERNETWORK in self.private and HYPERNETWORK not in getattr(module, "parts", {}):
            raise InputError(f"strategy 'hyperfed' needs a hypernetwork: network '{network.name}' has none. Use film.")
        return module
