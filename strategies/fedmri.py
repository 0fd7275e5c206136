"""FedMRI: a shared encoder, a private decoder, and a contrastive term that steers each site's encoder.

Feng et al., IEEE TMI 2023 (42(7):2010-2021, doi 10.1109/TMI.2022.3202106). theta_e^{server,z} is the server's encoder
in round z, theta_e^{s,z} the one that site s of S has trained in that round. One round z, at site s:

1. The server averages the encoders of the round before, theta_e^{server,z} = (1/S) sum_s theta_e^{s,z-1}, every site
   alike, and sends the mean down. Only the encoder travels (bottleneck included); the decoder, which the encoder's skip
   connections feed, is the site's own: :class:`Partial` with ``private: [decoder, head]``.
2. The site trains encoder and decoder together on

       L = reconstruction_weight * L_rec  +  contrastive_weight * L_con

                           || theta_e^s - theta_e^{server,z} ||_1
       L_con = ---------------------------------------------------------
                sum_{j=1..S} || theta_e^s - theta_e^{j,z-1} ||_1 + 1e-14

   L_con looks at the encoder's WEIGHTS. Pull: the numerator falls as the site's encoder comes nearer to the server's.
   Push: the denominator grows as it moves away from what EVERY site, itself included, had trained the round before.
   Both are differentiated through theta_e^s; the server's and the previous encoders are constants. || . ||_1 sums the
   absolute values over all parameters of the encoder, of both encoders where the network has two (``dual_domain``).
3. The site sends its encoder up.

L_con is left out in the first round, when there is no encoder of a round before, and on the first batch of every pass
over the data, as the authors' code does. (So a site whose slices make a single batch never feels it.)

Read in the authors' code and in a figure of theirs, not in the paper's text: the uniform average, both exceptions, the
constant, the weights 1 and 100, MSE as L_rec, one RMSprop at 1e-4 for the whole run. That code leaves
reconstruction_weight out where it leaves L_con out, which at 1 makes no difference. Here L_rec, optimiser and schedule
are the experiment's, so that methods are compared under equal training; ``experiments/fedmri-published.yaml`` is as
near to the published configuration as this platform comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrecon.strategies.partial import Partial

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement
    from fedrecon.sites.training.method import LocalFit
    from fedrecon.sites.wire import State, TrainReply, Vector

PUBLISHED_SIZE = 4_709_664
"""Parameters of the published encoder of images: one channel in, 32 to 512 features."""

TINY = 1e-14
"""Added to the denominator of L_con, as in the authors' code."""

PREVIOUS = "previous/"
"""Before a site's name: its encoder as it was trained in the round before."""


