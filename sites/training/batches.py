"""A site's slices on its device: gathered in batches, augmented, measured. Arithmetic uses copies that torch owns."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.data.loose_volume import VolumeSource
from fedrecon.sites.data.volume import Volume, used_slices
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.coils import combine, estimate_maps, rephased
from fedrecon.sites.imaging.fourier import fft2c, ifft2c
from fedrecon.sites.imaging.masks.mask import slice_boxes
from fedrecon.sites.imaging.measurement import Measurement, samples_of
from fedrecon.sites.seeding import generator, seed
from fedrecon.sites.training.moves import moved, moved_samples
from fedrecon.sites.training.patch import cut
from fedrecon.sites.training.splitting import Splitting, measured_by, split


@dataclass(frozen=True)
class Slice:
    """One slice of one volume at one site."""

    site: str
    volume: Volume
    index: int

    @property
    def seeds(self) -> tuple[str, int]:
        """(subject, slice): the parts of the seeds of masks and noise that belong to the slice."""
        return self.volume.subject, self.index


class Slices:
    """The slices of one split of one or more shards, each under its site's operator.

    For a GPU the k-space is copied to the device at the start. On the CPU it stays in the shard (the system caches one
    copy for all processes of a node), and each batch is read from there. Coil maps are estimated once per slice and
    calibration region, which every mask of its family samples fully.

    Args:
        shards: shards by site.
        operators: settings of the measurement by site.
        split: ``train``, ``validation`` or ``test``.
        device: device on which batches are made.
        limits: largest number of slices by site, evenly spaced; None takes all.
        phase: True if the maps carry the low-resolution phase (see ``estimate_maps``).
        truth: True if the reference is the noise-free truth; the maximum of each volume is then that of its truth.
        small_boxes: True if the maps of a training slice carry the phase of a random small calibration box, a new one
            in each epoch. A prior needs this: it trains on fully sampled slices, and must know the residual phase that
            the few calibration samples of a mask will leave.
        splitting: how the measured samples of a training slice are split for the loss ``ssdu``; None does not split.
            Every slice is then measured once: its mask and its noise are the same in each epoch, and a volume without
            reference has the mask of its own samples.
        resident: whether a GPU keeps the k-space of all slices; else each batch goes there when it is made.
    """

    def __init__(
        self,
        shards: Mapping[str, VolumeSource],
        operators: Mapping[str, Acquisition],
        split: str,
        device: torch.device,
        limits: Mapping[str, int | None] | None = None,
        phase: bool = True,
        truth: bool = False,
        small_boxes: bool = False,
        splitting: Splitting | None = None,
        resident: bool = True,
    ) -> None:
        self.shards, self.operators, self.device, self.phase, self.truth = shards, operators, device, phase, truth
        self.small_boxes, self.splitting = small_boxes, splitting
        self.items = tuple(
            item
            for site, shard in shards.items()
            for item in _slices(site, _used(shard, split), (limits or {}).get(site), truth)
        )
        self._maps: dict[tuple[Slice, tuple[int, int], int], Tensor] = {}
        self._own_boxes: dict[Slice, tuple[int, int]] = {}
        self._views: dict[tuple[str, str, str], Any] = {}
        self._scanned: dict[Slice, Tensor | None] = {}
        self._resident: dict[tuple[str, str], Tensor] = {}
        if device.type != "cpu" and resident:
            for item in self.items:
                key = (item.site, item.volume.name)
                if key not in self._resident:
                    values = shards[item.site].kspace(item.volume.name).copy()
                    self._resident[key] = torch.from_numpy(values).to(device)

    def __len__(self) -> int:
        return len(self.items)

    def batches(self, size: int, order: np.random.Generator | None = None) -> list[list[Slice]]:
        """The slices in batches of ``size``. The slices of a batch have one matrix size, coil count and degradation.

        With ``order`` the slices and the batches are shuffled, and a batch may mix sites. Without ``order`` a batch
        holds slices of one site, so that slices that are scored or adapted together have one operator.
        """
        groups: dict[tuple[Any, ...], list[Slice]] = defaultdict(list)
        for item in self.items:
            site = item.site if order is None else ""
            groups[(site, *self._kind(item))].append(item)
        batches = []
        for key in sorted(groups):
            items = groups[key]
            if order is not None:
                items = [items[i] for i in order.permutation(len(items))]
            batches += [items[i : i + size] for i in range(0, len(items), size)]
        if order is not None and len(groups) > 1:
            batches = [batches[i] for i in order.permutation(len(batches))]
        return batches

    def per_pass(self, size: int) -> int:
        """The number of batches in one pass over the training slices."""
        return len(self.batches(size, generator(0, "count")))

    def per_pass_of_sites(self, size: int) -> list[int]:
        """The same for the slices of each site alone. A batch of several sites is shared; a site alone has its own."""
        groups = Counter((item.site, self._kind(item)) for item in self.items)
        return [sum(-(-n // size) for (name, _), n in groups.items() if name == site) for site in self.shards]

    def _kind(self, item: Slice) -> tuple[Any, ...]:
        """The coils, the matrix size, the setting and the scored part that the slices of a batch have in common."""
        scored = item.volume.crop or item.volume.shape
        return (item.volume.n_coils, *item.volume.shape, *self.operators[item.site].group(), *scored)

    def training(
        self, batch: Sequence[Slice], seed_: int, epoch: int, augment: bool, patch: int | None = None
    ) -> Measurement:
        """A training batch, augmented and then measured under masks seeded by (seed, site, subject, slice, epoch).

        With ``fixed_mask`` the masks do not depend on the epoch. A mixed operator draws its values from the same seeds.
        With ``splitting`` the samples are split by (seed, site, subject, slice, epoch); the batch has no reference. Its
        maps come from the measured samples. Without ``splitting`` added noise is new in each epoch, and the maps, which
        are estimated once, have noise of their own.

        Args:
            batch: the slices.
            seed_: the experiment's seed.
            epoch: number of the pass over the data.
            augment: True to flip and shift the images at random; see :class:`Training`.
            patch: side, in high-resolution pixels, of the square that is cut from each measured slice, for
                super-resolution only; None keeps whole slices.
        """
        seeds = []
        for item in batch:
            when = 0 if self.operators[item.site].fixed_mask else epoch
            seeds.append(seed(seed_, "mask", item.site, *item.seeds, when))
        settings, kspace = self._drawn(batch, seeds), self._kspace(batch)
        if self.splitting is not None:
            noise = [seed(seed_, "noise", item.site, *item.seeds, 0) for item in batch]
            noisy, maps = self._noisy(kspace, batch, noise), self._estimated(batch, settings, noise)
            masks = self._masks(batch, settings, seeds)
            return split(
                noisy, self._stacked(masks), self._stacked(self._held(batch, settings, masks, seed_, epoch)), maps
            )
        maps, reference = self._estimated(batch, settings, _noise_seeds(batch, 0)), self.reference(batch)
        if self.small_boxes:
            maps = self._rephased(batch, kspace, maps, seed_, epoch)
        # Where nothing is added nobody asks which samples the scan has: finding them costs a pass over the k-space.
        scanned = samples_of(kspace) if any(self._added(batch)) else None
        if augment:
            names = [("augment", epoch, one.site, one.volume.name, one.index) for one in batch]
            turns = [self.operators[one.site].turns for one in batch]
            draws, again = ([generator(seed_, *name) for name in names] for _ in range(2))
            images, maps, reference = moved(ifft2c(kspace), maps, reference, draws, turns)
            kspace = fft2c(images)
            scanned = None if scanned is None else moved_samples(scanned, again, turns)
        target = combine(ifft2c(kspace), maps)
        noise = [seed(seed_, "noise", item.site, *item.seeds, epoch) for item in batch]
        measured = self._measured(batch, self._noisy(kspace, batch, noise, scanned), settings, seeds, maps, reference)
        measured = replace(measured, target=target)
        if patch is None:
            return measured
        rng = generator(seed_, "patch", epoch, batch[0].site, batch[0].volume.name, batch[0].index)
        return cut(measured, patch, rng)

    def scoring(self, batch: Sequence[Slice], mask_seed: int) -> Measurement:
        """A batch for scoring: operators, masks and noise follow from (mask_seed, subject, slice) alone."""
        settings, noise = self.scored_with(batch, mask_seed), _noise_seeds(batch, mask_seed)
        kspace, maps = self._noisy(self._kspace(batch), batch, noise), self._estimated(batch, settings, noise)
        seeds = _mask_seeds(batch, mask_seed)
        measured = self._measured(batch, kspace, settings, seeds, maps, self.reference(batch))
        return replace(measured, noise=self._levels(batch)) if settings[0].in_kspace else measured

    def _levels(self, batch: Sequence[Slice]) -> Tensor | None:
        """(b,): the noise of each sample, of the shard's own and what was added; None if a shard does not know it."""
        own = [(item.volume.noise, self.operators[item.site].noise) for item in batch]
        if any(level is None for level, _ in own):
            return None
        return torch.tensor([(level or 0.0) * times for level, times in own], device=self.device)

    def scored_with(self, batch: Sequence[Slice], mask_seed: int) -> list[Acquisition]:
        """The setting of each slice of a batch for scoring."""
        return self._drawn(batch, _mask_seeds(batch, mask_seed))

    def _drawn(self, batch: Sequence[Slice], seeds: Sequence[int]) -> list[Acquisition]:
        return [self.operators[item.site].drawn(one) for item, one in zip(batch, seeds, strict=True)]

    def _measured(
        self,
        batch: Sequence[Slice],
        kspace: Tensor,
        settings: Sequence[Acquisition],
        seeds: Sequence[int],
        maps: Tensor,
        reference: Tensor | None,
    ) -> Measurement:
        masks = self._masks(batch, settings, seeds)
        drawn = None if masks[0] is None else self._stacked(masks)
        return settings[0].measure(kspace, drawn, maps, reference)

    def _masks(self, batch: Sequence[Slice], settings: Sequence[Acquisition], seeds: Sequence[int]) -> list[Any]:
        """The mask (y, x) of each slice; None if the setting has none."""
        return [
            one.sample(item.volume.shape, seed_)
            if item.volume.has_reference
            else measured_by(self._view(item)[item.index])
            for item, one, seed_ in zip(batch, settings, seeds, strict=True)
        ]

    def _held(
        self, batch: Sequence[Slice], settings: Sequence[Acquisition], masks: Sequence[Any], seed_: int, epoch: int
    ) -> list[Any]:
        """The samples (y, x) of each slice that the loss compares: none that a zero-padded scan has not.

        An empty slice, of zeros alone, is split by its mask.
        """
        assert self.splitting is not None
        held, scans = [], self.scanned(batch).cpu().numpy()
        for item, one, mask, scanned in zip(batch, settings, masks, scans, strict=True):
            rng = generator(seed_, "ssdu", item.site, *item.seeds, epoch)
            real = mask & scanned if scanned.any() else mask
            try:
                held.append(self.splitting.held(real, self._box(item, one), rng))
            except InputError as error:
                raise InputError(f"volume '{item.volume.name}', slice {item.index}: {error}") from None
        return held

    def _box(self, item: Slice, setting: Acquisition) -> tuple[int, int]:
        """The calibration box (y, x) of a slice: that of its setting, or that of a scanner's own undersampling."""
        if item.volume.has_reference:
            return setting.calibration(item.volume.shape)
        if item not in self._own_boxes:
            sampled = measured_by(self._view(item)[item.index])
            self._own_boxes[item] = slice_boxes(item.volume.name, sampled[None], item.index)[0]
        return self._own_boxes[item]

    def _stacked(self, masks: Sequence[Any]) -> Tensor:
        """Masks (y, x) as (b, 1, y, x) on the device."""
        return torch.from_numpy(np.stack(masks)[:, None]).to(self.device)

    def reference(self, batch: Sequence[Slice]) -> Tensor | None:
        """(b, y, x) float32 magnitude references (or truths), or None if a volume has no reference."""
        if not all(item.volume.has_reference for item in batch):
            return None
        views = [self._view(item, "truth" if self.truth else "reference")[item.index] for item in batch]
        return torch.from_numpy(np.stack(views)).to(self.device)

    def true_images(self, batch: Sequence[Slice]) -> Tensor | None:
        """(b, y, x) float32 noise-free magnitudes, or None if a volume has none."""
        if any(item.volume.truth_maximum is None for item in batch):
            return None
        return torch.from_numpy(np.stack([self._view(item, "truth")[item.index] for item in batch])).to(self.device)

    def maps(self, batch: Sequence[Slice], mask_seed: int = 0) -> Tensor:
        """(b, c, y, x) coil maps, estimated once from the noisy calibration region and kept."""
        return self._estimated(batch, self.scored_with(batch, mask_seed), _noise_seeds(batch, mask_seed))

    def _estimated(self, batch: Sequence[Slice], settings: Sequence[Acquisition], noise: Sequence[int]) -> Tensor:
        """The coil maps of each slice with the added noise of these seeds."""
        drawn = [seed_ if level else 0 for seed_, level in zip(noise, self._added(batch), strict=True)]
        boxes = [self._box(item, one) for item, one in zip(batch, settings, strict=True)]
        keys = list(zip(batch, boxes, drawn, strict=True))
        missing = [key for key in dict.fromkeys(keys) if key not in self._maps]
        if missing:
            items = [item for item, *_ in missing]
            kspace = self._noisy(self._kspace(items), items, [seed_ for *_, seed_ in missing])
            for key, one in zip(missing, kspace, strict=True):
                phase = self.phase and self.shards[key[0].site].phase != "none"
                self._maps[key] = estimate_maps(one[None], key[1], phase=phase)[0]
        return torch.stack([self._maps[key] for key in keys])

    def _rephased(self, batch: Sequence[Slice], kspace: Tensor, maps: Tensor, seed_: int, epoch: int) -> Tensor:
        """The maps with the phase that a random small calibration box would have given them."""
        found = []
        for item, one, own in zip(batch, kspace, maps, strict=True):
            if self.phase and self.shards[item.site].phase != "none":
                rng = generator(seed_, "calibration", item.site, *item.seeds, epoch)
                own = rephased(one[None], own[None], small_box(item.volume.shape, rng))[0]
            found.append(own)
        return torch.stack(found)

    def _kspace(self, batch: Sequence[Slice]) -> Tensor:
        if self._resident:
            return torch.stack([self._resident[item.site, item.volume.name][item.index] for item in batch])
        views = [self._view(item)[item.index] for item in batch]
        return torch.from_numpy(np.stack(views)).to(self.device)  # np.stack copies: what a shard gives is read-only

    def _view(self, item: Slice, what: Literal["kspace", "reference", "truth"] = "kspace") -> Any:
        """A volume's array, by slice. It is looked up once, because opening HDF5 takes as long as measuring a slice."""
        key = (item.site, item.volume.name, what)
        if key not in self._views:
            self._views[key] = self.shards[item.site].stored(item.volume.name, what)
        return self._views[key]

    def scanned(self, batch: Sequence[Slice]) -> Tensor:
        """Which samples of each slice the scan has, (b, y, x) bool: a zero-padded scan has none around its own.

        They are found once for each slice: that reads its k-space.
        """
        missing = [item for item in batch if item not in self._scanned]
        if missing:
            found = samples_of(self._kspace(missing))
            self._scanned |= {item: None if bool(one.all()) else one for item, one in zip(missing, found, strict=True)}
        whole = torch.ones(batch[0].volume.shape, dtype=torch.bool, device=self.device)
        known = (self._scanned[item] for item in batch)
        return torch.stack([whole if one is None else one for one in known])

    def _added(self, batch: Sequence[Slice]) -> list[float]:
        """The noise that is added to each slice: its standard deviation, beside that of the scan."""
        return [(item.volume.noise or 0.0) * (self.operators[item.site].noise ** 2 - 1) ** 0.5 for item in batch]

    def _noisy(
        self, kspace: Tensor, batch: Sequence[Slice], seeds: Sequence[int], scanned: Tensor | None = None
    ) -> Tensor:
        """K-space with noise added, so that its level is ``noise`` times the shard's own level (variances add).

        A sample that the scan has not is zero without noise. The checks of an experiment refuse more noise where the
        shard's own level is unknown.

        Args:
            scanned: which samples the scan has, (b, y, x) bool; None takes those that are not zero.
        """
        levels = self._added(batch)
        if not any(levels):
            return kspace
        draws = [
            torch.randn((*kspace.shape[1:], 2), generator=torch.Generator().manual_seed(s)) * level
            for s, level in zip(seeds, levels, strict=True)
        ]
        noisy = kspace + torch.view_as_complex(torch.stack(draws)).to(kspace.device)
        return torch.where((samples_of(kspace) if scanned is None else scanned)[:, None], noisy, kspace)

    def forget(self) -> None:
        """Drops the coil maps and samples that were found: a volume that is reconstructed once needs none again."""
        self._maps.clear()
        self._scanned.clear()

    def iterate(self, size: int) -> Iterator[list[Slice]]:
        """The batches of :meth:`batches` without shuffling."""
        yield from self.batches(size)


