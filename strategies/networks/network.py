"""What a network is to an experiment: a name and parameters, checked without torch, built where it trains.

A network's file is ``<module>.py`` in this folder and holds a class ``Network``:

- ``Network(images, **parameters)``: an ``nn.Module`` for images of this kind (:class:`Images`), its parameters
  keyword-only and the same, with the same defaults, as on its line of the registry;
- ``forward(measurement) -> image``: (b, y, x) complex64 at the scale of the data: it divides by ``measurement.scale``
  inside and multiplies back, so that ``network(a * measurement) == a * network(measurement)``;
- ``parts``: name -> prefixes of parameter names. ``encoder``, ``decoder``, ``head`` and any others split the parameters
  between them; ``norm`` (affine normalisations, which also lie in one of the others) is empty where there are none;
- ``paper``: the citation.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import create_model
from pydantic.fields import FieldInfo

from fedrecon.sites.plugin import Plugin

if TYPE_CHECKING:
    pass


Kind = Literal["reconstruction", "super-resolution", "prior"]
"""A network reconstructs a measurement; or it enlarges its low-resolution image (``measurement.low``); or it is a
prior: it draws images, and knows of no measurement."""


@dataclass(frozen=True)
class NetworkEntry:
    """A line of the registry.

    Attributes:
        module: the file that holds the network. parameters: the model that checks its parameters.
        kind: what it does: :data:`Kind`. in_kspace: it works on k-space itself, so it needs a measurement that has any.
    """

    module: str
    parameters: type[Plugin]
    kind: Kind = "reconstruction"
    in_kspace: bool = False

    def load(self) -> Any:
        """The class ``Network`` of the file; this imports torch."""
        return importlib.import_module(f"{__package__}.{self.module}").Network


def entry(module: str, kind: Kind = "reconstruction", in_kspace: bool = False, **fields: Any) -> NetworkEntry:
    """A line of the registry; each parameter's type is its default's type, or what :func:`one_of` allows."""
    typed = {name: (_type(field), field) for name, field in fields.items()}
    model: type[Plugin] = create_model(f"{module}_parameters", __base__=Plugin, **typed)  # type: ignore[call-overload]
    return NetworkEntry(module, model, kind, in_kspace)


def one_of(default: str | int, *others: str | int) -> FieldInfo:
    """A parameter that takes one of these words or numbers, the first by default."""
    words: Any = Literal[(default, *others)]
    return FieldInfo(annotation=words, default=default)


def _type(field: FieldInfo) -> Any:
    return field.annotation or type(field.default)
