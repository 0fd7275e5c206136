"""The laws of a network, at its default parameters. A prior is only checked for its parameters and its parts."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

import torch

from fedrecon.platform.laws.law import Law, difference, drawn, not_an_image, numbers, picked
from fedrecon.sites.imaging.degradations import DEGRADATIONS
from fedrecon.sites.imaging.measurement import Held, Images, Measurement
from fedrecon.strategies.networks.network import PRIORS, NetworkEntry

PARTS = ("encoder", "decoder", "head", "norm")


@dataclass(frozen=True)
class BuiltNetwork:
    """A network under test: its entry in the registry."""

    entry: NetworkEntry

    def build(self, complex_valued: bool = True, coils: int = 4, seed: int = 0) -> Any:
        """A network with the first weights of this seed."""
        torch.manual_seed(seed)
        images = Images(complex_valued, (32, 32), coils, ("a", "b"), 2 if self.enlarges else 1)
        return self.entry.load()(images, **self.entry.parameters().model_dump())

    @property
    def enlarges(self) -> bool:
        """Whether it is a super-resolution network."""
        return self.entry.kind == "super-resolution"

    @property
    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        """Coils and sizes (y, x) of images."""
        return ((1, 32, 32), (4, 36, 28)) if self.enlarges else ((1, 32, 32), (4, 33, 26))

    def seen(self, one: Measurement) -> Measurement:
        """The measurement as the network gets it: at a low resolution if it enlarges."""
        if not self.enlarges:
            return one
        operator: Any = one.operator
        return DEGRADATIONS["kspace-truncation"](scale=2).measure(one.kspace, operator.maps)


def _parameters(one: BuiltNetwork) -> str:
    signature = inspect.signature(one.entry.load().__init__).parameters
    takes = {k: p.default for k, p in signature.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    says = one.entry.parameters().model_dump()
    return "" if takes == says else f"the class takes {takes} after the *, the entry says {says}"


def _described(one: BuiltNetwork) -> str:
    paper = getattr(one.entry.load(), "paper", None)
    return "" if isinstance(paper, str) else 'the class has no attribute "paper"; an empty text says that there is none'


def _sizes(one: BuiltNetwork) -> str:
    if one.entry.kind in PRIORS:
        return ""
    for complex_valued in (True, False):
        for coils, y, x in one.sizes:
            image = one.build(complex_valued, coils)(one.seen(drawn(coils, (y, x))))
            if words := not_an_image(image, (2, y, x)):
                return f"{coils} coils, {y} x {x}: {words}"
    return ""


def _scales(one: BuiltNetwork) -> str:
    if one.entry.kind in PRIORS:
        return ""
    network = one.build()
    with torch.no_grad():
        wanted = network(one.seen(drawn(4)))
        found = network(one.seen(drawn(4, factor=1e3))) / 1e3
    return difference({"the image": numbers(found)}, {"the image": numbers(wanted)}, 1e-3 * float(wanted.abs().max()))


def _gradients(one: BuiltNetwork) -> str:
    if one.entry.kind in PRIORS:
        return ""
    draw, without = drawn(4), None
    target = draw.target
    assert target is not None
    for seed in range(3):  # a rectifier may be shut for the whole of a small batch
        network = one.build(seed=seed)
        (network(one.seen(draw)) - target).abs().sum().backward()
        none = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
        without = none if without is None else [name for name in without if name in none]
    return f"none reaches {', '.join(without)}" if without else ""


def _parts(one: BuiltNetwork) -> str:
    network = one.build()
    parts = getattr(network, "parts", None)
    if not isinstance(parts, dict):
        return "it has no dict `parts`"
    if one.entry.kind not in PRIORS and (missing := [part for part in PARTS if part not in parts]):
        return f"`parts` has no {', '.join(missing)}"
    for name, _ in network.named_parameters():
        owners = [part for part, prefixes in parts.items() if part != "norm" and name.startswith(tuple(prefixes))]
        if len(owners) != 1:
            return f"{name} lies in {' and '.join(owners) or 'no part'}"
    return ""


def _apart(one: BuiltNetwork) -> str:
    if one.entry.kind in PRIORS:
        return ""
    network, draw = one.build().eval(), drawn(4, batch=3)
    with torch.no_grad():
        wanted, found = network(one.seen(draw))[:1], network(one.seen(picked(draw, slice(0, 1))))
    return difference({"the image": numbers(found)}, {"the image": numbers(wanted)}, 1e-3 * float(wanted.abs().max()))


def _honest(one: BuiltNetwork) -> str:
    if one.entry.kind in PRIORS:
        return ""
    network, draw = one.build().eval(), one.seen(drawn(4))
    blind = dataclasses.replace(draw, target=None, reference=None)
    draw = dataclasses.replace(draw, held=Held(draw.operator, draw.kspace))
    with torch.no_grad():
        return difference({"the image": numbers(network(blind))}, {"the image": numbers(network(draw))})


LAWS = (
    Law("The class takes the parameters of its entry, keyword-only, with the same defaults.", _parameters),
    Law("The class cites its works in `paper`.", _described),
    Law("It gives a complex64 image (b, y, x) for any coils and any size, for magnitude and complex data.", _sizes),
    Law("Data times 1000 give the image times 1000: divide by measurement.scale, then multiply.", _scales),
    Law("A gradient reaches every parameter.", _gradients),
    Law("`parts` has encoder, decoder, head, norm; each parameter lies in exactly one of the first three.", _parts),
    Law("The slices of a batch do not mix.", _apart),
    Law("It reads none of measurement.target, measurement.reference and measurement.held.", _honest),
)
