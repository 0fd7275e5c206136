"""FedBN: all parameters are shared, except those of the normalisation."""

from __future__ import annotations

from typing import ClassVar

from fedrecon.strategies.partial import Partial


class FedBN(Partial):
    """Normalisations keep their scale, shift and statistics at the site (Li et al., ICLR 2021, section 3.2).

    It needs a network whose normalisation has parameters (``network.norm: batch`` or ``instance_affine``). Any other
    network is refused. The instance normalisation of fastMRI's U-Net has no parameters; FedMRI uses the same one.

    Attributes:
        private: parts that stay at the site; by default the network's ``norm``.
    """

    paper: ClassVar[str] = """
        @inproceedings{li2021fedbn,
            author = {Li, Xiaoxiao and Jiang, Meirui and Zhang, Xiaofei and Kamp, Michael and Dou, Qi},
            title = {{FedBN}: Federated Learning on Non-{IID} Features via Local Batch Normalization},
            booktitle = {International Conference on Learning Representations (ICLR)},
            year = {2021}
        }
    """

    private: tuple[str, ...] = ("norm",)
