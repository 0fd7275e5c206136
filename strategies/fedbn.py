"""FedBN: all but the normalisation is shared."""

from __future__ import annotations

from typing import ClassVar

from fedrecon.strategies.partial import Partial


class FedBN(Partial):
    """Normalisations keep their scale, shift and statistics at the site (Li et al., ICLR 2021, section 3.2).

    It needs a network whose normalisation has parameters (``network.norm: batch`` or ``instance_affine``) and is
    refused with any other: the instance normalisation of fastMRI's U-Net, and so of FedMRI's, has none.

    Attributes:
        private: by default the network's ``norm``.
    """

    paper: ClassVar[str] = (
        "@inproceedings{li2021fedbn, title={{FedBN}: Federated Learning on Non-{IID} Features via Local Batch "
        "Normalization}, author={Li, Xiaoxiao and Jiang, Meirui and Zhang, Xiaofei and Kamp, Michael and Dou, Qi}, "
        "booktitle={ICLR}, year={2021}}"
    )

    private: tuple[str, ...] = ("norm",)
