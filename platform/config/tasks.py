"""The tasks. Each task has a block of the experiment that says how sites measure, and its kinds of networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedrecon.platform.config.plugins import registry
from fedrecon.sites.acquisition.degraded import Degraded
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.extension.plugin_file import PluginFile
from fedrecon.strategies.networks.network import Kind

Block = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        acquisition: class of a site's setting; its attribute ``block`` is the name of the experiment's block. In that
            block ``per_site`` holds the keys that differ at single sites.
        default: content of the block if the experiment gives none.
        measured: key of the block that says how little is measured.
        networks: kinds of networks that do the task, and the name of the default network, by the kind of network that
            the strategy trains.
        plugins: plug-in files, whose families the block can name.
    """

    acquisition: type[Acquisition]
    default: Mapping[str, Any]
    measured: str
    networks: Mapping[str, tuple[tuple[Kind, ...], str]]
    plugins: tuple[PluginFile, ...] = ()

    def read(self, block: Mapping[str, Any], where: str | None = None) -> Acquisition:
        """The setting of a block without ``per_site``; see :meth:`Acquisition.read`."""
        return self.acquisition.read(block, where, registry(self.acquisition.kinds, self.plugins))

    @property
    def block(self) -> str:
        """The name of the experiment's block that says how sites measure."""
        return self.acquisition.block

    @property
    def flags(self) -> str:
        """The options of ``fedrecon evaluate`` that change the block, for messages."""
        family = self.block if self.acquisition.key == "kind" else self.acquisition.key
        return f"--{family} and --{self.measured}"

    def completed(self, block: Mapping[str, Any]) -> Block:
        """The block with every default written out, also in each entry of ``per_site``.

        Raises:
            ValueError: ``per_site`` does not map site names to mappings.
            InputError: a key or value is wrong.
        """
        block = block or self.default
        base = {key: value for key, value in block.items() if key != "per_site"}
        per_site = block.get("per_site") or {}
        if not isinstance(per_site, dict) or not all(isinstance(one, dict) for one in per_site.values()):
            raise ValueError(f"per_site: a mapping of site names to {self.block} keys is needed, {{NAME: {{...}}}}")
        read, inherit = self.read, self.acquisition.inherit
        entries = {
            name: read(inherit(base, one), f"{self.block}.per_site.{name}").flat() for name, one in per_site.items()
        }
        return {**read(base).flat(), **({"per_site": entries} if entries else {})}

    def at(self, block: Mapping[str, Any], site: str) -> Acquisition:
        """The setting with which a site measures."""
        base = {key: value for key, value in block.items() if key != "per_site"}
        return self.read(block.get("per_site", {}).get(site, base))

    def all(self, block: Mapping[str, Any]) -> Iterator[Acquisition]:
        """Every setting in the block: the one for all sites, then one for each site in ``per_site``."""
        for site in ("", *block.get("per_site", {})):
            yield self.at(block, site)


_PRIORS: dict[str, tuple[tuple[Kind, ...], str]] = {
    "prior": (("prior",), "style"),
    "denoiser": (("denoiser",), "denoiser"),
}
"""The networks of the priors, which are the same in every task."""

TASKS: dict[str, Task] = {
    "reconstruction": Task(
        acquisition=Undersampling,
        default={"mask": "random", "acceleration": 4},
        measured="acceleration",
        networks={"reconstruction": (("reconstruction",), "unet"), **_PRIORS},
    ),
    "super-resolution": Task(
        acquisition=Degraded,
        default={"kind": "kspace-truncation", "scale": 2},
        measured="scale",
        networks={
            "reconstruction": (("super-resolution", "reconstruction"), "mscan"),
            **_PRIORS,
        },
    ),
}

BLOCKS: dict[str, Task] = {task.block: task for task in TASKS.values()}
"""The tasks, by the name of the block that says how sites measure."""


def check_kspace(name: str, settings: Iterable[Acquisition]) -> None:
    """Refuses a method that works in k-space if one of the settings leaves no Cartesian k-space.

    Args:
        name: name of the network or of the classical method.

    Raises:
        ValueError: the message names the degradation, and one that leaves k-space.
    """
    for one in settings:
        if not one.in_kspace:
            raise ValueError(
                f"'{name}' works in k-space, but the degradation '{one.family}' leaves no k-space; "
                "use kspace-truncation"
            )
