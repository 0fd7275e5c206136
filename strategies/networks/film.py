"""An unrolled network whose features are scaled and shifted by a hypernetwork that sees how the slice was measured.

    features <- (1 + gamma) * norm(features) + beta,    (gamma, beta) = hypernetwork(protocol)

This is feature-wise linear modulation after each normalisation of the regularisers (FiLM: Perez et al., AAAI 2018). The
hypernetwork is a small perceptron, and the protocol is a vector of :data:`PROTOCOL` numbers. ``hyperfed`` keeps the
hypernetwork at the site; under another strategy it is shared as the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fedrecon.strategies.networks import unrolled

if TYPE_CHECKING:
    from fedrecon.sites.imaging.measurement import Images, Measurement

PROTOCOL = 6
"""Length of the vector that says how a slice was measured, see :func:`protocol`."""

_NORMS = (nn.InstanceNorm2d, nn.BatchNorm2d)


class Network(unrolled.Network):
    """The unrolled network, modulated by the protocol of each slice.

    All that the hypernetwork sees follows from the measurement, so a site that never trained has it too.
    """

    paper: ClassVar[str] = (
        unrolled.Network.paper
        + """
        @inproceedings{perez2018film,
            author = {Perez, Ethan and Strub, Florian and de Vries, Harm and Dumoulin, Vincent and
                Courville, Aaron},
            title = {{FiLM}: Visual Reasoning with a General Conditioning Layer},
            booktitle = {AAAI Conference on Artificial Intelligence},
            year = {2018}
        }
        """
    )

    def __init__(
        self,
        images: Images,
        *,
        cascades: int = 5,
        channels: int = 8,
        pools: int = 3,
        dropout: float = 0.0,
        shared_weights: bool = False,
        norm: str = "instance",
        hidden: int = 32,
    ) -> None:
        super().__init__(
            images,
            cascades=cascades,
            channels=channels,
            pools=pools,
            dropout=dropout,
            shared_weights=shared_weights,
            norm=norm,
        )
        self._norms = [one for one in self.regularisers.modules() if isinstance(one, _NORMS)]
        self._widths = [one.num_features for one in self._norms]
        self.hypernetwork = nn.Sequential(
            nn.Linear(PROTOCOL, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 2 * sum(self._widths))
        )
        with torch.no_grad():  # training starts near the network without modulation
            for value in self.hypernetwork[2].parameters():
                value.mul_(0.1)
        self.parts = {**self.parts, "hypernetwork": ("hypernetwork.",)}

    def forward(self, measurement: Measurement) -> Tensor:
        """The reconstruction, (b, y, x) complex64, at the scale of the data."""
        with self._modulated(self.hypernetwork(protocol(measurement))):
            return super().forward(measurement)

    @contextmanager
    def _modulated(self, codes: Tensor) -> Iterator[None]:
        """Scales and shifts the output of every normalisation by ``codes``, (b, 2 * features), within the body."""
        pairs = zip(self._norms, torch.split(codes, [2 * width for width in self._widths], dim=1), strict=True)
        hooks = [norm.register_forward_hook(partial(_film, code)) for norm, code in pairs]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _film(code: Tensor, _: nn.Module, __: Any, features: Tensor) -> Tensor:
    scale, shift = code[..., None, None].chunk(2, dim=1)
    return features * (1 + scale) + shift


def protocol(measurement: Measurement) -> Tensor:
    """How each slice was measured, (b, 6) float32: numbers of the order of 1 that no factor of the data changes.

    log2 of the pixels for each sample (the measured acceleration); the parts of the rows and of the columns of k-space
    that hold a sample; log2 of the coils; log2 of the rows and of the columns, each over 256.
    """
    mask, (b, n_coils), (y, x) = (
        measurement.operator.mask[:, 0],
        measurement.kspace.shape[:2],
        measurement.zero_filled.shape[-2:],
    )
    samples = mask.flatten(1).sum(dim=1).clamp_min(1)
    rows, columns = (mask.any(dim=axis).float().mean(dim=1) for axis in (2, 1))
    sizes = torch.tensor([n_coils, y / 256, x / 256], device=mask.device).log2().expand(b, 3)
    return torch.cat([torch.stack([(y * x / samples).log2(), rows, columns], dim=1), sizes], dim=1)
