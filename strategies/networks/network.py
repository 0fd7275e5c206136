"""The entries of the registry of networks, and the contract of a network's file.

An experiment names a network and its parameters. They are checked without torch; the network is built where it trains.

The file of a network is ``<module>.py`` in this folder. It holds a class ``Network``:

- ``Network(images, **parameters)`` is an ``nn.Module`` for images of this kind
  (:class:`~fedrecon.sites.imaging.measurement.Images`). Its parameters are keyword-only. They are the same as in its
  registry entry, with the same defaults.
- ``forward(measurement) -> image`` returns (b, y, x) complex64 at the scale of the data. It divides by
  ``measurement.scale`` at the start and multiplies by it at the end, so that
  ``network(a * measurement) == a * network(measurement)``. A prior has no such ``forward``; see ``style.py`` and
  ``denoiser.py``.
- ``parts`` maps the name of a part to prefixes of parameter names. ``encoder``, ``decoder``, ``head`` and further parts
  divide the parameters among them. ``norm`` holds the affine normalisations, which also lie in one of these parts; it
  is empty if there are none. A prior has other parts.
- ``paper`` holds the works to cite, as BibTeX entries.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import create_model
from pydantic.fields import FieldInfo

from fedrecon.sites.errors import InputError, brief
from fedrecon.sites.plugin import ADDED_LATER, Plugin

Kind = Literal["reconstruction", "super-resolution", "prior", "denoiser"]
"""The kind of a network. ``reconstruction``: it reconstructs a measurement. ``super-resolution``: it enlarges the
low-resolution image of a measurement (``measurement.low``). ``prior``: it draws images and uses no measurement.
``denoiser``: it removes noise from images, and uses no measurement either."""

PRIORS = ("prior", "denoiser")
"""The kinds of networks that know images and no measurement."""


@dataclass(frozen=True)
class NetworkEntry:
    """An entry of the registry.

    Attributes:
        module: the name of the file that holds the network, without ``.py``; of a plug-in from outside
            ``MODULE:CLASS``.
        parameters: the pydantic model that checks the network's parameters.
        weights: a function of the parameters that estimates the number of weights, from the largest layers alone. So a
            network that no machine holds is refused before torch loads.
        kind: the kind of the network, :data:`Kind`.
        in_kspace: whether the network works on k-space. If so, it needs measurements that are Cartesian k-space.
        in_kspace_with: the parameter with which it works on k-space, unless that is 0 or False; empty: there is none.
        at_inference: the names of parameters that do not influence training. In the digest of the training they have
            their defaults; the digest of the run holds them.
    """

    module: str
    parameters: type[Plugin]
    weights: Callable[[Any], float]
    kind: Kind = "reconstruction"
    in_kspace: bool = False
    in_kspace_with: str = ""
    at_inference: tuple[str, ...] = ()

    def chosen(self, parameters: Mapping[str, Any]) -> NetworkEntry:
        """This entry under these parameters: :attr:`in_kspace` says what holds with them."""
        return replace(self, in_kspace=self.in_kspace or bool(parameters.get(self.in_kspace_with)))

    def load(self) -> Any:
        """The class ``Network`` of the file. This imports torch."""
        return network_class(self.module)


def network_class(module: str) -> Any:
    """The class that :attr:`NetworkEntry.module` names. This imports torch."""
    outside, _, name = module.partition(":")
    if name:
        return getattr(importlib.import_module(outside), name)
    return importlib.import_module(f"{__package__}.{module}").Network


def entry(
    module: str | type,
    weights: Callable[[Any], float] = lambda _: 0,
    kind: Kind = "reconstruction",
    in_kspace: bool = False,
    in_kspace_with: str = "",
    at_inference: tuple[str, ...] = (),
    **fields: Any,
) -> NetworkEntry:
    """An entry of the registry.

    Args:
        module: see :class:`NetworkEntry`; a plug-in from outside gives its class.
        weights: see :class:`NetworkEntry`; without it, no size is refused.
        fields: the parameters. The type of a parameter is the type of its default, or the choice that :func:`one_of`
            gives.

    Raises:
        InputError: a parameter is no pydantic ``Field``.
    """
    if isinstance(module, type):
        module = f"{module.__module__}:{module.__qualname__}"
    for name, field in fields.items():
        if not isinstance(field, FieldInfo):
            given = module.rpartition(":")[2]
            form = f"such as Field({brief(field)}, ge=1)" if type(field) is int else f"such as Field({brief(field)})"
            raise InputError(f"entry({given}, {name}={brief(field)}): a pydantic Field is needed, {form}")
    typed = {name: (_type(field), field) for name, field in fields.items()}
    model: type[Plugin] = create_model(f"{module}_parameters", __base__=Plugin, **typed)  # type: ignore[call-overload]
    return NetworkEntry(module, model, weights, kind, in_kspace, in_kspace_with, at_inference)


def one_of(default: str | int, *others: str | int) -> FieldInfo:
    """A parameter that takes one of these values; the first is the default."""
    allowed: Any = Literal[(default, *others)]
    return FieldInfo(annotation=allowed, default=default)


def added_later(field: Any) -> FieldInfo:
    """A parameter that a network got later: it enters a digest only away from its default."""
    marked: Any = Annotated[_type(field), ADDED_LATER]
    merged: FieldInfo = FieldInfo.merge_field_infos(field, annotation=marked)
    return merged


def _type(field: FieldInfo) -> Any:
    return field.annotation or type(field.default)
