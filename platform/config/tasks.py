"""What can be undone, and what each task takes: the block that says how sites measure, and the kinds of networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedrecon.sites.acquisition.degraded import Degraded
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.strategies.networks.network import Kind

Block = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        acquisition: how sites measure: reads the experiment's block of that name, in which ``per_site`` differs from
            the rest. default: the block where none is given. measured: the key in it that says how little is measured.
        networks: by the kind of network that a strategy trains, the kinds that do the task and the network by default.
    """

    acquisition: type[Acquisition]
    default: Mapping[str, Any]
    measured: str
    networks: Mapping[str, tuple[tuple[Kind, ...], str]]

    @property
    def block(self) -> str:
        """The experiment's key that says how sites measure."""
        return self.acquisition.block

    @property
    def flags(self) -> str:
        """The options of ``evaluate`` that change it."""
        family = self.block if self.acquisition.key == "kind" else self.acquisition.key
        return f"--{family} and --{self.measured}"

    def completed(self, block: Mapping[str, Any]) -> Block:
        """The block with every default written out, at every site that it names.

        Raises:
            ValueError: ``per_site`` is no mapping of sites. InputError: a key or value is wrong.
        """
        block = block or self.default
        base = {key: value for key, value in block.items() if key != "per_site"}
        per_site = block.get("per_site") or {}
        if not isinstance(per_site, dict) or not all(isinstance(one, dict) for one in per_site.values()):
            raise ValueError(f"per_site: a mapping of site names to {self.block} keys is needed, {{NAME: {{...}}}}")
        read, inherit = self.acquisition.read, self.acquisition.inherit
        entries = {
            name: read(inherit(base, one), f"{self.block}.per_site.{name}").flat() for name, one in per_site.items()
        }
        return {**read(base).flat(), **({"per_site": entries} if entries else {})}

    def at(self, block: Mapping[str, Any], site: str) -> Acquisition:
        """How a site measures."""
        base = {key: value for key, value in block.items() if key != "per_site"}
        return self.acquisition.read(block.get("per_site", {}).get(site, base))

    def all(self, block: Mapping[str, Any]) -> Iterator[Acquisition]:
        """Every way to measure that the block holds."""
        for site in ("", *block.get("per_site", {})):
            yield self.at(block, site)


TASKS: dict[str, Task] = {
    "reconstruction": Task(
        acquisition=Undersampling,
        default={"mask": "random", "acceleration": 4},
        measured="acceleration",
        networks={"reconstruction": (("reconstruction",), "unet"), "prior": (("prior",), "style")},
    ),
    "super-resolution": Task(
        acquisition=Degraded,
        default={"kind": "kspace-truncation", "scale": 2},
        measured="scale",
        networks={
            "reconstruction": (("super-resolution", "reconstruction"), "mscan"),
            "prior": (("prior",), "style"),
        },
    ),
}

BLOCKS: dict[str, Task] = {task.block: task for task in TASKS.values()}
"""By the block that says how sites measure."""


def check_kspace(name: str, all_of_them: Iterable[Acquisition]) -> None:
    """Refuses what works in k-space where one of these measures none.

    Raises:
        ValueError: says which, and what does.
    """
    for one in all_of_them:
        if not one.in_kspace:
            raise ValueError(f"'{name}' works in k-space, of which '{one.family}' leaves none: kspace-truncation does")
