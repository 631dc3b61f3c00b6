"""`kgen init`: run files to start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from kgen.config.run_config import RunConfig
from kgen.config.shipped import find_run_file, shipped, title

ROOT = Path(__file__).parents[1]


def test_without_a_name_it_lists_all_with_what_they_train(kgen) -> None:
    outcome = kgen("init")
    assert outcome.status == 0
    for name in shipped():
        assert title(name).endswith(".") and title(name)[:40] in outcome.out
    assert "quickstart  " in outcome.out and title("shapes") == "Synthetic scenes of colored shapes."


def test_the_copy_is_a_run_file_of_ones_own(kgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = kgen("init", "families/vae", cwd=tmp_path)
    assert outcome.status == 0 and "  kgen run vae.yaml\n" in outcome.out
    text = (tmp_path / "vae.yaml").read_text(encoding="utf-8")
    shown = (ROOT / "configs/families/vae.yaml").read_text(encoding="utf-8")
    assert text == shown.replace("configs/families/vae.yaml", "vae.yaml") != shown
    assert RunConfig.load(tmp_path / "vae.yaml") == RunConfig.load(find_run_file("families/vae"))
    monkeypatch.chdir(tmp_path)
    assert find_run_file("vae") == Path("vae.yaml"), "a file of one's own comes first, also without .yaml"


def test_a_study_is_for_sweep(kgen, tmp_path: Path) -> None:
    outcome = kgen("init", "studies/guidance", "-o", "sub/mine.yaml", cwd=tmp_path)
    assert "  kgen sweep sub/mine.yaml\n" in outcome.out
    assert "#   kgen sweep sub/mine.yaml\n" in (tmp_path / "sub" / "mine.yaml").read_text(encoding="utf-8")


def test_it_overwrites_nothing_and_names_what_there_is(kgen, tmp_path: Path) -> None:
    (tmp_path / "shapes.yaml").touch()
    kgen("init", "shapes", cwd=tmp_path).refuses("shapes.yaml already exists: give another name with -o")
    (tmp_path / "link.yaml").symlink_to("nowhere.yaml")
    kgen("init", "shapes", "-o", "link.yaml", cwd=tmp_path).refuses("link.yaml already exists")
    kgen("init", "shaeps", cwd=tmp_path).refuses("shaeps: there is no such file; did you mean 'shapes'? kgen ships")
    kgen("init", "", cwd=tmp_path).refuses("there is no such file")
    outcome = kgen("init", "-o", "x.yaml", cwd=tmp_path)
    assert outcome.status == 2 and "give the NAME" in outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"shapes.yaml", "link.yaml"}
    assert (tmp_path / "shapes.yaml").read_text() == ""
