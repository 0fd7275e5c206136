"""CG-SENSE against a dense solve, numbers by hand, and sigpy."""

import pytest
import torch
from test_tv import phantom, psnr, undersampled

from fedrecon.sites.classical import make_reconstructor
from fedrecon.sites.imaging.degradations import DEGRADATIONS


def dense(measurement, weight):
    """The solution by a dense matrix, slice by slice, in double precision."""
    b, y, x = measurement.zero_filled.shape
    eye = torch.eye(y * x, dtype=torch.complex64).view(-1, y, x)
    columns = [measurement.operator.normal(e.expand(b, y, x)).flatten(1) for e in eye]
    matrix = torch.stack(columns, dim=-1).to(torch.complex128) + weight * torch.eye(y * x)
    return torch.linalg.solve(matrix, measurement.back_projected.flatten(1).to(torch.complex128)).view(b, y, x)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.01, 0.3])
def test_it_is_the_dense_solution_of_every_slice(weight):
    image = torch.cat([phantom(12), 1e4 * phantom(12).flip(-1)])
    measurement = undersampled(image, n_coils=3, noise=0.01)
    ours = make_reconstructor("cg_sense", weight=weight, iterations=60).reconstruct(measurement)
    expected = dense(measurement, weight)
    assert (ours - expected).abs().amax((1, 2)).div(expected.abs().amax((1, 2))).max() < 1e-4
    assert (ours - measurement.zero_filled).abs().amax((1, 2)).div(measurement.scale).min() > 0.05


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_it_is_the_dense_solution_from_a_low_resolution_image(kind):
    complete = undersampled(phantom(12), complete=True)
    measurement = DEGRADATIONS[kind](scale=2).measure(complete.kspace, complete.operator.maps)
    ours = make_reconstructor("cg_sense", weight=0.02, iterations=60).reconstruct(measurement)
    torch.testing.assert_close(ours, dense(measurement, 0.02).to(torch.complex64), rtol=0, atol=1e-4)


def test_of_one_coil_it_is_the_zero_filled_image_over_one_plus_weight():
    measurement = undersampled(phantom(24), noise=0.01)
    image = make_reconstructor("cg_sense", weight=0.25).reconstruct(measurement)
    torch.testing.assert_close(image, measurement.zero_filled / 1.25)


@pytest.mark.slow
def test_more_coils_than_acceleration_recover_the_image():
    measurement = undersampled(phantom(24), n_coils=6, acceleration=2.0)
    image = make_reconstructor("cg_sense", weight=0.0, iterations=200).reconstruct(measurement)
    assert psnr(phantom(24), image) > 50
    assert psnr(phantom(24), measurement.zero_filled) < 30


@pytest.mark.slow
def test_hundreds_of_iterations_past_the_solution_stay_there():
    measurement = undersampled(phantom(12), n_coils=3)
    at, past = (make_reconstructor("cg_sense", weight=0.1, iterations=n).reconstruct(measurement) for n in (40, 400))
    torch.testing.assert_close(past, at, rtol=0, atol=1e-5)


def test_it_is_sigpys():
    app = pytest.importorskip("sigpy.mri.app", reason="sigpy, the oracle, is not installed")
    measurement = undersampled(phantom(48), n_coils=4, noise=0.01)
    theirs = app.SenseRecon(
        measurement.kspace[0].numpy(), measurement.operator.maps[0].numpy(), lamda=0.01, max_iter=20,
        weights=measurement.operator.mask[0].float().numpy(), show_pbar=False,
    ).run()  # fmt: skip
    ours = make_reconstructor("cg_sense", weight=0.01, iterations=20).reconstruct(measurement)
    torch.testing.assert_close(ours[0], torch.from_numpy(theirs).to(torch.complex64), rtol=0, atol=1e-4)
