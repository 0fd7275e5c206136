import math

import numpy as np
import pytest

from fedrecon.platform.federation import aggregate
from fedrecon.platform.storage import parquet as tables


def slice_row(**changes):
    row = {
        "site": "a",
        "split": "test",
        "subject": "p1",
        "volume": "p1_t1",
        "slice": 0,
        "stage": "output",
        "volume_maximum": 2.0,
        "mask": "random",
        "acceleration": 4.0,
        "measured_acceleration": 3.5,
        "model": "global",
        "squared_error": 1.0,
        "squared_norm": 10.0,
        "n_pixels": 100,
        "ssim": 0.5,
    }
    return {**row, **changes}


def columns(rows):
    return {name: [row[name] for row in rows] for name in tables.SCORES}


TWO_VOLUMES = [
    slice_row(),
    slice_row(slice=1, squared_error=3.0, squared_norm=30.0, ssim=0.7, measured_acceleration=4.5),
    slice_row(volume="p2_t1", subject="p2", squared_error=0.1, squared_norm=1.0, ssim=0.9, volume_maximum=1.0),
]


def test_scores_of_a_volume_by_hand():
    first, second = aggregate.volume_scores(columns(TWO_VOLUMES))
    assert first["nmse"] == pytest.approx(4 / 40)
    assert first["psnr"] == pytest.approx(10 * math.log10(2.0**2 * 200 / 4))
    assert first["ssim"] == pytest.approx(0.6)
    assert (first["n_slices"], first["measured_acceleration"]) == (2, 4.0)
    assert second["psnr"] == pytest.approx(10 * math.log10(100 / 0.1))
    assert (second["subject"], second["volume"]) == ("p2", "p2_t1")


def test_a_site_is_the_mean_of_its_volumes_not_of_its_slices():
    volumes = aggregate.volume_scores(columns(TWO_VOLUMES))
    (site,) = aggregate.site_scores(volumes)
    assert site["ssim"] == pytest.approx((0.6 + 0.9) / 2)
    assert site["psnr"] == pytest.approx((volumes[0]["psnr"] + volumes[1]["psnr"]) / 2)
    assert (site["n_volumes"], site["n_slices"]) == (2, 3)
    assert site["measured_acceleration"] == pytest.approx((3.5 + 4.5 + 3.5) / 3)


@pytest.mark.parametrize("key", aggregate.SITE)
def test_what_differs_is_never_mixed(key):
    other = 8.0 if key == "acceleration" else "other"
    rows = aggregate.site_scores(aggregate.volume_scores(columns([slice_row(), slice_row(**{key: other})])))
    assert [row[key] for row in rows] == [slice_row()[key], other]


def test_volume_scores_equal_those_of_the_whole_volume():
    from fedrecon.sites.imaging import metrics

    rng = np.random.default_rng(0)
    reference, image = rng.random((3, 11, 9)), rng.random((3, 11, 9))
    peak = float(reference.max())
    rows = [
        slice_row(
            slice=i,
            volume_maximum=peak,
            n_pixels=99,
            squared_error=float(((reference[i] - image[i]) ** 2).sum()),
            squared_norm=float((reference[i] ** 2).sum()),
            ssim=metrics.ssim(reference[i : i + 1], image[i : i + 1], peak),
        )
        for i in range(3)
    ]
    (volume,) = aggregate.volume_scores(columns(rows))
    assert volume["psnr"] == pytest.approx(metrics.psnr(reference, image))
    assert volume["nmse"] == pytest.approx(metrics.nmse(reference, image))
    assert volume["ssim"] == pytest.approx(metrics.ssim(reference, image))


def test_slices_of_one_volume_must_agree_on_its_maximum():
    with pytest.raises(ValueError, match=r"p1_t1.*volume_maximum"):
        aggregate.volume_scores(columns([slice_row(), slice_row(slice=1, volume_maximum=3.0)]))


def test_scores_round_trip_with_their_types(tmp_path):
    import pyarrow.parquet

    path = tmp_path / "scores.parquet"
    written = tables.join_scores([columns(TWO_VOLUMES), columns([slice_row(acceleration=8)])])
    tables.write_scores(path, written)
    assert tables.read_scores(path) == written
    kinds = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(path)}
    assert kinds == {name: kind.replace("float64", "double") for name, kind in tables.SCORES.items()}


def test_the_columns_are_those_that_sites_send():
    from fedrecon.sites.score_columns import SCORES as COLUMNS

    assert tuple(tables.SCORES) == tuple(COLUMNS)


def test_a_wrong_column_is_named(tmp_path):
    given = columns([slice_row()])
    given["psnrr"] = given.pop("ssim")
    with pytest.raises(ValueError, match=r"missing \['ssim'\], unknown \['psnrr'\]"):
        tables.write_scores(tmp_path / "scores.parquet", given)
    assert list(tmp_path.iterdir()) == []


ROUND = {
    "round": 1,
    "replied": ["a", "b"],
    "restarts": 0,
    "seconds": 1.5,
    "bytes_up": 2**40,
    "bytes_down": 3,
    "losses": {"a": {"loss": 0.25, "adversarial": float("inf")}, "b": {"loss": 0.5}},
}


def test_rounds_round_trip(tmp_path):
    path = tmp_path / "rounds.parquet"
    scores = {"a": {"psnr": 30.5, "zero_filled/psnr": 25.0}}
    late = {**ROUND, "round": 2, "replied": [], "losses": {}, "missed": ["a"], "waited": ["a", "b"], "scores": scores}
    tables.write_rounds(path, [ROUND, late])
    rows = tables.read_rounds(path)
    assert rows[0] == {**ROUND, "missed": [], "waited": [], "scores": {}}  # written by an earlier version
    assert rows[1] == late


def test_no_rounds_are_a_table_too(tmp_path):
    tables.write_rounds(tmp_path / "rounds.parquet", [])
    assert tables.read_rounds(tmp_path / "rounds.parquet") == []


def test_pandas_reads_both(tmp_path):
    pandas = pytest.importorskip("pandas")
    tables.write_rounds(tmp_path / "r.parquet", [ROUND])
    tables.write_scores(tmp_path / "s.parquet", columns(TWO_VOLUMES))
    assert list(pandas.read_parquet(tmp_path / "r.parquet")["replied"][0]) == ["a", "b"]
    assert pandas.read_parquet(tmp_path / "s.parquet").groupby("volume").size().to_dict() == {
        "p1_t1": 2,
        "p2_t1": 1,
    }
