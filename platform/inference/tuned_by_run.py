"""The parameters of a classical reconstructor that a run chose, for data on which it cannot be tuned again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedrecon.platform.config.names import in_text
from fedrecon.sites.errors import InputError

if TYPE_CHECKING:
    from fedrecon.platform.inference.trained_run import TrainedRun
    from fedrecon.sites.member.site import Site


def use_tuned(trained: TrainedRun, worker: Site, named: str | None, advice: str) -> str:
    """Gives a classical reconstructor the parameters that the run chose on validation subjects.

    Args:
        worker: the site that reconstructs. named: the site whose parameters are taken; at a site of no run, or None,
            they are those on which all sites of the run agree.
        advice: what a message says if they do not agree.

    Returns:
        the parameters as text; empty if the run tuned nothing.

    Raises:
        InputError: the sites of the run chose differently, and the named site is none of them.
    """
    from fedrecon.sites.wire import TunedReconstructor

    tuned = (trained.folder.result() or {}).get("environment", {}).get("tuned", {})
    found = {named: tuned[named]} if named in tuned else tuned
    if trained.experiment.trains or not found:
        return ""
    name, chosen = trained.experiment.reconstructor["name"], next(iter(found.values()))
    if any(one != chosen for one in found.values()):
        listed = ", ".join(f"{site} ({in_text(one)})" for site, one in found.items())
        raise InputError(f"'{name}' was tuned for each site: {advice}: {listed}")
    worker.use_reconstructor(TunedReconstructor(named or "", name, chosen))
    return in_text(chosen)
