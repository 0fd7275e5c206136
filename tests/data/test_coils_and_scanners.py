"""Coil compression of every k-space format, and one site a scanner."""

import json

import h5py
import numpy as np
import pytest
from small_files import HEADER, mrd_lines, rss, write_any, write_fastmri, write_mrd
from small_volumes import make_kspace

from fedrecon.cli import main
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats import FORMATS
from fedrecon.sites.formats.by_scanner import import_by_scanner
from fedrecon.sites.formats.importing import import_data
from fedrecon.sites.formats.kspace import Measured
from fedrecon.sites.formats.record import FileRecord

SYSTEM = "<systemFieldStrength_T>2.89</systemFieldStrength_T>"


def test_virtual_coils_are_the_singular_vectors_and_the_energy_is_theirs():
    """Two signals over three coils: coils (2 a, 0, 0) and (0, b, b) have the energies 4 |a|^2 and 2 |b|^2."""
    rng = np.random.default_rng(0)
    a, b = np.linalg.qr(rng.normal(size=(20 * 24, 2)))[0].T.reshape(2, 1, 24, 20)
    kspace = np.stack([2 * a, b, b], axis=1).astype(np.complex64)
    kspace[..., ::3] = 0
    power_a, power_b = ((one * (np.arange(20) % 3 != 0)) ** 2 for one in (a, b))
    power_a, power_b = 4 * power_a.sum(), 2 * power_b.sum()
    record = FileRecord()
    one = FORMATS["npy"](coils=1).compressed(kspace, record)
    share = float(record.facts["coil compression"].removeprefix("3 to 1 coils, ").split()[0])
    assert share == pytest.approx(100 * power_a / (power_a + power_b), abs=0.5)
    assert (np.abs(one) ** 2).sum() == pytest.approx(share / 100 * (np.abs(kspace) ** 2).sum(), rel=1e-3)
    two = FORMATS["npy"](coils=2).compressed(kspace, record)
    assert record.facts["coil compression"] == "3 to 2 coils, 100.00 % of the energy"
    np.testing.assert_allclose(rss(two), rss(kspace), atol=1e-6)
    assert not two[..., ::3].any()
    with pytest.raises(InputError, match="has 3 coils"):
        FORMATS["npy"](coils=4).compressed(kspace, record)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_measured_k_space_compresses_and_no_other(name, tmp_path):
    source = write_any(name, tmp_path, "a_1")
    if not issubclass(FORMATS[name], Measured):
        assert FORMATS[name].simulated
        with pytest.raises(InputError, match="coils"):
            import_data(name, source, "s", tmp_path / "out", coils=1)
        return
    done = import_data(name, source, "s", tmp_path / "out", coils=1)
    (volume,), (record,) = Shard.open(done).volumes, done.read.values()
    assert volume.n_coils == 1
    assert volume.has_reference
    assert record.facts["coil compression"].startswith("2 to 1 coils, ")


@pytest.mark.slow
def test_one_folder_becomes_a_site_for_each_scanner(tmp_path, capsys):
    kspace, folder = make_kspace(coils=2), tmp_path / "in"
    folder.mkdir()
    names = {"a_1": "Aera", "b_1": "Aera", "c_1": "Skyra fit"}
    secret = "<institutionName>Saint Mary</institutionName><deviceID>4711</deviceID>"
    for stem, model in names.items():
        system = f"<systemVendor>SIEMENS</systemVendor><systemModel>{model}</systemModel>{secret}{SYSTEM}"
        write_fastmri(folder / f"{stem}.h5", kspace, ismrmrd_header=HEADER.replace(SYSTEM, system))
    command = ["data", "import", "fastmri", str(folder), "--site-by", "scanner", "--out", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["sites"]
    sites = {one["site"]: one["n_files"] for one in shown}
    assert sites == {"siemens-aera-2.9t": 2, "siemens-skyra-fit-2.9t": 1}
    for site in sites:
        shard = Shard.open(tmp_path / "out" / f"{site}.h5")
        assert shard.site == site
        assert not [word for word in (b"Saint", b"4711") if word in shard.path.read_bytes()]
    write_fastmri(folder / "d_1.h5", kspace)
    with pytest.raises(InputError, match="d_1"):
        import_by_scanner("fastmri", folder, tmp_path / "other")
    done = import_by_scanner("fastmri", folder, tmp_path / "other", skip_bad=True)
    assert [path.name for one in done for path in one.skipped] == ["d_1.h5"]
    with pytest.raises(InputError, match="--subjects-from"):
        import_by_scanner("fastmri", folder, tmp_path / "third", test_subjects=["a"])
    assert main([*command, "--site", "x"]) == 2


@pytest.mark.slow
def test_the_scanner_of_an_ismrmrd_file_and_of_a_format_without(tmp_path):
    kspace = make_kspace(coils=2)
    write_mrd(tmp_path / "a_1.h5", mrd_lines(kspace), (24, 20, 1), field=0.55)
    assert FORMATS["ismrmrd"]().scanner(tmp_path / "a_1.h5") == "acme-big-0.55-0.55t"
    with h5py.File(tmp_path / "b_1.h5", "w") as file:
        file["kspace"] = kspace
    assert FORMATS["fastmri"]().scanner(tmp_path / "b_1.h5") is None
    with pytest.raises(InputError, match="does not say"):
        import_by_scanner("npy", write_any("npy", tmp_path, "a_1"), tmp_path)
