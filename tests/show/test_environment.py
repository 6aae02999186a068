"""The environment check says OK or FAIL, what it found, what it wants and what mends it."""

import pytest

from tfm_lib.show import environment


@pytest.mark.parametrize(
    ("found", "wanted", "good"),
    [
        ("2.13.0+cpu", ">=2.8,<3", True),
        ("2.8.0", ">=2.8,<3", True),
        ("2.10.1", ">=2.8,<3", True),
        ("2.7.9", ">=2.8,<3", False),
        ("3.0", ">=2.8,<3", False),
        ("3.11.2", ">=3.11", True),
        ("3.9.18", ">=3.11", False),
    ],
)
def test_versions_compare_as_numbers(found, wanted, good):
    assert environment.in_range(found, wanted) is good


def test_every_package_is_checked_and_named(capsys):
    assert environment.check()
    printed = capsys.readouterr().out
    for name in (
        "Python",
        "torch",
        "numpy",
        "jupyterlab",
        "data/dates.tsv",
        "data/parallel.tsv",
        "ipython",
    ):
        assert f"OK   {name}" in printed
    assert "FAIL" not in printed


@pytest.mark.parametrize("found", [None, "1.26.4"])
def test_a_wrong_package_fails_with_the_command_that_mends_it(monkeypatch, capsys, found):
    genuine = environment.installed_version
    monkeypatch.setattr(
        environment, "installed_version", lambda name: found if name == "numpy" else genuine(name)
    )
    assert not environment.check()
    line = next(line for line in capsys.readouterr().out.splitlines() if "numpy" in line)
    assert line.startswith("FAIL numpy")
    assert (found or "missing") in line
    assert "wanted >=2.2,<3" in line
    assert '-m pip install "numpy==' in line


def test_changed_data_fails(monkeypatch, tmp_path, capsys):
    (tmp_path / "dates.tsv").write_bytes(b"another")
    monkeypatch.setenv("TFM_LIB_DATA", str(tmp_path))
    assert not environment.check()
    assert "FAIL data/dates.tsv" in capsys.readouterr().out


def test_an_intel_mac_is_told(monkeypatch, capsys):
    monkeypatch.setattr(environment.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(environment.platform, "machine", lambda: "x86_64")
    environment.check()
    assert "Intel Macs" in capsys.readouterr().out
