"""FedMRI: a shared encoder, a private decoder, and a contrastive term on each site's encoder.

Feng et al., IEEE TMI 2023 (42(7):2010-2021, doi 10.1109/TMI.2022.3202106). theta_e^{server,z} is the server's encoder
in round z. theta_e^{s,z} is the encoder that site s of S sites has trained in that round. One round z, at site s:

1. The server averages the encoders of the round before, theta_e^{server,z} = (1/S) sum_s theta_e^{s,z-1}, with equal
   weights, and sends the mean down. Only the encoder travels (bottleneck included). The decoder, which the encoder's
   skip connections feed, stays at the site: :class:`Partial` with ``private: [decoder, head]``.
2. The site trains encoder and decoder together on

       L = reconstruction_weight * L_rec  +  contrastive_weight * L_con

                           || theta_e^s - theta_e^{server,z} ||_1
       L_con = ---------------------------------------------------------
                sum_{j=1..S} || theta_e^s - theta_e^{j,z-1} ||_1 + 1e-14

   L_con is a function of the encoder's WEIGHTS. Pull: the numerator falls when the site's encoder comes nearer to the
   server's. Push: the denominator grows when the site's encoder moves away from the encoders that ALL sites, itself
   included, had trained in the round before. Both are differentiated with respect to theta_e^s; the server's and the
   previous encoders are constants. || . ||_1 sums the absolute values over all parameters of the encoder. If the
   network has two encoders (``dual_domain``), it sums over both.
3. The site sends its encoder up.

L_con is left out in the first round, because no previous encoder exists, and on the first batch of every pass over the
data, as in the authors' code. So L_con has no effect at a site whose slices make only one batch.

Some facts are not in the paper's text. We read them in the authors' code and in one of their figures: the uniform
average, both exceptions, the constant, the weights 1 and 100, MSE as L_rec, one RMSprop at 1e-4 for the whole run. If
that code leaves L_con out, it also leaves reconstruction_weight out; with the value 1 this makes no difference. Here
L_rec, optimiser and schedule are the experiment's, so that methods are compared under equal training.
``experiments/fedmri-published.yaml`` is the closest configuration to the published one on this platform.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrecon.sites.errors import InputError
from fedrecon.sites.papers import FEDMRI
from fedrecon.sites.plugin import refuse_idle
from fedrecon.strategies.partial import Partial

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedrecon.sites.imaging.measurement import Images, Measurement
    from fedrecon.sites.training.method import LocalFit
    from fedrecon.sites.training.settings import Training
    from fedrecon.sites.wire import State, TrainReply, Vector

PUBLISHED_SIZE = 4_709_664
"""Number of parameters of the published image encoder: one input channel, 32 to 512 features."""

TINY = 1e-14
"""Added to the denominator of L_con, as in the authors' code."""

PREVIOUS = "previous/"
"""Prefix of the name of a vector: ``previous/SITE`` is the encoder that this site trained in the round before."""


