"""GRAPPA where it is exact, against systems written out by least squares, and by hand."""

import pytest
import torch

from fedrecon.sites.classical import autocalibration, make_reconstructor
from fedrecon.sites.classical.autocalibration import complete
from fedrecon.sites.imaging.coils import estimate_maps
from fedrecon.sites.imaging.fourier import fft2c, ifft2c
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.sites.imaging.measurement import measure


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def exact(columns=2, size=(36, 33), band=12, n_coils=6):
    """K-space (1, c, y, x) of coil maps of 2 x ``columns`` harmonics, and an image without the highest frequencies.

    A sample of all coils tells that sample of the image, and those up to one row and ``columns`` - 1 columns before it.
    """
    places = [(2j * torch.pi * torch.arange(n) / n) for n in size]
    waves = [(h * places[0])[:, None] + k * places[1] for h in range(2) for k in range(columns)]
    maps = torch.einsum("ch,hyx->cyx", noise(n_coils, 2 * columns), torch.stack(waves).exp())
    spectrum = torch.zeros(size, dtype=torch.complex64)
    box = tuple(slice(n // 2 - band, n // 2 + band) for n in size)
    spectrum[box] = noise(2 * band, 2 * band, seed=1)
    return fft2c(maps * ifft2c(spectrum))[None]


def regular(size, rate, lines):
    """Every ``rate``-th column and ``lines`` central ones."""
    mask = torch.zeros(1, 1, *size, dtype=torch.bool)
    mask[..., ::rate] = True
    start = (size[1] - lines + 1) // 2
    mask[..., start : start + lines] = True
    return mask


@pytest.mark.parametrize("rate", [2, 3])
def test_regular_columns_are_recovered_where_neighbours_determine_them(rate):
    """Samples tell as many columns as lie between two of them, so nothing is left open."""
    kspace = exact(columns=rate)
    mask = regular(kspace.shape[-2:], rate, 12)
    found = complete(mask * kspace, mask, (3, 5), 1e-9)
    assert (mask * kspace - kspace).norm() > 0.4 * kspace.norm()
    assert (found - kspace).norm() < 1e-3 * kspace.norm()


def test_any_points_are_recovered_where_neighbours_determine_them():
    """A missing sample needs itself, and the ones before it along y, x and both, to be told within its window."""
    kspace = exact()
    family = MASKS["uniform2d"](acceleration=2, center_fraction=0.35)
    mask = torch.from_numpy(family.sample((36, 33), 3))[None, None]
    found = complete(mask * kspace, mask, (3, 3), 1e-9)
    known = torch.nn.functional.pad(mask[0, 0], (1, 1, 1, 1))
    open_ = torch.zeros(36, 33, dtype=torch.bool)
    for y, x in torch.nonzero(~mask[0, 0]).tolist():
        told = set()
        for dy, dx in (torch.nonzero(known[y : y + 3, x : x + 3]) - 1).tolist():
            told |= {(dy, dx), (dy - 1, dx), (dy, dx - 1), (dy - 1, dx - 1)}
        open_[y, x] = not {(0, 0), (-1, 0), (0, -1), (-1, -1)} <= told
    error = (found - kspace)[0].abs().amax(0)
    missing = ~mask[0, 0]
    assert 0.05 < (open_ & missing).sum() / missing.sum() < 0.6
    largest = kspace.abs().max()
    assert error[missing & ~open_].max() < 1e-3 * largest
    assert error[missing & open_].max() > 0.1 * largest


def test_every_missing_sample_is_the_least_squares_prediction_from_its_measured_neighbours():
    """Sample by sample, with the calibration matrix written out: any mask, any slice, the border too."""
    size, weight = (11, 12), 0.05
    kspace = noise(2, 2, *size)
    mask = noise(2, 1, *size, seed=1).real > 0
    mask[..., 3:8, 4:9] = True
    found = complete(mask * kspace, mask, (3, 3), weight)
    padded = torch.nn.functional.pad(mask * kspace, (1, 1, 1, 1)).to(torch.complex128)
    known = torch.nn.functional.pad(mask[:, 0], (1, 1, 1, 1))
    for n in range(2):
        windows = [(y, x) for y in range(11) for x in range(12) if known[n, y : y + 3, x : x + 3].all()]
        calibration = torch.stack([padded[n, :, y : y + 3, x : x + 3].reshape(2, 9).mT.flatten() for y, x in windows])
        assert len(windows) >= 9
        ridge = weight * calibration.abs().square().sum() / 18
        for y, x in torch.nonzero(~mask[n, 0]).tolist():
            near = torch.nonzero(known[n, y : y + 3, x : x + 3].flatten())[:, 0]
            if len(near) == 0:
                assert not found[n, :, y, x].any()
                continue
            columns = (2 * near[:, None] + torch.arange(2)).flatten()
            # min |V w - t|^2 + ridge |w|^2 as one least-squares problem
            matrix = torch.cat([calibration[:, columns], ridge.sqrt() * torch.eye(len(columns))])
            wanted = torch.cat([calibration[:, 8:10], torch.zeros(len(columns), 2)])
            weights = torch.linalg.lstsq(matrix, wanted).solution
            values = padded[n, :, y : y + 3, x : x + 3].reshape(2, 9).mT.flatten()[columns]
            torch.testing.assert_close(found[n, :, y, x].to(torch.complex128), values @ weights, rtol=0, atol=1e-5)


def test_one_coil_that_doubles_along_x_by_hand():
    """k(x + 1) = 2 k(x): a missing sample with its left neighbour l and its right one r.

    All windows are (a, 2 a, 4 a): of l = a, r = 4 a and the sample 2 a the weights of least norm are 2 / 17 and 8 / 17,
    so the sample is (2 l + 8 r) / 17 = 2 l. With l alone it is 2 l as well, and with r alone r / 2.
    """
    row = 2.0 ** torch.arange(-6, 6)
    kspace = row.to(torch.complex64).view(1, 1, 1, -1)
    mask = torch.tensor([0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 0], dtype=torch.bool).view(1, 1, 1, -1)
    found = complete(mask * kspace, mask, (1, 3), 1e-9)
    torch.testing.assert_close(found, kspace, rtol=1e-5, atol=0)


def test_heavier_weights_leave_more_at_zero():
    kspace = exact()
    mask = regular(kspace.shape[-2:], 2, 12)
    filled = [
        complete(mask * kspace, mask, (3, 3), weight)[~mask.expand_as(kspace)].norm() for weight in (0.01, 1, 1e6)
    ]
    assert filled[0] > 1.1 * filled[1] > 100 * filled[2]


def test_without_a_whole_window_nothing_is_filled_in():
    kspace = noise(1, 2, 12, 12)
    mask = regular((12, 12), 3, 2)
    kspace = mask * kspace
    assert torch.equal(torch.view_as_real(complete(kspace, mask, (3, 5), 0.01)), torch.view_as_real(kspace))


def test_parts_of_the_systems_and_samples_change_nothing(monkeypatch):
    kspace = exact(n_coils=3)
    mask = noise(1, 1, *kspace.shape[-2:]).real > 0
    mask[..., 10:20, 10:20] = True
    whole = complete(mask * kspace, mask, (3, 3), 0.01)
    monkeypatch.setattr(autocalibration, "_NUMBERS", 500)
    torch.testing.assert_close(complete(mask * kspace, mask, (3, 3), 0.01), whole, rtol=0, atol=1e-5)


def test_the_image_of_a_phantom_under_regular_columns():
    """Six coils, every third column: far beyond the zero-filled image, and ahead of CG-SENSE with estimated maps."""
    size = (48, 45)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    image = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * 1.0 + ((y - 0.2).abs() < 0.2) * (x.abs() < 0.3)
    places = [(-1, -1), (-1, 1), (1, -1), (1, 1), (0, 1.2), (0, -1.2)]
    coils = torch.stack([torch.exp(-((y - a) ** 2 + (x - b) ** 2) / 2 + 0.5j * (a * y + b * x)) for a, b in places])
    kspace = fft2c(coils * image)[None] + 0.002 * noise(1, 6, *size)
    mask = regular(size, 3, 13)
    measurement = measure(kspace, mask, estimate_maps(kspace, (48, 13)), with_target=True)

    def error(name, **parameters):
        found = make_reconstructor(name, **parameters).reconstruct(measurement)
        return ((found - measurement.target).norm() / measurement.target.norm()).item() ** 2

    grappa, cg = error("grappa", weight=0.0001), error("cg_sense", weight=0.0016)
    assert grappa < 0.2 * error("zero_filled")
    assert grappa < cg
