"""FedPer: a shared base and a personal head."""

from __future__ import annotations

from typing import ClassVar

from fedrecon.strategies.partial import Partial


class FedPer(Partial):
    """Shared base, personal last layers (Arivazhagan et al., arXiv 1912.00818, section 3).

    Attributes:
        private: parts that stay at the site; by default the network's ``head``. In a U-Net this is the last 1x1
            convolution, and FedMRI's code calls this sharing 'except_last'.
    """

    paper: ClassVar[str] = """
        @misc{arivazhagan2019fedper,
            author = {Arivazhagan, Manoj Ghuhan and Aggarwal, Vinay and Singh, Aaditya Kumar and Choudhary, Sunav},
            title = {Federated Learning with Personalization Layers},
            howpublished = {arXiv:1912.00818},
            year = {2019}
        }
    """

    private: tuple[str, ...] = ("head",)
