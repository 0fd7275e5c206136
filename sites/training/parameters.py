"""A network's parameters in one flat vector, shared parameters first: a round needs one copy down and one copy up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedrecon.sites.wire import Vector

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedrecon.sites.wire import Buffers

Room = Callable[[int], Vector | None]
"""Gives memory for a number of values, or None."""


@dataclass(frozen=True)
class Slot:
    """The position of one parameter (or floating-point buffer) in the flat vector.

    Attributes:
        name: name of the parameter in the module.
        shape: shape of the parameter.
        start: first index in the flat vector.
        shared: True if the parameter is shared, False if it is private to the site.
        local: True if the site trains it for itself in the local rounds; every private parameter is.
        buffer: True if it is a buffer, such as a running mean: it has no gradient.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    shared: bool
    buffer: bool = False
    local: bool = False

    @property
    def stop(self) -> int:
        """One past the last index in the flat vector."""
        return self.start + int(np.prod(self.shape, dtype=np.int64))


class Parameters:
    """Moves the parameters and floating-point buffers of ``model`` into one flat float32 vector.

    The module still works: each parameter becomes a view of the vector. So a site needs one copy to load a request and
    one copy to fill a reply. The parameters whose names ``shares`` accepts come first; the rest is private to the site.

    Args:
        model: the network. shares: by name, what every site sends. personal: by name, what local rounds train alone.
        room: gives memory for a number of values, or None; asked for a network on the CPU without private values.

    Attributes:
        flat: (n,) all values.
        shared: (n_shared,) the shared values, a view of ``flat``.
        private: (n - n_shared,) the private values, a view of ``flat``.
        local: (n - n_fixed,) the personal and the private values, a view of ``flat``. Without local rounds no value is
            personal, and it is ``private``.
        n_shared: number of shared values.
        n_fixed: number of the shared values that no site trains for itself in local rounds.
        slots: the layout, in order.

    Raises:
        TypeError: a parameter is not float32.
    """

    def __init__(
        self,
        model: nn.Module,
        shares: Callable[[str], bool],
        personal: Callable[[str], bool] = lambda _: False,
        room: Room = lambda _: None,
    ) -> None:
        trained: dict[str, Tensor] = dict(model.named_parameters())
        tensors = trained | {name: value for name, value in model.named_buffers() if value.is_floating_point()}
        for name, value in tensors.items():
            if value.dtype != torch.float32:
                raise TypeError(f"parameter '{name}' is {value.dtype}; only float32 parameters are exchanged")
        # The sort is stable: within each part the model's order stays.
        ordered = sorted(tensors, key=lambda name: (not shares(name), personal(name)))
        device = next(iter(tensors.values())).device if tensors else torch.device("cpu")
        size = sum(tensors[name].numel() for name in ordered)
        storage = room(size) if device.type == "cpu" and all(map(shares, ordered)) else None
        self.flat = torch.empty(size, device=device) if storage is None else torch.from_numpy(storage)
        slots, start = [], 0
        for name in ordered:
            slot = Slot(
                name,
                tuple(tensors[name].shape),
                start,
                shares(name),
                name not in trained,
                not shares(name) or personal(name),
            )
            view = self.flat[slot.start : slot.stop].view(slot.shape)
            with torch.no_grad():
                view.copy_(tensors[name])
            _attach(model, name, view)
            slots.append(slot)
            start = slot.stop
        self.slots = tuple(slots)
        self.n_shared = sum(slot.stop - slot.start for slot in slots if slot.shared)
        self.shared = self.flat[: self.n_shared]
        self.private = self.flat[self.n_shared :]
        self._model = model
        self.n_fixed = sum(slot.stop - slot.start for slot in slots if not slot.local)
        self.local = self.flat[self.n_fixed :]

    def move(self, storage: Vector) -> None:
        """Moves all parameters of a network on the CPU into ``storage`` (n,), which then is their memory.

        No value changes. On a GPU they stay where they are.
        """
        if self.flat.device.type != "cpu" or self.flat.data_ptr() == storage.ctypes.data:
            return
        flat = torch.from_numpy(storage)
        flat.copy_(self.flat)
        for slot in self.slots:
            _attach(self._model, slot.name, flat[slot.start : slot.stop].view(slot.shape))
        self.flat, self.shared, self.private = flat, flat[: self.n_shared], flat[self.n_shared :]
        self.local = flat[self.n_fixed :]

    @property
    def buffers(self) -> Buffers:
        """(n_shared,): True where a shared value belongs to a buffer."""
        return np.concatenate([
            np.zeros(0, bool), *(np.full(slot.stop - slot.start, slot.buffer) for slot in self.slots if slot.shared)
        ])  # fmt: skip

    def load_shared(self, values: Vector) -> None:
        """Copies the server's vector into the network. ``values`` is neither changed nor kept.

        Raises:
            ValueError: the vector has another length.
        """
        _copy(self.shared, values, "shared")

    def load_private(self, values: Vector) -> None:
        """Copies a vector into the end of the network's own: the private values, the local ones, or all.

        Raises:
            ValueError: the vector has another length.
        """
        lengths = {len(self.private), len(self.local), len(self.flat)}
        own = self.flat[len(self.flat) - len(values) :] if len(values) in lengths else self.private
        _copy(own, values, "private")

    def load_all(self, named: Mapping[str, np.ndarray]) -> None:
        """Copies values, by name, into the whole network.

        Raises:
            ValueError: the names or shapes are not exactly those of the layout.
        """
        slots = {slot.name: slot for slot in self.slots}
        if wrong := sorted(set(named) ^ set(slots)):
            raise ValueError(f"these weights belong to another network: {wrong[:4]}")
        for name, slot in slots.items():
            if np.shape(named[name]) != slot.shape:
                raise ValueError(f"'{name}' has the shape {slot.shape} in this network, given {np.shape(named[name])}")
            self.flat[slot.start : slot.stop] = torch.from_numpy(np.array(named[name], np.float32)).reshape(-1)

    @property
    def local_names(self) -> tuple[str, ...]:
        """Names of the parameters that a site trains for itself in local rounds, in order."""
        return tuple(slot.name for slot in self.slots if slot.local)

    def names(self, shared: bool) -> tuple[str, ...]:
        """Names of the shared (or of the private) parameters, in order."""
        return tuple(slot.name for slot in self.slots if slot.shared is shared)

    def named(self, vector: Vector, shared: bool) -> dict[str, np.ndarray]:
        """A shared (or private, or local) vector cut into named arrays of the parameters' shapes (views)."""
        offset = 0 if shared else len(self.flat) - len(vector)
        slots = [slot for slot in self.slots if (slot.shared if shared else slot.start >= offset)]
        return {s.name: vector[s.start - offset : s.stop - offset].reshape(s.shape) for s in slots}

    def joined(self, named: Mapping[str, np.ndarray], shared: bool) -> Vector:
        """The inverse of :meth:`named`.

        Raises:
            ValueError: the names or shapes are not exactly those of the layout.
        """
        slots = [slot for slot in self.slots if slot.shared is shared]
        if not shared and set(named) == set(self.local_names):
            slots = [slot for slot in self.slots if slot.local]
        if set(named) != {slot.name for slot in slots}:
            raise ValueError(
                f"these weights belong to another network: {sorted(set(named) ^ {s.name for s in slots})[:4]}"
            )
        for slot in slots:
            if np.shape(named[slot.name]) != slot.shape:
                raise ValueError(
                    f"'{slot.name}' has the shape {slot.shape} in this network, given {np.shape(named[slot.name])}"
                )
        parts = [np.asarray(named[slot.name], dtype=np.float32).reshape(-1) for slot in slots]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _attach(model: nn.Module, name: str, view: Tensor) -> None:
    """Makes ``view`` the storage of the parameter or buffer ``name``."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if leaf in owner._parameters:
        parameter = owner._parameters[leaf]
        assert parameter is not None
        parameter.data = view
    else:
        owner._buffers[leaf] = view


def _copy(destination: Tensor, values: Vector, what: str) -> None:
    if values.shape != tuple(destination.shape):
        raise ValueError(f"{what} parameters: got {values.shape[0]} values, the network has {len(destination)}")
    if destination.device.type == "cpu":
        np.copyto(destination.numpy(), values)
    else:
        destination.copy_(torch.from_numpy(np.array(values)))


def to_vector(values: Tensor) -> Vector:
    """A copy of a flat tensor as a numpy vector on the CPU."""
    return np.array(values.detach().cpu().numpy(), dtype=np.float32)


def initialise(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The network of ``build()``, made while torch's global generator has this seed. Its old state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()
