"""The contract of a strategy: every hook defaults to FedAvg, so a method's file is its difference and nothing else.

On the server (pure, explicit :class:`State`): ``roster``, ``begin``, ``weights``, ``order``, ``merge``;
``scoring_request`` for scoring.
At the site, within THE local loop: ``build``, ``shares``, ``receive``, ``optimizers``, ``loss`` or ``step``, ``reply``.
At inference: ``reconstruct``; of a prior also ``draw``.

A strategy is a frozen set of parameters; what changes lives in the State (server) or in the site's private memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedrecon.sites.plugin import Plugin
from fedrecon.sites.wire import State, TrainReply, TrainRequest, Vector

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrecon.sites.imaging.measurement import Images, Measurement
    from fedrecon.sites.training.method import LocalFit, Subject
    from fedrecon.sites.training.settings import Training


class Strategy(Plugin):
    """FedAvg's behaviour under other hooks' names; see :mod:`fedrecon.strategies.fedavg` for the method itself.

    Attributes:
        paper: the citation, as BibTeX.
        neutral: the parameters at which the method must equal FedAvg to the bit (a law tested over the registry);
            None where there are none, and then ``not_neutral`` says why.
        trains_on_operator: False for a method whose training never sees the imaging operator (a generative prior):
            one training then serves every operator.
        network_kind: what its network does (:data:`fedrecon.strategies.networks.network.Kind`). A ``prior`` is seen
            between the rounds by what it draws; it reconstructs after the last one alone, for it adapts to each slice.
        optimizer_state: of ``training.optimizer_state: auto``.
        private_reconstructs: False where what is private serves training alone (a discriminator): all sites then
            reconstruct with one network, and a site that never trained needs no rule.
        at_inference: parameters that do not influence training, and so are no part of its digest.
        remembers: the method keeps vectors in the site's private memory (``fit.memory``) over rounds.
        replies: names of the vectors that :meth:`reply` sends up beside the shared parameters; others are refused.
        moves_data: the method needs all data in one place, and is refused where it may not be moved.
    """

    paper: ClassVar[str]
    neutral: ClassVar[Mapping[str, Any] | None] = {}
    not_neutral: ClassVar[str] = ""
    trains_on_operator: ClassVar[bool] = True
    network_kind: ClassVar[str] = "reconstruction"
    optimizer_state: ClassVar[str] = "reset"
    private_reconstructs: ClassVar[bool] = True
    at_inference: ClassVar[tuple[str, ...]] = ()
    remembers: ClassVar[bool] = False
    moves_data: ClassVar[bool] = False
    replies: ClassVar[tuple[str, ...]] = ()

    # On the server

    def roster(self, sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The members of the federation and the sites that each holds; by default every site is its own member."""
        return {site: (site,) for site in sites}

    def begin(self, weights: Vector) -> State:
        """The state before the first round, from the shared part of the first weights."""
        return State(round=0, shared=weights)

    def weights(self, n_slices: Mapping[str, int]) -> dict[str, float]:
        """The weight of each member's reply; they sum to 1. By default n_i / N, by training slices."""
        total = sum(n_slices.values())
        return {member: count / total for member, count in n_slices.items()}

    def request(self, state: State) -> TrainRequest:
        """What goes down to train the round after ``state``."""
        return TrainRequest(state.round + 1, state.shared, state.extra, state.standing)

    def scoring_request(self, state: State) -> TrainRequest:
        """What goes down to score ``state``; by default without what only training needs."""
        return replace(self.request(state), extra={})

    def merge(self, state: State, replies: Iterable[TrainReply], n_slices: Mapping[str, int]) -> State:
        """The state after the round. Replies come in the roster's order, each folded as it arrives.

        Args:
            replies: of the members that replied, possibly fewer than the roster.
            n_slices: training slices of EVERY member of the roster: the weights are formed before anything is folded.
        """
        mean, replied = Mean(self.weights(n_slices), len(state.shared)), {}
        for reply in replies:
            mean.fold(reply.site, reply.shared)
            replied[reply.site] = reply.round
        return state.next(mean.value(), state.extra, replied)

    # Before anything starts

    def check(self, training: Training) -> None:
        """Refuses settings under which the method makes no sense.

        Raises:
            ValueError: says which, and what to set.
        """

    # At the site

    def build(self, network: Any, images: Images) -> nn.Module:
        """The module that a site trains; a method with two networks returns them in one module."""
        module: nn.Module = network.build(images)
        return module

    def shares(self, name: str, network: nn.Module) -> bool:
        """Whether the parameter of this name crosses the wall; what does not is private memory of the site."""
        return True

    def receive(self, fit: LocalFit) -> None:
        """Called when an order has been loaded, before the local epochs."""

    def optimizers(self, fit: LocalFit) -> list[torch.optim.Optimizer]:
        """The optimisers of this fit; by default one over all parameters."""
        from fedrecon.sites.training.local_loop import optimizer

        return [optimizer(fit.training.optimizer, fit.model.parameters(), fit.rate)]

    def loss(self, fit: LocalFit, batch: Measurement) -> Tensor:
        """The loss of one batch; by default the experiment's, between reconstruction and reference."""
        from fedrecon.sites.training import losses

        terms = losses.terms(fit.training.loss, fit.model(batch), batch)
        if len(terms) > 1:
            fit.noted.update({name: value.detach() for name, value in terms.items()})
        return losses.total(terms)

    def gradients(self, fit: LocalFit) -> None:
        """Called between ``backward`` and the optimiser's step: a control variate or a clip goes here."""

    def step(self, fit: LocalFit, batch: Measurement) -> Mapping[str, Tensor]:
        """One optimiser step on one batch; returns the losses to record, ``loss`` first, then what ``loss`` noted."""
        (optimizer,) = fit.optimizers
        optimizer.zero_grad(set_to_none=True)
        loss = self.loss(fit, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self.gradients(fit)
        optimizer.step()
        return {"loss": loss.detach(), **fit.noted}

    def reply(self, fit: LocalFit, steps: int) -> Mapping[str, Vector]:
        """What goes up beside the shared parameters, flat vectors by name."""
        return {}

    def draw(self, network: nn.Module, site: str, count: int, draws: torch.Generator) -> Tensor:
        """(count, y, x) magnitude images that a prior draws for a site, of peak about 1."""
        raise NotImplementedError(f"{type(self).__name__} trains no prior")

    def scoring_batch(self, usual: int) -> int:
        """Slices that are reconstructed together when scored: a method that adapts has its own number."""
        return usual

    def scoring_cost(self) -> float:
        """Roughly the time of reconstructing and scoring a slice, in training steps on a slice: for time estimates."""
        return 0.4

    def reconstruct(self, network: nn.Module, measurement: Measurement, subject: Subject) -> Tensor:
        """(b, y, x) complex64 from one measurement; a method that adapts the network to a subject works on a copy."""
        image: Tensor = network(measurement)
        return image


class Mean:
    """A weighted mean folded one vector at a time: float32, one pass, no copy of any reply kept.

    The weights are fixed before the first fold, so the result depends on the order of folding alone, and that is the
    roster's. Where a member never replied, the mean is taken over those that did.
    """

    def __init__(self, weights: Mapping[str, float], size: int) -> None:
        self.weights, self.total, self._folded = weights, np.zeros(size, np.float32), 0.0
        self._scratch = np.empty(min(size, CHUNK), np.float32)
        self._missing = set(weights)

    def fold(self, member: str, values: Vector) -> None:
        """Adds ``weight * values``; ``values`` is only read."""
        if len(values) != len(self.total):
            raise ValueError(f"'{member}' replied with {len(values)} values instead of {len(self.total)}")
        weight = np.float32(self.weights[member])
        for start in range(0, len(self.total), CHUNK):
            part = values[start : start + CHUNK]
            scaled = np.multiply(part, weight, out=self._scratch[: len(part)])
            self.total[start : start + CHUNK] += scaled
        self._folded += self.weights[member]
        self._missing.discard(member)

    def value(self) -> Vector:
        """The mean over the members that were folded."""
        if len(self._missing) == len(self.weights):
            raise ValueError("no member replied, so there is no mean")
        if self._missing and self._folded > 0:
            self.total /= np.float32(self._folded)
        return self.total


CHUNK = 1 << 18
"""Values folded at once: the product stays in the cache until it is added (a third less CPU than 1 << 16; larger gives
no more)."""