def _mask_seeds(batch: Sequence[Slice], mask_seed: int) -> list[int]:
    """The seeds of the masks of slices that are scored."""
    return [seed(mask_seed, "mask", *item.seeds) for item in batch]


def _noise_seeds(batch: Sequence[Slice], mask_seed: int) -> list[int]:
    """The seeds of the added noise of slices that are scored."""
    return [seed(mask_seed, "noise", *item.seeds) for item in batch]


def small_box(shape: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """A random calibration box (y, x), like those of the masks: some columns with all rows, or a square as wide.

    Its width is 4 to 12 % of the matrix: :attr:`Mask.center_fraction` is 8 %, and a high acceleration needs less.
    """
    width = max(3, round(shape[1] * rng.uniform(0.04, 0.12)))
    return (shape[0] if rng.random() < 0.5 else min(width, shape[0])), min(width, shape[1])


def _used(shard: VolumeSource, split: str) -> Sequence[Volume]:
    """The volumes of a split that are used: all of them train, and those with a reference are scored."""
    return shard.split(split) if split == "train" else shard.scorable(split)


def _slices(site: str, volumes: Sequence[Volume], limit: int | None, truth: bool) -> list[Slice]:
    if truth:
        volumes = [replace(one, maximum=one.truth_maximum or 0.0) for one in volumes]
    return [Slice(site, volume, index) for volume, index in used_slices(volumes, limit)]
