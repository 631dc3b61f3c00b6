from __future__ import annotations

import numpy as np
import pytest
from kgen_plugin_openmoji import emoji_dataset as module
from kgen_plugin_openmoji.dataset import OpenMoji

from kgen import DataError

COLORS = ("^(red|orange|yellow|green|blue|purple|brown|black|white) ",)


@pytest.fixture(scope="module")
def everything() -> OpenMoji:
    return OpenMoji(size=16)


def test_there_are_about_1900_images_without_skin_tones(everything: OpenMoji) -> None:
    captions = everything.captions("train")
    assert 1800 < len(captions) < 2100
    assert {"red heart", "grinning face", "red apple"} <= set(captions)
    assert not any("skin tone" in caption for caption in captions)
    assert len(OpenMoji(size=16, skin_tones=True).captions("train")) > 3000


@pytest.mark.parametrize(("caption", "color"), [("red square", (233, 62, 58)), ("blue square", (146, 211, 245))])
def test_a_square_has_its_color_in_the_middle_and_the_background_around(caption: str, color: tuple) -> None:
    dataset = OpenMoji(size=32, match=(f"^{caption}$",), background="#00ff00")
    image = dataset.image("train", 0)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert np.abs(image[16, 16].astype(int) - color).max() < 30
    np.testing.assert_array_equal(image[0, 0], (0, 255, 0))


def test_match_exclude_and_holdout() -> None:
    dataset = OpenMoji(match=COLORS, exclude=("question",), holdout=("purple square", "blue heart"))
    train = dataset.captions("train")
    assert 45 < len(train) < 70
    assert all(caption.split()[0] in COLORS[0] for caption in train)
    assert not any("question" in caption for caption in train)
    assert dataset.captions("holdout") == ["blue heart", "purple square"]
    assert not {"blue heart", "purple square"} & set(train)
    assert dataset.captions("validation") == []


def test_validation_takes_every_nth() -> None:
    dataset = OpenMoji(match=COLORS, validation=5)
    assert len(dataset.captions("validation")) == pytest.approx(len(dataset.captions("train")) / 4, abs=1)
    assert not set(dataset.captions("validation")) & set(dataset.captions("train"))


def test_other_languages() -> None:
    assert "rotes herz" in OpenMoji(language="de").captions("train")
    assert "红心" in OpenMoji(language="zh").captions("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": ("unobtainium",)}, "none of .* captions passes"),
        ({"match": ("(",)}, "not a regular expression"),
        ({"holdout": ("blue hart",)}, "blue heart"),
        ({"language": "xx"}, "language 'xx'"),
        ({"background": "blurple"}, "not a color"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        OpenMoji(**options)


def test_a_pattern_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"none of .* passes"):
        OpenMoji(match=("^(([a-z]+)+ ?)+$x",))  # Python's own re never ends
    monkeypatch.setattr(module, "TIME_LIMIT", 0.2)
    with pytest.raises(DataError, match=r"match .* takes longer than 0\.2 s"):
        OpenMoji(match=("(?b)(?:elephants and tigers walking){e<=25}[0-9]{3}",))  # with up to 25 errors


def test_the_credit_names_author_and_license(everything: OpenMoji) -> None:
    assert "OpenMoji" in everything.credit and "CC BY-SA 4.0" in everything.credit
