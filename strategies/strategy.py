"""The contract of a strategy. Every hook defaults to FedAvg, so a method's file holds only its difference from FedAvg.

The hooks, in the order in which they are called:

1. Before a run, on the driver: ``check``, ``roster``, ``warnings``.
2. On the driver and at every site, to make the network: ``build``, then ``shares`` for each parameter.
3. On the server: ``begin`` once. Then in each round ``request``, ``reply_sizes``, and ``merge``, which calls
   ``weights``.
4. At a site, in each round: ``receive``, ``optimizers``. Then, in THE local loop, ``updates`` once; for each batch
   ``step``, which calls ``loss`` and ``gradients``; at the end ``reply``.
5. To score a state: ``scoring_request`` on the server; ``scoring_batch`` and ``reconstruct`` at the sites. For a prior
   also ``draw``; if it tells how sure it is, ``spread``. ``scoring_cost`` serves the time estimates of a sweep.

A strategy is a frozen set of parameters (the fields of its class). A hook must not change the strategy. What changes
over the rounds is kept in the :class:`State` on the server, and in the private memory of a site (``fit.memory``). The
hooks on the server are pure functions: the same arguments give the same result. A site may be asked for the same round
twice and must then reply the same. So the hooks of the local loop use only their arguments, and draw random numbers
only from ``fit.generator``.

The driver reads strategies without torch. So a strategy's file imports torch inside its hooks, or under TYPE_CHECKING.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from fedrecon.sites.plugin import Plugin
from fedrecon.sites.wire import Buffers, State, TrainReply, TrainRequest, Vector
from fedrecon.strategies.mean import Mean, checked
from fedrecon.strategies.networks.network import PRIORS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrecon.sites.imaging.measurement import Images, Measurement
    from fedrecon.sites.training.method import LocalFit, Subject
    from fedrecon.sites.training.settings import Training


class Strategy(Plugin):
    """The base class of all strategies. Its hooks do what FedAvg does.

    FedAvg itself (:mod:`fedrecon.strategies.fedavg`) adds only the choice of the weights. The fields of a subclass are
    its parameters. The class attributes below describe the method; a subclass overrides them.

    Attributes:
        paper: the works to cite, as BibTeX entries; empty if there are none.
        neutral: the parameters at which the method must equal FedAvg to the bit. A test checks this law for the whole
            registry. None means that no such parameters exist; then ``not_neutral`` says why.
        not_neutral: the reason why the method never equals FedAvg; empty if ``neutral`` is given.
        not_personal: the reason why the method has no local rounds (``personalise``): it shares no network with which a
            site reconstructs. Empty if it has them.
        trains_on_operator: whether the training sees the imaging operator. False (a generative prior) gives the
            training fully sampled slices, and one training serves every operator.
        network_kind: the kind of network that the method trains (:data:`fedrecon.strategies.networks.network.Kind`),
            ``reconstruction``, ``prior`` or ``denoiser``. With ``reconstruction`` it also trains ``super-resolution``
            networks, if that is the task. The others are priors: see :attr:`is_prior`.
        optimizer_state: the meaning of ``training.optimizer_state: auto`` for this method, ``reset`` or ``keep``.
        loss_falls: whether a training whose loss rises again has failed; not so of an adversarial one.
        private_reconstructs: whether the private parameters take part in a reconstruction. False means that they serve
            training only (a discriminator). Then all sites reconstruct with the same network, and a site that did not
            train needs no rule for its private part.
        at_inference: the names of parameters that do not influence training. The digest of the training leaves them
            out; the digest of the run holds them.
        remembers: whether the method keeps vectors in the site's private memory (``fit.memory``) over rounds. If False,
            what a hook writes there may be lost after the round.
        replies: the names of the vectors that :meth:`reply` sends up beside the shared parameters. A reply that carries
            others, or not all of them, is refused.
        moves_data: whether the method needs the data of all sites in one place. Such a method is refused for patients'
            data unless the experiment allows it (``allow_pooling``).
    """

    paper: ClassVar[str]
    neutral: ClassVar[Mapping[str, Any] | None] = {}
    not_neutral: ClassVar[str] = ""
    not_personal: ClassVar[str] = ""
    trains_on_operator: ClassVar[bool] = True
    network_kind: ClassVar[str] = "reconstruction"
    optimizer_state: ClassVar[str] = "reset"
    loss_falls: ClassVar[bool] = True
    private_reconstructs: ClassVar[bool] = True
    at_inference: ClassVar[tuple[str, ...]] = ()
    remembers: ClassVar[bool] = False
    moves_data: ClassVar[bool] = False
    replies: ClassVar[tuple[str, ...]] = ()

    @property
    def is_prior(self) -> bool:
        """Whether the method trains what images look like, and no reconstruction.

        A prior is joined with each slice's measurement, which is slow. So it is scored only after the last round; each
        validation compares images that it draws (:meth:`draw`) with the site's own slices.
        """
        return self.network_kind in PRIORS

    @property
    def own_science(self) -> dict[str, Any]:
        """What enters digests beside the parameters: the mark of a fix that changed the method's results."""
        return {}

    @property
    def has_spread(self) -> bool:
        """Whether the method tells the spread of its error (:meth:`spread`); it may depend on the parameters."""
        return False

    # On the server

    def roster(self, sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The members of the federation. By default every site is a member of its own.

        Called before a run, and when a sweep is planned.

        Args:
            sites: the names of the experiment's sites, in its order.

        Returns:
            for each member, the sites whose shards it holds. Its order is the order in which replies are merged.
        """
        return {site: (site,) for site in sites}

    def begin(self, weights: Vector, buffers: Buffers | None = None) -> State:
        """The state before the first round. Called once for a new run; a resumed run reads its state from a checkpoint.

        Args:
            weights: the shared part of the network's first weights, (n_shared,) float32.
            buffers: (n_shared,) bool, True where a value is no parameter but a buffer, such as a running mean of a
                batch normalisation. A buffer has no gradient: the only sound merge of it is the plain mean. None: there
                are none.

        Returns:
            a state of round 0. ``extra`` holds the vectors that the server keeps over rounds (moments, variates).
        """
        return State(round=0, shared=weights)

    def weights(self, n_slices: Mapping[str, int]) -> dict[str, float]:
        """The weight of each member's reply in the mean. By default n_i / N, by training slices.

        Called by :meth:`merge`, once a round.

        Args:
            n_slices: the number of training slices of every member.

        Returns:
            a weight for every member, finite and not negative; they sum to 1. Others are refused by :meth:`merge`.
        """
        total = sum(n_slices.values())
        return {member: count / total for member, count in n_slices.items()}

    def request(self, state: State) -> TrainRequest:
        """The request that every member gets to train the round after ``state``. Called once a round, before it.

        Returns:
            a request with the round ``state.round + 1``, the shared vector (n_shared,), the vectors that the sites need
            (``extra``; by default all of the state's), and ``state.standing``.
        """
        return TrainRequest(state.round + 1, state.shared, state.extra, state.standing)

    def scoring_request(self, state: State) -> TrainRequest:
        """The request that a member gets to score ``state`` or to reconstruct with it. By default without ``extra``.

        Called before each validation, before the test, and whenever a finished run is evaluated or reconstructs. Its
        ``shared`` vector is also written as the weights of the finished run.

        Returns:
            a request as in :meth:`request`. A method overrides this hook if other weights are scored than trained (a
            moving average).
        """
        return replace(self.request(state), extra={})

    def reply_sizes(self, request: TrainRequest) -> dict[str, int]:
        """The length of each vector in ``replies``. By default each is as long as the shared vector.

        Called once a round with its request, before the members are asked. A reply of other lengths is refused.
        """
        return dict.fromkeys(self.replies, len(request.shared))

    def merge(self, state: State, replies: Iterable[TrainReply], n_slices: Mapping[str, int]) -> State:
        """The state after the round. Called once a round. By default the weighted mean of the shared vectors.

        Args:
            state: the state before the round.
            replies: an iterator over the replies of the members that replied; they may be fewer than the roster. They
                come in the roster's order. Go through it once, and fold each reply as it comes. The vectors of a reply
                are read-only. If the returned state refers to them, the round loop copies them.
            n_slices: the number of training slices of EVERY member of the roster. So the weights are known before the
                first reply comes.

        Returns:
            the state after the round, made by :meth:`State.next`, which needs the names of the members that replied.

        Raises:
            ValueError: no member replied, or a reply has the wrong length.
        """
        weights = checked(type(self), self.weights(n_slices), n_slices)
        mean, replied = Mean(weights, len(state.shared)), {}
        for reply in mean.folded(replies):
            replied[reply.site] = reply.round
        return state.next(mean.value(), state.extra, replied)

    # Before anything starts

    def check(self, training: Training) -> None:
        """Refuses settings of the training that do not fit the method. Called when an experiment is validated.

        Raises:
            ValueError: the settings do not fit; the message names the key and says what to set.
        """

    def warnings(self, training: Training, per_pass: Mapping[str, int]) -> Sequence[str]:
        """The lines to say when a run begins, such as what will have no effect in it. By default none.

        Args:
            training: the block of the experiment, with the rounds that are not local ones.
            per_pass: the number of batches in one pass over the training slices of each member.
        """
        return ()

    # At the site

    def build(self, network: Any, images: Images) -> nn.Module:
        """The module that a site trains. A method with two networks returns both in one module.

        Called on the driver and at every site. All must build the same module, and they seed torch's generator alike
        before the call. It is also called once without memory (torch device ``meta``), to check the names.

        Args:
            network: the network of the experiment (:class:`fedrecon.strategies.networks.choice.NetworkChoice`);
                ``network.build(images)`` makes it.
            images: the kind of images that the network must fit.
        """
        module: nn.Module = network.build(images)
        return module

    def updates(self, training: Training, per_pass: int, per_pass_of_sites: Sequence[int]) -> int:
        """The number of optimiser steps of a member in each round. By default as the block ``training`` says.

        Called at a site once a round, and on the driver for reports and time estimates. It must be the same in every
        round: the loop counts the batches from the first round on.

        Args:
            training: the block of the experiment.
            per_pass: the number of batches in one pass over the member's training slices.
            per_pass_of_sites: the same for each of its sites alone; one number, unless the roster pools sites.
        """
        return training.local_steps or training.local_epochs * per_pass

    def shares(self, name: str, network: nn.Module) -> bool:
        """Whether this parameter crosses the wall. The other parameters are private: the site keeps them in its memory.

        Called for each parameter and each floating-point buffer of the module, on the driver and at every site. The
        answers must be the same everywhere: they fix the order of values in the shared vector.

        Args:
            name: the name of the parameter or buffer in ``network``. network: the module that :meth:`build` made.
        """
        return True

    def receive(self, fit: LocalFit) -> None:
        """Prepares a fit. Called once a round, when the network holds the request's shared and the private parameters.

        ``fit.optimizers`` is still empty. ``fit.memory`` holds the site's vectors of the last committed round, and
        ``fit.request.extra`` the further vectors of the server. Put values for the later hooks of this round into
        ``fit.scratch``.
        """

    def optimizers(self, fit: LocalFit) -> list[torch.optim.Optimizer]:
        """The optimisers of this fit. By default one over all parameters. Called once a round, after :meth:`receive`.

        Returns:
            new optimisers, always in the same order. The loop loads their moments from the private memory if
            ``training.optimizer_state`` is ``keep``. The default :meth:`step` needs exactly one.
        """
        from fedrecon.sites.training.optimizers import optimizer

        return [optimizer(fit.training.optimizer, fit.model.parameters(), fit.rate)]

    def loss(self, fit: LocalFit, batch: Measurement) -> Tensor:
        """The loss of one batch, for the default :meth:`step`: the experiment's, between reconstruction and reference.

        Returns:
            a scalar with a gradient. Further losses to record are written to ``fit.noted`` by name, detached.
        """
        from fedrecon.sites.training import losses

        terms = losses.terms(fit.training.loss, fit.model(batch), batch)
        if len(terms) > 1:
            fit.noted.update({name: value.detach() for name, value in terms.items()})
        return losses.total(terms)

    def gradients(self, fit: LocalFit) -> None:
        """Changes the gradients in place, for a control variate or a clip. By default nothing.

        Called by the default :meth:`step`, once a batch, between ``backward`` and the optimiser's step.
        """

    def step(self, fit: LocalFit, batch: Measurement) -> Mapping[str, Tensor]:
        """One optimiser step on one batch. Called once a batch, in training mode, under autocast if it is asked for.

        Override it if one step trains two networks; otherwise override :meth:`loss` or :meth:`gradients`.

        Args:
            fit: the fit; ``fit.epoch``, ``fit.batch`` and ``fit.indices`` say which batch this is.
            batch: the measured slices of the batch, with ``target`` and ``reference``.

        Returns:
            the losses to record by name, as detached scalars, ``loss`` first. The site sends their means. A name is
            made of a-z, 0-9 and _, and is that of no score.
        """
        (optimizer,) = fit.optimizers
        optimizer.zero_grad(set_to_none=True)
        loss = self.loss(fit, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self.gradients(fit)
        optimizer.step()
        return {"loss": loss.detach(), **fit.noted}

    def reply(self, fit: LocalFit, steps: int) -> Mapping[str, Vector]:
        """The further vectors that go up with the shared parameters. By default none. Called once a round, at its end.

        Write the vectors that the site keeps to ``fit.memory`` here (see ``remembers``); it is stored after this call.
        The name ``parameters`` and names that begin with ``optimizer.`` are taken.

        Args:
            steps: the number of optimiser steps of this fit.

        Returns:
            flat float32 vectors by name, on the CPU; :meth:`merge` finds them in ``reply.extra``.
        """
        return {}

    # At scoring and at inference

    def draw(self, network: nn.Module, site: str, count: int, draws: torch.Generator, size: tuple[int, int]) -> Tensor:
        """Draws images from a prior. Called at scoring, for strategies that train a prior.

        Args:
            network: the network with the parameters of the scored state, in evaluation mode; gradients are off.
            site: the name of the member for which it draws. count: the number of images.
            draws: a CPU generator; every random number comes from it.
            size: the matrix (y, x) of the site's slices that the images are compared with.

        Returns:
            (count, y, x) magnitude images with a peak of about 1, of that matrix; or of a larger one with the image of
            the site in its centre, if the network has one size for all sites.

        Raises:
            NotImplementedError: the strategy trains no prior.
        """
        raise NotImplementedError(f"{type(self).__name__} trains no prior")

    def scoring_batch(self, usual: int) -> int:
        """The number of slices that are reconstructed together at scoring; the platform's, ``usual``, by default."""
        return usual

    def scoring_cost(self) -> float:
        """The rough time to reconstruct and score a slice, in units of the time to train on a slice.

        Called when the time of a sweep is estimated.
        """
        return 0.4

    def reconstruct(self, network: nn.Module, measurement: Measurement, subject: Subject) -> Tensor:
        """The reconstruction of a batch. By default the network's own. Called at scoring and at inference.

        The network holds the scored state and the site's private parameters. It is in evaluation mode, and gradients
        are off. A method that adapts the network to a slice must work on a copy.

        Args:
            network: the module that :meth:`build` made. measurement: the measured data of b slices of one site.
            subject: the site, subjects and slice numbers of the batch, and the seed: a method that adapts draws its
                random numbers from these.

        Returns:
            (b, y, x) complex64 at the scale of the data.
        """
        image: Tensor = network(measurement)
        return image

    def spread(self, network: nn.Module, measurement: Measurement, subject: Subject) -> Tensor:
        """The spread of the reconstruction of a batch: how sure the method is of each pixel.

        Called at scoring, for pictures and at inference, if :attr:`has_spread`. The platform multiplies it by one
        factor, the temperature, so that its mean square on validation subjects is that of the error. So only its shape
        and its relative size count.

        Args:
            network, measurement, subject: as in :meth:`reconstruct`. Random numbers follow from ``subject``.

        Returns:
            (b, y, x) float32, not negative: the standard deviation of each pixel's magnitude, at the scale of the data.

        Raises:
            NotImplementedError: the strategy tells none.
        """
        raise NotImplementedError(f"{type(self).__name__} tells no spread")
