"""DICOM series of several volumes: which images make one, and that no lost image mixes two."""

from pathlib import Path

import numpy as np
import pytest
from small_dicom import STACK, loaded, refuse, series
from small_files import image, write_dicom


@pytest.mark.slow
def test_several_volumes_need_the_number_of_one(tmp_path):
    folder = series(tmp_path / "a", EchoTime=10.0)
    for number, pixels in enumerate(3 * STACK):
        write_dicom(folder / f"e{number}", pixels, folder, (10, 10, 10 + 5 * number), EchoTime=5.0)
    refuse(folder, "2 images at each position: --volume")
    refuse(folder, "counted from 0", volume=2)
    early, late = (loaded(folder, volume=number)[0].reference for number in (0, 1))
    np.testing.assert_allclose(early, 3 * late, rtol=1e-6)  # the shorter echo time comes first
    (folder / "e3").unlink()
    refuse(folder, "1 images at some positions and 2 at others", volume=0)


def dynamic(folder: Path, lost=(), times=(1, 2, 3), **elements) -> Path:
    """Four positions at each time; the images of a time are so many times as bright. ``lost``: (time, position)."""
    folder.mkdir()
    for at, time in enumerate(times):
        for number in range(4):
            if (time, number) not in lost:
                named = {key: value[at] for key, value in elements.items()}
                write_dicom(folder / f"{at}_{number}", time * image(), folder, (0, 0, 5.0 * number), **named)
    return folder


def test_a_lost_image_at_each_position_mixes_no_times(tmp_path):
    lost = {(1, 0), (3, 1), (1, 2), (1, 3)}  # two images are left at each position: 2 and 3, or 1 and 2
    orders = (
        "TemporalPositionIdentifier",
        "AcquisitionNumber",
        "EchoTime",
        "InversionTime",
        "FlipAngle",
        "TriggerTime",
    )
    for number, key in enumerate(orders):
        whole = dynamic(tmp_path / f"w{number}", **{key: (1, 2, 3)})
        assert loaded(whole, volume=2, slices="all")[0].reference.max(axis=(1, 2)).tolist() == [3 * 198.0] * 4
        refuse(dynamic(tmp_path / f"l{number}", lost, **{key: (1, 2, 3)}), "some are missing", volume=0)
    one = dynamic(tmp_path / "one", {(1, 0), (2, 1), (1, 2), (1, 3)}, (1, 2), TemporalPositionIdentifier=(1, 2))
    refuse(one, "differ in time")


def cine(folder: Path, times, lost=(), **elements) -> Path:
    """One row of trigger times for each position; the images of a phase are so many times as bright."""
    folder.mkdir()
    for number, row in enumerate(times):
        for phase, time in enumerate(row):
            if (number, phase) not in lost:
                elements = {**elements, "TriggerTime": time}
                write_dicom(
                    folder / f"{number}{9 - phase}", (phase + 1) * image(), folder, (0, 0, 5.0 * number), **elements
                )
    return folder


def phases(source: Path, volume: int) -> list[float]:
    """The phase of each slice of a volume of :func:`cine`."""
    return [float(one.max()) / 198 for one in loaded(source, volume=volume, slices="all")[0].reference]


def test_trigger_times_order_volumes_and_may_differ_by_the_heart_beat_of_a_position(tmp_path):
    beats = [[0, 40, 80, 120], [0, 36.5, 72.5, 109], [12, 57, 102, 147]]  # 57 > 36.5 > 40 - 12: ranks, not times
    assert phases(cine(tmp_path / "a", beats), 2) == [3, 3, 3]
    slices = [[0.0, 1000.0], [250.0, 1250.0], [500.0, 1500.0], [750.0, 1750.0]]  # of a dynamic: a slice has its place
    assert phases(cine(tmp_path / "b", slices), 1) == [2, 2, 2, 2]
    refuse(cine(tmp_path / "c", beats, {(0, 0), (1, 3), (2, 3)}), "some are missing", volume=0)  # begins a step later
    refuse(
        cine(tmp_path / "d", beats, {(0, 1), (1, 3), (2, 3)}), "some are missing", volume=0
    )  # a step of 80 beside 36.5
    same = [*[(0, one) for one in (0, 3)], *[(1, one) for one in (0, 3)], (2, 0), (2, 3)]
    assert phases(cine(tmp_path / "e", beats, same), 0) == [2, 2, 2]  # all lost the same phases


def test_images_of_a_position_that_nothing_orders_are_refused(tmp_path):
    refuse(cine(tmp_path / "a", [[7, 7], [7, 7]]), "nothing in their headers orders them", volume=0)
    numbered = cine(tmp_path / "b", [[7], [7]], InstanceNumber=1)
    for number in range(2):
        write_dicom(numbered / f"x{number}", 2 * image(), numbered, (0, 0, 5.0 * number), InstanceNumber=2)
    assert phases(numbered, 1) == [2, 2]


def test_parts_of_an_interleaved_acquisition_may_have_their_own_numbers(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for repetition, number in ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)):
        acquisition = 2 * repetition + number % 2  # even slices are the acquisitions 0 and 2, odd ones 1 and 3
        pixels = (repetition + 1) * image()
        write_dicom(
            folder / f"{repetition}{number}", pixels, folder, (0, 0, 5.0 * number), AcquisitionNumber=acquisition
        )
    assert len(set(loaded(folder, volume=1, slices="all")[0].reference.max(axis=(1, 2)).tolist())) == 1


def enhanced(path: Path, group: str, element: str, values) -> Path:
    """Two positions at each value in one file, the last value first; its images are so many times as bright."""
    from pydicom.dataset import Dataset

    frames, pixels = [], []
    for at, value in reversed(list(enumerate(values))):
        for number in range(2):
            frame, place, own = Dataset(), Dataset(), Dataset()
            place.ImagePositionPatient = [0, 0, 5.0 * number]
            setattr(own, element, value)
            frame.PlanePositionSequence = [place]
            setattr(frame, group, [own])
            frames.append(frame)
            pixels.append((at + 1) * image())
    return write_dicom(path, np.stack(pixels), PerFrameFunctionalGroupsSequence=frames)


@pytest.mark.parametrize(
    ("group", "element", "values"),
    [
        ("MRModifierSequence", "InversionTimes", ([100.0, 7.0], [1600.0, 5.0])),
        ("MRTimingAndRelatedParametersSequence", "FlipAngle", (2.0, 20.0)),
        ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", (0.0, 40.0)),
    ],
)
def test_frames_of_one_file_have_the_same_order_as_files(group, element, values, tmp_path):
    source = enhanced(tmp_path / "a.dcm", group, element, values)
    assert [phases(source, volume) for volume in (0, 1)] == [[1, 1], [2, 2]]
