"""configs/families: what differs between them, and what each family refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "configs" / "families"
FAMILIES = ("diffusion", "gan", "realnvp", "vae")


def test_all_are_trained_on_the_same() -> None:
    files = {name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in FAMILIES}
    for key in ("data", "encoder"):
        assert all(file[key] == files["diffusion"][key] for file in files.values())
    assert {file["fit"]["batch_size"] for file in files.values()} == {32}
    assert {path.stem for path in FOLDER.iterdir()} == set(FAMILIES)


@pytest.mark.slow
def test_the_run_files_of_all_families_pass_the_check(kgen) -> None:
    outcome = kgen("check", *(FOLDER / f"{name}.yaml" for name in FAMILIES))
    assert outcome.status == 0 and outcome.out.count(": ok") == len(FAMILIES), outcome


@pytest.mark.parametrize(
    "family, change, message",
    [
        (
            "realnvp",
            "generator.coupling={kind: convolutional, scales: 7}",
            "can be halved 5 times: use at most 5",
        ),
        ("gan", "evaluate.likelihood.images=8", "GAN has no likelihood: it can only be compared by its images"),
        ("vae", "sample.options={guidance: 2}", "unknown key (VAE.generate takes: temperature, observe)"),
        ("realnvp", "sample.options={temperature: 0}", "sample.options.temperature: must be greater than 0, got 0"),
    ],
)
def test_unsupported_features_of_a_family_are_refused(
    kgen, tmp_path: Path, family: str, change: str, message: str
) -> None:
    kgen("run", FOLDER / f"{family}.yaml", "--set", change, "--out", tmp_path / "run").refuses(message)
    assert not (tmp_path / "run" / "metrics.csv").exists()
