"""The measurement operator: the laws of linear operators, on odd sizes too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon.sites.imaging.coils import combine, rss
from fedrecon.sites.imaging.fourier import fft2c, ifft2c
from fedrecon.sites.imaging.measurement import measure
from fedrecon.sites.imaging.operator import Cartesian


def case(seed, b, c, y, x):
    """An operator with random unit maps, an image and k-space, in double precision."""
    g = torch.Generator().manual_seed(seed)
    maps, kspace = (torch.randn(b, c, y, x, dtype=torch.complex128, generator=g) for _ in range(2))
    image = torch.randn(b, y, x, dtype=torch.complex128, generator=g)
    mask = torch.rand(b, 1, y, x, generator=g) < 0.4
    return Cartesian(mask, maps / rss(maps).unsqueeze(1)), image, kspace


cases = st.builds(
    case, st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4), st.integers(1, 17), st.integers(1, 17)
)
single_coil = st.builds(
    case, st.integers(0, 10**6), st.integers(1, 3), st.just(1), st.integers(1, 17), st.integers(1, 17)
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(cases)
def test_adjointness(given_case):
    operator, image, kspace = given_case
    left = torch.vdot(operator.forward(image).flatten(), kspace.flatten())
    right = torch.vdot(image.flatten(), operator.adjoint(kspace).flatten())
    torch.testing.assert_close(left, right)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(cases)
def test_normal_is_the_two_in_a_row_and_no_longer_than_its_argument(given_case):
    operator, image, _ = given_case
    normal = operator.normal(image)
    torch.testing.assert_close(normal, operator.adjoint(operator.forward(image)))
    assert normal.norm() <= image.norm() * (1 + 1e-9)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(cases)
def test_projecting_is_one_gradient_step_and_fixes_what_agrees(given_case):
    operator, image, kspace = given_case
    step = image - operator.adjoint(operator.forward(image) - kspace)
    torch.testing.assert_close(operator.project(image, kspace), step)
    torch.testing.assert_close(operator.project(image, operator.forward(image)), image)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(single_coil)
def test_projection_of_one_coil(given_case):
    """Idempotent, meets the measured samples and leaves the others as they were."""
    operator, image, kspace = given_case
    once = operator.project(image, kspace)
    torch.testing.assert_close(operator.project(once, kspace), once)
    torch.testing.assert_close(operator.forward(once), operator.mask * kspace)
    untouched = fft2c(operator.maps * (once - image).unsqueeze(1)) * ~operator.mask
    torch.testing.assert_close(untouched, torch.zeros_like(untouched))


def test_several_coils_keep_the_null_space():
    """With samples of the truth, an error that A cannot see is all that stays, and no other error grows."""
    operator, truth, _ = case(3, 1, 4, 9, 7)
    kspace = operator.forward(truth)
    dense = torch.stack([operator.normal(e.view(1, 9, 7)).flatten() for e in torch.eye(63).to(truth.dtype)], 1)
    values, vectors = torch.linalg.eigh(dense)
    assert values.min() < 0.2
    assert values.max() < 1 + 1e-9
    for value, vector in ((values[0], vectors[:, 0]), (values[-1], vectors[:, -1])):
        error = operator.project(truth + vector.view(1, 9, 7), kspace) - truth
        torch.testing.assert_close(error.flatten(), (1 - value) * vector)


def test_a_hand_computed_measurement():
    """2 x 2, one coil: k-space of [[1, 2], [3, 4]] is [[0, 2], [1, 5]]; two samples are kept."""
    image = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=torch.complex64)
    kspace = fft2c(image).unsqueeze(1)
    # DC is at (1, 1): the sum over 2; its neighbours are half the differences of rows and of columns
    torch.testing.assert_close(kspace[0, 0].real, torch.tensor([[0.0, 2.0], [1.0, 5.0]]))
    mask = torch.tensor([[[[False, True], [False, True]]]])
    got = measure(kspace, mask, torch.ones_like(kspace), with_target=True)
    torch.testing.assert_close(got.zero_filled.real, torch.tensor([[[1.5, 1.5], [3.5, 3.5]]]))
    torch.testing.assert_close(got.scale, torch.tensor([3.5]))
    torch.testing.assert_close(got.target, image)
    assert (got.kspace == kspace * mask).all()


def test_measuring_nothing_gives_no_nan():
    kspace = torch.zeros(2, 3, 5, 4, dtype=torch.complex64)
    maps = torch.full_like(kspace, 3**-0.5)
    got = measure(kspace, torch.ones(2, 1, 5, 4, dtype=torch.bool), maps)
    assert got.scale.tolist() == [1.0, 1.0]
    assert got.target is None
    assert not torch.isnan(torch.view_as_real(got.zero_filled / got.scale[:, None, None])).any()


def test_types_and_shapes():
    kspace = torch.randn(2, 3, 6, 5, dtype=torch.complex64)
    maps = kspace / rss(kspace).unsqueeze(1)
    got = measure(kspace, torch.rand(2, 1, 6, 5) < 0.5, maps, reference=rss(ifft2c(kspace)), with_target=True)
    assert got.zero_filled.dtype == torch.complex64
    assert got.scale.dtype == torch.float32
    assert got.zero_filled.shape == got.target.shape == got.reference.shape == (2, 6, 5)
    with pytest.raises(AttributeError):
        got.scale = None
    torch.testing.assert_close(got.target, combine(ifft2c(kspace), maps))