class FedMRI(Partial):
    """Shared encoder, private decoder, contrastive term on the encoder's weights (Feng et al., IEEE TMI 2023).

    The docstring of the module describes the method.

    The encoder is the shared part of the network: all that ``private`` does not name. If ``private`` is empty, L_con
    acts on the whole network.

    Cost of the negatives: the S encoders of the round before go down to every site with the server's encoder. These are
    (1 + S) vectors instead of one (MLflow: ``traffic/extra_bytes_down``). While a site trains, it holds these vectors
    and, for the gradient, as many differences.

    Privacy: every site sees the update of each OTHER site under that site's name; with FedAvg it sees only the mean.
    The server's checkpoints hold these updates too. An update can betray training data (gradient inversion). So the
    sites must trust each other, and not only the server. ``contrastive_weight: 0`` sends no other site's encoder.

    If a site does not reply in a round, the next round contrasts with the encoders of the sites that replied. Then S is
    the number of those sites, and the returning site's own previous encoder is not among them.

    Attributes:
        private: parts that stay at the site; by default the decoder and the last convolution.
        weighting: rule for the weight of a site, see :class:`~fedrecon.strategies.fedavg.FedAvg`; by default
            ``uniform``, 1 / S, as published.
        reconstruction_weight: weight of L_rec, lambda in the paper.
        contrastive_weight: weight of L_con, beta in the paper.
        per_parameter: whether the size of the encoder is divided out (ours, off by default). The gradient of L_con with
            respect to one weight is about 1 / (the encoder's size times the distance that its weights moved). So the
            published weight 100 pulls harder in a smaller network. True multiplies L_con by size / 4,709,664: the mean
            size of the network's encoders over the published size.
    """

    paper: ClassVar[str] = FEDMRI
    neutral: ClassVar[Mapping[str, Any] | None] = {"private": (), "weighting": "slices", "contrastive_weight": 0.0}

    private: tuple[str, ...] = ("decoder", "head")
    weighting: Literal["slices", "uniform"] = "uniform"
    reconstruction_weight: float = Field(1.0, gt=0, le=1e6)
    contrastive_weight: float = Field(100.0, ge=0, le=1e6)
    per_parameter: bool = False

    def check(self, training: Training) -> None:
        """Refuses a size of the contrastive term without the term.

        Raises:
            ValueError: ``per_parameter`` without ``contrastive_weight``.
        """
        super().check(training)
        if not self.contrastive_weight:
            refuse_idle(self, ("per_parameter",), "strategy", "strategy.contrastive_weight is 0")

    def warnings(self, training: Training, per_pass: Mapping[str, int]) -> Sequence[str]:
        """Says where L_con is left out throughout: in a single round, and at sites whose pass is one batch."""
        whole = [member for member, batches in per_pass.items() if batches <= 1]
        if not self.contrastive_weight or not training.rounds:
            return ()
        if training.rounds == 1:
            return ("warning: fedmri has no contrastive term in the first round, and there is no second one",)
        left = (
            "warning: fedmri leaves out the contrastive term on the first batch of each pass, and one batch is all at "
        )
        return (f"{left}{', '.join(whole)}; a smaller training.batch_size makes more",) if whole else ()

    def build(self, network: Any, images: Images) -> nn.Module:
        """The network of the experiment.

        Raises:
            InputError: every parameter is private, so there is no encoder for the contrastive term.
        """
        model = super().build(network, images)
        if self.contrastive_weight and not any(self.shares(name, model) for name, _ in model.named_parameters()):
            raise InputError(
                "strategy.private: names every parameter of the network, so no encoder is left to contrast; name fewer "
                "parts, or set strategy.contrastive_weight=0"
            )
        return model

    # On the server

    def merge(self, state: State, replies: Iterable[TrainReply], n_slices: Mapping[str, int]) -> State:
        """The mean encoder, and in ``extra`` the encoder of every site that replied: the next round's negatives."""
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
        """Keeps the server's encoder (the positive) and the sites' encoders of the round before (the negatives)."""
        previous = [one for name, one in sorted(fit.request.extra.items()) if name.startswith(PREVIOUS)]
        if previous:
            fit.scratch["server"] = _cut(fit, fit.request.shared)
            fit.scratch["previous"] = [_cut(fit, one) for one in previous]

    def loss(self, fit: LocalFit, batch: Measurement) -> Tensor:
        """L_rec plus L_con; without L_con in the first round and on the first batch of a pass.

        The losses ``reconstruction`` (L_rec) and ``contrastive`` (L_con) are noted: ``rounds.parquet`` holds them, and
        MLflow does not.
        """
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
    """L_con as a scalar, differentiable with respect to ``encoder``.

    Args:
        encoder: parameters of the site's encoder, tensor by tensor.
        server: parameters of the server's encoder, in the same order and shapes.
        previous: for each of the S sites, the parameters of its encoder of the round before, in the same form.
    """
    pull = _distance(encoder, server)
    push = sum(_distance(encoder, one) for one in previous)
    return pull / (push + TINY)


def _distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """|| a - b ||_1 over all parameters."""
    distance: Any = sum((one - other).abs().sum() for one, other in zip(a, b, strict=True))
    return distance  # type: ignore[no-any-return]


def _cut(fit: LocalFit, values: Vector) -> list[Tensor]:
    """A shared vector of the request as tensors on the fit's device, in the order of ``fit.shared()``."""
    import torch

    return fit.cut(torch.from_numpy(np.array(values)).to(fit.parameters.flat.device))
