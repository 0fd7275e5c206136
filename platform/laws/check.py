"""Runs the laws on a plug-in file: ``fedrecon check-plugin``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from fedrecon.platform.config.plugins import read_plugins, registry
from fedrecon.platform.laws import network_laws, other_laws, strategy_laws
from fedrecon.platform.laws.law import Law
from fedrecon.platform.laws.network_laws import BuiltNetwork
from fedrecon.platform.laws.toy import Toy, write_sites
from fedrecon.sites.errors import InputError, cause_of
from fedrecon.sites.extension.origin import KINDS
from fedrecon.sites.extension.plugin_file import PluginFile
from fedrecon.sites.extension.text_modules import place_in_plugin
from fedrecon.sites.phases import counted
from fedrecon.sites.training.settings import Training
from fedrecon.strategies.networks.choice import NetworkChoice

NETWORKS: dict[str, tuple[dict[str, Any], ...]] = {
    "reconstruction": ({"name": "unet", "channels": 2, "pools": 1, "norm": "instance_affine"},),
    "prior": ({"name": "style", "latent": 8, "layers": 2, "channel_base": 128, "channel_max": 4, "skips": True},),
    "denoiser": ({"name": "denoiser", "channels": 4, "pools": 1, "hidden": 8},),
}
"""By the kind of network that a strategy trains, those on which it is tested, the first that fits."""

OPTIMIZERS = ("adam", "sgd")

LAWS: dict[str, Sequence[Law]] = {
    "strategies": strategy_laws.LAWS,
    "networks": network_laws.LAWS,
    "reconstructors": other_laws.RECONSTRUCTOR_LAWS,
    "masks": other_laws.MASK_LAWS,
    "degradations": other_laws.DEGRADATION_LAWS,
    "formats": other_laws.FORMAT_LAWS,
}
"""The laws of each kind of plug-ins."""


class Verdict(TypedDict):
    """One law on one plug-in: what the contract wants, whether it holds, and what was found instead."""

    wants: str
    holds: bool
    found: str


class Checked(TypedDict):
    """The verdicts on one plug-in."""

    kind: str
    name: str
    laws: list[Verdict]


class PluginCheck(TypedDict):
    """The JSON of ``fedrecon check-plugin --json``; ``broken`` is the number of laws that do not hold."""

    file: str
    plugins: list[Checked]
    broken: int


def check_plugin(path: Path | str) -> PluginCheck:
    """Runs the laws of its kind on everything that a plug-in file adds.

    Raises:
        InputError: the file cannot be read or imported, or an experiment could not name what it adds.
    """
    (file,) = read_plugins([path])
    found: list[Checked] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            for name, one in file.added(kind).items():
                laws = list(verdicts(kind, one, LAWS[kind], Path(folder), file))
                found.append({"kind": kind, "name": name, "laws": laws})
    broken = sum(not law["holds"] for one in found for law in one["laws"])
    return {"file": str(path), "plugins": found, "broken": broken}


def verdicts(
    kind: str, one: Any, laws: Iterable[Law], folder: Path, file: PluginFile | None = None
) -> Iterator[Verdict]:
    """What each law says of a plug-in. Whatever the plug-in raises is what was found.

    Args:
        one: the class, or the entry of a network. folder: an empty folder, or one of an earlier call.
        file: the plug-in file that it is in; None for one of fedrecon's own.
    """
    try:
        subject = BuiltNetwork(one) if kind == "networks" else one
        subject = _toy(one, folder, file) if kind == "strategies" else subject
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        yield {"wants": "It can be made with its default parameters.", "holds": False, "found": _raised(error)}
        return
    for law in counted("checking laws", list(laws)):
        try:
            found = law.broken(subject)
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            found = _raised(error)
        yield {"wants": law.wants, "holds": not found, "found": found}


def _toy(kind: Any, folder: Path, file: PluginFile | None) -> Toy:
    """A federation of the strategy, with the first network and optimiser that it takes: the plug-in's own are last."""
    method, files = kind(), [file] if file else []
    networks = registry("networks", files)
    own = [{"name": name} for one in files for name in one.added("networks")]
    own = [one for one in own if networks[one["name"]].kind == kind.network_kind]
    sites = folder / "sites"
    paths = {path.stem: path for path in sorted(sites.glob("*.h5"))}
    if not paths:
        sites.mkdir()
        paths = write_sites(sites)
    (runs := Path(tempfile.mkdtemp(dir=folder)) / "run-0").mkdir()
    refused: list[Exception] = []
    for network in (*NETWORKS[kind.network_kind], *own):
        for optimizer in OPTIMIZERS:
            training = {"optimizer": optimizer, "optimizer_state": method.optimizer_state}
            toy = Toy(method, NetworkChoice.parse(network, networks), paths, runs, training)
            try:
                method.check(Training(**training))
                toy.layout  # noqa: B018 - it asks the strategy for each parameter
            except (InputError, ValueError) as error:
                refused.append(error)
            else:
                return toy
    raise refused[0]


def _raised(error: Exception) -> str:
    place = f" ({found})" if (found := place_in_plugin(error)) else ""
    return f"it raises {cause_of(error)}{place}"
