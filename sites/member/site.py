"""A site: it holds its shards and its private memory, trains at the server's request, replies, and scores itself."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import open_sealed
from fedrecon.sites.data.stamp import Stamp
from fedrecon.sites.errors import InputError, RunError
from fedrecon.sites.member.error_text import leaving
from fedrecon.sites.member.network import layout, new_network
from fedrecon.sites.member.site_plan import refuse_other
from fedrecon.sites.member.usage import Usage
from fedrecon.sites.score_columns import GLOBAL
from fedrecon.sites.scoring.ensemble import self_ensemble
from fedrecon.sites.scoring.slice_scores import score
from fedrecon.sites.seeding import torch_generator
from fedrecon.sites.training.batches import Slices
from fedrecon.sites.training.local_loop import autocast, load_optimizer_vectors, optimizer_vectors, train
from fedrecon.sites.training.memory import Memory
from fedrecon.sites.training.method import LocalFit, Subject
from fedrecon.sites.training.parameters import Parameters, Room, to_vector
from fedrecon.sites.wire import (
    Description,
    Panels,
    PanelTask,
    PrivatePart,
    Samples,
    Scores,
    ScoreTask,
    TrainReply,
    TrainRequest,
    TunedReconstructor,
    Vector,
    temperature_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from fedrecon.sites.imaging.measurement import Measurement
    from fedrecon.sites.member.site_plan import SitePlan
    from fedrecon.sites.scoring.spread import Spread
    from fedrecon.sites.training.batches import Slice

PRIVATE = "parameters"
"""Name of the private parameters in a site's memory."""

EVALUATION_BATCH = 8
"""Number of slices that are reconstructed together for scores; it is fixed, so that it never changes a score."""


