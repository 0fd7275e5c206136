"""The pictures of all sites in one: which sites are drawn, how large, and how they are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from fedrecon.sites.errors import at_site, cause_of
from fedrecon.sites.wire import Panels, PanelTask

PANELS, SAMPLES = "panels/sites", "samples/sites"
"""The keys in the tracker: reconstructions, and images that a prior draws.

The first part is the section of MLflow's page of a run. A key without one stands below all charts, where nobody looks.
"""

FEW = 8
"""Up to so many sites, each is drawn as large as if it were alone; more are drawn small."""

MOST = 64
"""The largest number of sites of a mosaic."""


@dataclass(frozen=True)
class Mosaic:
    """One picture of many sites.

    Attributes:
        sites: the sites of which pictures may leave; empty draws nothing.
    """

    sites: tuple[str, ...] = ()

    @property
    def few(self) -> bool:
        """Whether each site is drawn in full size."""
        return len(self.sites) <= FEW

    @property
    def drawn(self) -> tuple[str, ...]:
        """The sites that are drawn: all, or :data:`MOST` of them, evenly spread. They are the same in every round."""
        n = min(len(self.sites), MOST)
        return tuple(self.sites[number * len(self.sites) // n] for number in range(n))

    def task(self, split: str, note: str) -> PanelTask:
        """What the sites are asked for."""
        return PanelTask(split, note, self.drawn, small=not self.few)

    def pictures(self, answers: Iterable[Panels], trouble: Callable[[str], None] | None) -> dict[str, bytes]:
        """The pictures of the answers by site, in the order of the sites. ``trouble`` hears of a site without one."""
        found: dict[str, bytes] = {}
        for one in answers:
            found |= one.pictures
            if one.problem and trouble is not None:
                trouble(at_site(one.site, None, f"draws no picture: {one.problem}"))
        return {site: found[site] for site in self.drawn if site in found}

    def joined(
        self, key: str, pictures: Mapping[str, bytes], note: str, trouble: Callable[[str], None] | None
    ) -> dict[str, bytes]:
        """The pictures as one PNG, by the key. Empty, and told to ``trouble``, if they cannot be joined."""
        from fedrecon.sites.scoring.panel import OF_A_TILE, montage

        if not pictures:
            return {}
        # What pooled sites draw together has the name of no site.
        shown = [png for site, png in pictures.items() if site in self.drawn] or list(pictures.values())
        of_all = f" of {len(self.sites)}" if len(shown) < len(self.sites) else ""
        head = (
            "" if self.few else f"{len(shown)}{of_all} sites · {note}" + (f" · {OF_A_TILE}" if key != SAMPLES else "")
        )
        columns = 4 if not self.few else 2 if len(shown) > 4 else 1
        try:
            return {key: montage(shown, columns=columns, head=head)}
        except Exception as error:  # noqa: BLE001 - a library reads what a site sent, and raises anything
            if trouble is not None:
                trouble(f"the pictures cannot be joined ({note}): {cause_of(error)}")
            return {}