class FedMRI(Partial):
    """Shared encoder, private decoder, contrastive term on the encoder's weights (Feng et al., IEEE TMI 2023).

    The module says how it works.

    The encoder is whatever ``private`` leaves shared; with nothing private L_con acts on the whole network.

    What the negatives cost: the S encoders of the round before go down to every site beside the server's, (1 + S)
    vectors instead of one (MLflow: ``traffic/extra_bytes_down``), and a site holds them, and as many differences for
    the gradient, while it trains. What they reveal: every site sees each OTHER site's update under its name, where
    FedAvg shows it only the mean; the server's checkpoints hold them too. An update can betray training data (gradient
    inversion), so the sites must trust each other, and not the server alone. ``contrastive_weight: 0`` sends none.

    Where a site did not reply in a round, the next one contrasts with those that did: S is their number, and the
    returning site's own previous encoder is not among them.

    Attributes:
        private: the decoder and the last convolution.
        weighting: ``uniform``, 1 / S, as published.
        reconstruction_weight: lambda of the paper.
        contrastive_weight: beta of the paper.
        per_parameter: ours, off by default. The gradient of L_con on one weight is about 1 / (the encoder's size times
            how far its weights moved), so the published 100 pulls harder in a smaller network. True multiplies L_con by
            size / 4,709,664 (the published size; for each encoder, where there are several), which takes the size out.
    """

    paper: ClassVar[str] = (
        "@article{feng2023fedmri, title={Specificity-Preserving Federated Learning for {MR} Image Reconstruction}, "
        "author={Feng, Chun-Mei and Yan, Yunlu and Wang, Shanshan and Xu, Yong and Shao, Ling and Fu, Huazhu}, "
        "journal={IEEE Transactions on Medical Imaging}, volume={42}, number={7}, pages={2010--2021}, year={2023}, "
        "doi={10.1109/TMI.2022.3202106}}"
    )
    neutral: ClassVar[Mapping[str, Any] | None] = {"private": (), "weighting": "slices", "contrastive_weight": 0.0}

    private: tuple[str, ...] = ("decoder", "head")
    weighting: Literal["slices", "uniform"] = "uniform"
    reconstruction_weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    contrastive_weight: float = Field(100.0, ge=0, allow_inf_nan=False)
    per_parameter: bool = False

    # On the server

    def merge(self, state: State, replies: Iterable[TrainReply], n_slices: Mapping[str, int]) -> State:
        """The mean encoder, and beside it every site's own, which the next round contrasts with."""
        if self.contrastive_weight == 0:
            return super().merge(state, replies, n_slices)
        previous: dict[str, Vector] = {}

        def kept() -> Iterator[TrainReply]:
            for reply in replies:
                previous[f"{PREVIOUS}{reply.site}"] = reply.shared.copy()
                yield reply

        merged = super().merge(state, kept(), n_slices)
        return replace(merged, extra=previous)

    # At the site

    def receive(self, fit: LocalFit) -> None:
        """Keeps the server's encoder (the positive) and every site's of the round before (the negatives)."""
        previous = [one for name, one in sorted(fit.request.extra.items()) if name.startswith(PREVIOUS)]
        if previous:
            fit.scratch["server"] = _cut(fit, fit.request.shared)
            fit.scratch["previous"] = [_cut(fit, one) for one in previous]

    def loss(self, fit: LocalFit, batch: Measurement) -> Tensor:
        """L_rec, and L_con but in the first round and on the first batch of a pass; both are noted for MLflow."""
        loss = super().loss(fit, batch)
        if self.contrastive_weight == 0:
            return loss if self.reconstruction_weight == 1 else self.reconstruction_weight * loss
        fit.noted["reconstruction"], fit.noted["contrastive"] = loss.detach(), loss.detach().new_zeros(())
        loss = self.reconstruction_weight * loss
        if "server" not in fit.scratch or fit.batch == 0:
            return loss
        encoder = fit.shared()  # running statistics are buffers and do not enter L_con
        term = contrastive(encoder, fit.scratch["server"], fit.scratch["previous"])
        fit.noted["contrastive"] = term.detach()
        weight = self.contrastive_weight
        if self.per_parameter:
            encoders = len(getattr(fit.model, "parts", {}).get("encoder", ())) or 1
            weight *= sum(one.numel() for one in encoder) / (encoders * PUBLISHED_SIZE)
        return loss + weight * term


def contrastive(encoder: list[Tensor], server: list[Tensor], previous: list[list[Tensor]]) -> Tensor:
    """L_con of one encoder, as a scalar that is differentiable in ``encoder``.

    Args:
        encoder: the site's parameters, tensor by tensor. server: the mean that came down, in the same order and shapes.
        previous: one such list for each of the S sites.
    """
    pull = _distance(encoder, server)
    push = sum(_distance(encoder, one) for one in previous)
    return pull / (push + TINY)


def _distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """|| a - b ||_1 over all parameters."""
    distance: Any = sum((one - other).abs().sum() for one, other in zip(a, b, strict=True))
    return distance  # type: ignore[no-any-return]


def _cut(fit: LocalFit, values: Vector) -> list[Tensor]:
    """A vector from the wire, tensor by tensor."""
    import torch

    return fit.cut(torch.from_numpy(np.array(values)).to(fit.parameters.flat.device))