class Site:
    """One member of the federation, behind its wall. ``SiteActor`` runs it as a Ray actor.

    From outside, only the methods of :data:`fedrecon.sites.wire.METHODS` can be called, through
    :func:`fedrecon.sites.member.gate.call`. The other methods are for the code on the site's own machine:
    :meth:`reconstruct` and :meth:`image` return images.
    """

    def __init__(self, plan: SitePlan) -> None:
        self.plan, self.name = plan, plan.member
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._stamps = {name: Stamp.of(Path(path)) for name, path in plan.shards.items()}
        self.shards = {name: open_sealed(path) for name, path in plan.shards.items()}
        for name, shard in self.shards.items():
            refuse_other(shard, plan.contents.get(name, shard.content_hash))
        self.memory = Memory(plan.memory, plan.memory_source, plan.memory_owner)
        self._slices: dict[tuple[Any, ...], Slices] = {}

    def check_shards(self) -> None:
        """Refuses to go on with other data. A shard whose file was touched, and holds the same content, is accepted.

        Raises:
            RunError: a shard is not the one with which the run was planned; the message names it.
        """
        for name, shard in self.shards.items():
            try:
                stamp = Stamp.of(shard.path)
                if stamp != self._stamps[name]:
                    refuse_other(open_sealed(shard.path), shard.content_hash)
            except InputError as error:
                raise RunError(f"the shard changed during the run: {error}") from None
            self._stamps[name] = stamp

    @cached_property
    def model(self) -> nn.Module:
        """The network, on the site's device."""
        plan = self.plan
        return new_network(plan.method, plan.network, plan.images, plan.seed).to(self.device)

    @cached_property
    def parameters(self) -> Parameters:
        """The network's parameters in one vector. The first access also keeps the first private values."""
        return self._laid_out()

    def _laid_out(self, room: Room = lambda _: None) -> Parameters:
        parameters = layout(self.plan.method, self.plan.personalise, self.model, room)
        if self.plan.start is not None:
            parameters.load_all(self.plan.start)
        self._first_private = to_vector(parameters.private)
        return parameters

    def describe(self) -> Description:
        """A description of this member: process, device, threads, library versions, instruction set, shard hashes."""
        return Description(
            site=self.name,
            pid=os.getpid(),
            device=torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            threads=torch.get_num_threads(),
            torch=str(torch.__version__),
            instruction_set=torch.backends.cpu.get_cpu_capability(),
            numpy=np.__version__,
            shards={name: shard.content_hash for name, shard in self.shards.items()},
        )

    def train_in(self, room: Room) -> None:
        """Has the network in memory where the driver reads its reply, if nothing else than replies ever lies in it.

        A network with private parts, with local rounds of its own, or that is adapted to a subject, stays where it is.
        """
        if self.plan.personalise is not None or self.plan.method.network_kind != "reconstruction":
            return
        if "parameters" not in vars(self):  # laid out there at once: moved later, it needs its memory twice
            self.parameters = self._laid_out(room)
        elif not len(self.parameters.private) and (storage := room(len(self.parameters.flat))) is not None:
            self.parameters.move(storage)

    def fit(self, request: TrainRequest) -> TrainReply:
        """One round of local training from the state in the request.

        The memory of the last committed round is loaded first, so two requests for one round get the same reply. On the
        CPU ``shared`` of the reply is a view of the network's own parameters, which is valid until the next call. The
        Ray actor copies it into Ray's store or shared memory; in one process it is merged where it lies.
        """
        start, usage, plan = time.perf_counter(), Usage(), self.plan
        self.load(request, trains=True)
        local = plan.personalise is not None and plan.personalise.local(request.round, plan.training.rounds)
        method = plan.personalise.method if local else plan.method
        goes_on = not local or len(self._private()) == len(self.parameters.local)
        slices = self.slices("train")
        fit = LocalFit(
            site=self.name,
            request=request,
            model=self.model,
            parameters=self.parameters,
            training=plan.training,
            rate=plan.training.rate(request.round),
            generator=torch_generator(plan.seed, "fit", request.round, self.name),
            memory={name: value for name, value in self.memory.values.items() if name != PRIVATE},
            sites=tuple(plan.images.sites),
            n_slices=len(slices),
        )
        method.receive(fit)
        fit.optimizers = method.optimizers(fit)
        if plan.training.optimizer_state == "keep" and goes_on:
            load_optimizer_vectors(fit.optimizers, fit.memory)
        steps, losses = train(method, fit, slices, plan.seed)
        extra = method.reply(fit, steps)
        kept = {name: value for name, value in fit.memory.items() if not name.startswith("optimizer.")}
        if plan.training.optimizer_state == "keep":
            kept |= optimizer_vectors(fit.optimizers)
        own = self.parameters.local if local else self.parameters.private
        if len(own):
            kept[PRIVATE] = to_vector(own)
        if self._needs_memory:
            self.memory.save(request.round, kept, request.kept.get(self.name))
        seconds = time.perf_counter() - start
        # In a local round nothing goes up: what is personal stays, and the rest is as it came.
        shared = self.parameters.shared[: 0 if local else None].detach().cpu().numpy()
        used = usage.so_far(self.device)
        return TrainReply(self.name, request.round, len(slices), shared, extra, losses, steps, seconds, used)

    def evaluate(self, request: TrainRequest, task: ScoreTask) -> Scores:
        """Scores of one split under the request's state and this site's committed private memory."""
        self.load(request)
        slices = self.slices(task.split)
        batches = list(slices.iterate(self.scoring_batch))
        chosen = batches if task.part is None else batches[task.part : task.part + 1]
        seed_ = self.plan.evaluation.mask_seed
        spread = self._spread_of(temperature_of(request))
        return score(slices, chosen, task.split, self.image, seed_, self._model_name, self.name, spread)

    @torch.no_grad()
    def samples(self, request: TrainRequest) -> Samples:
        """Compares images that the prior draws for this site with its own slices; adds pictures if they are allowed."""
        from fedrecon.sites.scoring.prior_distance import compare, grid

        plan, (known, fresh) = self.plan, self._real
        self.load(request)
        self.model.eval()
        size = (known.shape[1], known.shape[2]) if len(known) else plan.images.size
        draw = partial(plan.method.draw, self.model, self.name, size=size)
        allowed = set(self.pictured) == set(self.shards)
        pictures = {self.name: grid(draw, known, plan.seed, self.name)} if allowed else {}
        return Samples(self.name, request.round, compare(draw, known, fresh, plan.seed, self.name), pictures)

    @property
    def pictured(self) -> tuple[str, ...]:
        """The shards of which pictures may leave (``evaluation.panels``)."""
        return tuple(name for name, shard in self.shards.items() if self.plan.evaluation.draws(shard.origin))

    def panels(self, request: TrainRequest, task: PanelTask) -> Panels:
        """A picture of one slice of each shard that is asked for and of which pictures may leave."""
        from fedrecon.sites.scoring.picture import draw

        drawn = [one for one in self.pictured if one in (task.sites or self.pictured)]
        if not drawn:
            return Panels(self.name)
        self.load(request)
        given = self.plan.evaluation.mask_seed, task.note, self._spread_of(temperature_of(request)), task.small
        try:
            return Panels(self.name, draw(self.slices(task.split), drawn, self.image, *given))
        except Exception as error:  # noqa: BLE001 - what draws raises anything, and no picture is worth a run
            return Panels(self.name, problem=str(leaving(error)))

    def private_part(self, request: TrainRequest) -> PrivatePart:
        """The private parameters by name, after the request's state.

        Raises:
            RunError: this member did not consent (``publish_private``).
        """
        if not self.plan.publish_private:
            raise RunError(f"site '{self.name}' did not agree to publish its private part: see publish_private")
        self.load(request)
        named = self.parameters.named(self._private(), shared=False)
        return PrivatePart(self.name, request.round, {name: value.copy() for name, value in named.items()})

    def adopt(self, private: Mapping[str, Any], number: int = 0) -> None:
        """Starts from these private parameters in place of the network's first values.

        Args:
            private: private parameters by name; empty keeps the network's first values.
            number: the round to which the parameters belong. A request with that round uses them and reads no memory.
        """
        parameters = self.parameters
        if private:
            self._first_private = parameters.joined(private, shared=False)
        self.memory.round = number

    def fine_tune(self, request: TrainRequest, epochs: int) -> None:
        """Trains on this site's training subjects, and starts from the result from now on.

        It trains the part of the network that is the site's own; the whole network, if all of it is shared.
        """
        from fedrecon.sites.training.fine_tuning import fine_tune

        plan, (site,) = self.plan, self.shards  # a rule's label is the member's name, and not the site's
        self.load(request)
        names = self.parameters.local_names
        own = self.parameters.local if names else self.parameters.flat
        names = names or self.parameters.names(shared=True)
        fine_tune(self.model, names, self.slices("train"), plan.training, plan.seed, site, epochs)
        self._first_private = to_vector(own)

    def reconstruct(self, request: TrainRequest, batch: Measurement, subject: Subject) -> Tensor:
        """The images (b, y, x) complex64 of a measured batch, under the request's state and the private part."""
        self.load(request)
        return self._apply(batch, subject)

    def spread(self, request: TrainRequest, batch: Measurement, subject: Subject) -> Tensor | None:
        """(b, y, x) float32: the spread of the method times the request's temperature; None if it tells none."""
        self.load(request)
        return self._spread(batch, subject, temperature_of(request)) if self._tells_spread else None

    @property
    def _tells_spread(self) -> bool:
        return self.plan.reconstructor is None and bool(self.plan.method.has_spread)

    def _spread(self, batch: Measurement, subject: Subject, temperature: float) -> Tensor:
        self.model.eval()
        with torch.no_grad(), autocast(self.plan.training.precision, self.device):
            return temperature * self.plan.method.spread(self.model, batch, subject).float()  # type: ignore[no-any-return]

    def _spread_of(self, temperature: float) -> Spread | None:
        """What gives the spread of a scoring batch, under the state that is loaded; None from a method without."""
        if not self._tells_spread:
            return None
        return lambda batch, items: self._spread(batch, Subject.of(items, self.plan.seed), temperature)

    def slices(self, split: str) -> Slices:
        """The slices of a split under the plan's operators; they are made once.

        For a method whose training does not know the operator, the training slices are fully sampled.
        """
        plan = self.plan
        key = (split,)
        if key not in self._slices:
            if split == "train" and not plan.method.trains_on_operator:
                return self._full(split)
            limits = dict.fromkeys(self.shards, plan.evaluation.slices_of(split))
            if split == "train":
                limits = {name: plan.sample or plan.training.slices_at(name) for name in self.shards}
            phase = plan.reconstructor is None or getattr(plan.reconstructor, "phase", True)
            truth = split != "train" and plan.evaluation.reference == "truth"
            own = plan.training.ssdu if split == "train" else None
            given = self.shards, plan.operators, split, self.device, limits, phase, truth
            self._slices[key] = Slices(*given, splitting=own)
        return self._slices[key]

    @cached_property
    def _real(self) -> tuple[Tensor, Tensor]:
        """Images of the training slices and of the validation slices of their matrix size, to compare drawn ones."""
        from fedrecon.sites.scoring.prior_distance import images

        known = images(self._full("train"))
        return known, images(self._full("validation"), (known.shape[1], known.shape[2]))

    def _full(self, split: str) -> Slices:
        """The fully sampled slices of a split, for a method whose training does not know the operator."""
        key = ("full", split)
        if key not in self._slices:
            plan = self.plan
            limits = {name: plan.sample or plan.training.slices_at(name) for name in self.shards}
            operators = dict.fromkeys(self.shards, Undersampling.whole())
            own = limits if split == "train" else None
            self._slices[key] = Slices(self.shards, operators, split, self.device, own, small_boxes=True)
        return self._slices[key]

    @property
    def scoring_batch(self) -> int:
        """The number of slices that are reconstructed together when they are scored."""
        trains = self.plan.reconstructor is None
        return self.plan.method.scoring_batch(EVALUATION_BATCH) if trains else EVALUATION_BATCH

    def tune_reconstructor(self) -> TunedReconstructor:
        """Chooses the classical reconstructor's parameters by PSNR on this site's validation subjects."""
        from fedrecon.sites.classical import reconstructor_name
        from fedrecon.sites.scoring.tuning import tune

        chosen, table = tune(self.plan.reconstructor, self.slices("validation"), self.plan.evaluation.mask_seed)
        tuned = TunedReconstructor(self.name, reconstructor_name(chosen), chosen.model_dump(), tuple(table))
        self.use_reconstructor(tuned)
        return tuned

    def use_reconstructor(self, tuned: TunedReconstructor) -> None:
        """Reconstructs with this classical method from now on."""
        from fedrecon.sites.plugin import parse

        chosen = parse(type(self.plan.reconstructor), tuned.parameters, where=f"reconstructor '{tuned.name}'")
        self.plan = replace(self.plan, reconstructor=chosen)

    def load(self, request: TrainRequest, trains: bool = False) -> None:
        """Loads the request's shared parameters and the committed private parameters into the network, if there is one.

        Only training needs the other vectors in the memory: a finished run is scored without them.
        """
        if self.plan.network is None:
            return
        parameters = self.parameters
        if self._needs_memory if trains else self._has_own:
            self.memory.load(request.standing.get(self.name, 0))
        parameters.load_shared(request.shared)
        parameters.load_private(self._private())

    @property
    def _needs_memory(self) -> bool:
        keeps = self.plan.training.optimizer_state == "keep" or self.plan.method.remembers
        return bool(keeps or len(self.parameters.private) or self.plan.personalise)

    @property
    def _has_own(self) -> bool:
        """Whether this member reconstructs with parameters of its own."""
        private = len(self.parameters.private) and self.plan.method.private_reconstructs
        return bool(private or self.plan.personalise)

    def _private(self) -> Vector:
        return self.memory.values.get(PRIVATE, self._first_private)

    @property
    def _model_name(self) -> str:
        return self.name if self.plan.network is not None and self._has_own else GLOBAL

    def image(self, batch: Measurement, items: Sequence[Slice]) -> Tensor:
        """The images (b, y, x) complex64 of a scoring batch, from the loaded network or the classical reconstructor."""
        return self._apply(batch, Subject.of(items, self.plan.seed))

    def _apply(self, batch: Measurement, subject: Subject) -> Tensor:
        plan = self.plan
        if plan.reconstructor is not None:
            return plan.reconstructor.reconstruct(batch)  # type: ignore[no-any-return]
        self.model.eval()

        def reconstruct(measurement: Measurement) -> Tensor:
            return plan.method.reconstruct(self.model, measurement, subject)  # type: ignore[no-any-return]

        with torch.no_grad(), autocast(plan.training.precision, self.device):
            return self_ensemble(reconstruct, batch) if plan.evaluation.self_ensemble else reconstruct(batch)
