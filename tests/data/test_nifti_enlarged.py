"""An enlarged NIfTI volume keeps each space of its source: forms, codes, voxel sizes and axes."""

import nibabel
import numpy as np
import pytest

from fedrecon.sites.formats.nifti import load_magnitude, save_enlarged

SCANNER = np.array([[1.0, 0, 0, -5], [0, 1.5, 0, -6], [0, 0, 4, -7], [0, 0, 0, 1]])
STANDARD = np.array([[1.2, 0, 0, 20], [0, 1.8, 0, 30], [0, 0, 4.8, 40], [0, 0, 0, 1]])
"""As a registration writes it: another place, and voxels 1.2 times as large as those of pixdim."""

COS, SIN = np.cos(0.2), np.sin(0.2)
OBLIQUE = np.array([[COS, -SIN, 0, 3], [SIN, COS, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1]]) @ np.diag([-1, 1.5, 4, 1])

CASES = {
    "two spaces": (STANDARD, 4, SCANNER, 1),
    "two spaces of one size": (SCANNER + np.outer([1, 1, 1, 0], [0, 0, 0, 9]), 4, SCANNER, 1),
    "qform alone": (SCANNER, 0, SCANNER, 1),
    "sform alone": (OBLIQUE, 2, SCANNER, 0),
    "both are one, reversed and oblique": (OBLIQUE, 1, OBLIQUE, 1),
    "none": (SCANNER, 0, SCANNER, 0),
}


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)], ids=["axial", "turned axes"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [2, 3])
def test_each_form_keeps_its_space_and_its_code(case, axes, scale, tmp_path):
    sform, sform_code, qform, qform_code = CASES[case]
    order = np.eye(4)[:, [*axes, 3]]
    shape = np.array((12, 10, 4))
    values = np.random.default_rng(0).random(shape[list(axes)]).astype(np.float32) + 1
    source, out = tmp_path / "in.nii", tmp_path / "out.nii"
    small = nibabel.Nifti1Image(values, None)
    small.header.set_xyzt_units("mm")
    small.header.set_sform(sform @ order, sform_code)
    small.header.set_qform(qform @ order, qform_code)
    nibabel.save(small, source)
    images, _ = load_magnitude(source)
    save_enlarged(out, source, np.repeat(np.repeat(images, scale, 1), scale, 2), scale)
    small, large = nibabel.load(source), nibabel.load(out)

    factor = np.where(np.array(axes) == 2, 1, scale)  # not across the slices
    for axis, count in enumerate(factor):
        values = np.repeat(values, count, axis)
    np.testing.assert_array_equal(np.asarray(large.dataobj), values)
    np.testing.assert_allclose(large.header["pixdim"][1:4], small.header["pixdim"][1:4] / factor, rtol=1e-6)
    for name in ("sform", "qform"):
        before, code = getattr(small.header, f"get_{name}")(coded=True)
        after, kept = getattr(large.header, f"get_{name}")(coded=True)
        assert kept == code
        if code:
            for corner in ((0, 0, 0), (1, 0, 0), (0, 1, 1)):  # shares of the whole volume, from its outer edge
                edges = [np.array(corner) * one.shape - 0.5 for one in (small, large)]
                places = [matrix @ [*edge, 1] for matrix, edge in zip((before, after), edges, strict=True)]
                np.testing.assert_allclose(places[1], places[0], atol=1e-4)
    np.testing.assert_allclose(load_magnitude(out)[0], np.repeat(np.repeat(images, scale, 1), scale, 2))
