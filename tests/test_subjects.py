from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from redcloak.errors import UserError
from redcloak.images import Picture
from redcloak.subjects import load_subject, pair


def photo(seed: int, height: int = 20, width: int = 20) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def folder_of(path: Path, *names: str, shape: tuple[int, int] = (20, 20)) -> Path:
    """A folder whose n-th photo holds the pixels of seed n."""
    path.mkdir()
    for seed, name in enumerate(names):
        Image.fromarray(photo(seed, *shape)).save(path / name)
    return path


def numbered(count: int) -> list[str]:
    return [f"{index}.png" for index in range(1, count + 1)]


# --- a folder of photos ---------------------------------------------------------------------------


def test_every_third_photo_is_the_reference(tmp_path):
    photos = load_subject(str(folder_of(tmp_path / "me", *numbered(12))), 20)
    assert photos.name == "me"
    assert photos.held_out
    assert photos.reference_names == ("3.png", "6.png", "9.png", "12.png")
    assert photos.train_names == tuple(f"{n}.png" for n in (1, 2, 4, 5, 7, 8, 10, 11))
    assert np.array_equal(photos.reference[3], photo(11))
    assert np.array_equal(photos.train[2], photo(3))


@pytest.mark.parametrize(("count", "train", "reference"), [(6, 4, 2), (7, 5, 2), (8, 6, 2), (9, 6, 3)])
def test_from_six_photos_the_splits_share_nothing(tmp_path, count, train, reference):
    photos = load_subject(str(folder_of(tmp_path / "me", *numbered(count))), 8)
    assert (len(photos.train), len(photos.reference)) == (train, reference)
    assert not set(photos.train_names) & set(photos.reference_names)
    assert len({*photos.train_names, *photos.reference_names}) == count


@pytest.mark.parametrize("count", [2, 5])
def test_few_photos_are_both_and_it_says_so(tmp_path, count):
    photos = load_subject(str(folder_of(tmp_path / "me", *numbered(count))), 8)
    assert not photos.held_out
    assert photos.train_names == photos.reference_names == tuple(numbered(count))
    assert len(photos.train) == len(photos.reference) == count


def test_photos_are_fitted(tmp_path):
    photos = load_subject(str(folder_of(tmp_path / "me", *numbered(6), shape=(18, 33))), 16)
    assert {picture.shape for picture in (*photos.train, *photos.reference)} == {(16, 16, 3)}


def test_one_photo_is_not_enough(tmp_path):
    folder = folder_of(tmp_path / "me", "only.png")
    with pytest.raises(UserError, match=r"1 photo found.*at least 2"):
        load_subject(str(folder), 8)
    with pytest.raises(UserError, match=r"1 photo found.*at least 4"):
        load_subject(str(folder), 8, minimum=4)
    assert len(load_subject(str(folder), 8, minimum=1).train) == 1


def test_photos_are_frozen_and_compare_by_content(tmp_path):
    first = load_subject(str(folder_of(tmp_path / "me", *numbered(3))), 20)
    assert first == load_subject(str(tmp_path / "me"), 20)
    with pytest.raises(FrozenInstanceError):
        first.name = "you"
    Image.fromarray(photo(99)).save(tmp_path / "me" / "2.png")
    second = load_subject(str(tmp_path / "me"), 20)
    assert second.digest != first.digest
    assert second != first


def test_the_digest_is_of_the_fitted_pixels_not_of_the_files(tmp_path):
    png = load_subject(str(folder_of(tmp_path / "a", "1.png", "2.png")), 20)
    bmp = load_subject(str(folder_of(tmp_path / "b", "1.bmp", "2.bmp")), 20)
    assert png.digest == bmp.digest
    assert png.digest != load_subject(str(tmp_path / "a"), 10).digest


def test_a_relative_folder_has_its_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(folder_of(tmp_path / "me", *numbered(2)))
    assert load_subject(".", 8).name == "me"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_subject(str(tmp_path / "nowhere"), 8)


# --- drawn subjects -------------------------------------------------------------------------------


def test_a_drawn_subject_is_the_same_for_ever_and_unlike_the_next():
    photos = load_subject("drawn:3", 32)
    assert photos.held_out
    assert (len(photos.train), len(photos.reference)) == (6, 6)
    assert len({*photos.train_names, *photos.reference_names}) == 12
    assert {(p.shape, p.dtype) for p in (*photos.train, *photos.reference)} == {((32, 32, 3), np.dtype(np.uint8))}
    assert len({p.tobytes() for p in (*photos.train, *photos.reference)}) == 12
    assert photos == load_subject("drawn:3", 32)
    assert photos.digest != load_subject("drawn:4", 32).digest


@pytest.mark.parametrize("spec", ["drawn:", "drawn:x", "drawn:-1", "drawn:1.5", "drawn: 1", "drawn:²", "drawn:1\n"])
def test_a_malformed_number_is_named(spec):
    with pytest.raises(UserError, match=r"drawn:N"):
        load_subject(spec, 32)


# --- photos that another tool protected -----------------------------------------------------------


@pytest.mark.parametrize(
    ("clean", "protected", "order"),
    [
        (["a.jpg", "b.jpg"], ["a.png", "b.png"], [0, 1]),
        (["me.png", "you.png"], ["50_noise_you.png", "50_noise_me.png"], [1, 0]),
        (["a.png", "b.png"], ["1_noise_a.png", "2_noise_b.png"], [0, 1]),
        (["1.png", "2.png", "50.png"], ["50_noise_1.png", "50_noise_2.png", "50_noise_50.png"], [0, 1, 2]),
        (["1.png", "2.png"], ["1_noise_2.png", "1_noise_1.png"], [1, 0]),
        (["1.png", "11.png"], ["11-cloaked.png", "1-cloaked.png"], [1, 0]),
        (["face.png", "face_2.png"], ["face_2_adv.png", "face_adv.png"], [1, 0]),
        (["a.b.png", "a(1).png"], ["x_a(1)_y.png", "x_a.b_y.png"], [1, 0]),
        (["10.png", "9.png"], ["9.png", "10.png"], [1, 0]),
        (["x.png", "x_y.png"], ["x.png", "z_x_y.png"], [0, 1]),
    ],
)
def test_pairs_are_matched_by_stem(tmp_path, clean, protected, order):
    """``order[i]`` is the index in ``protected`` of the partner of ``clean[i]``."""
    pairs = pair(folder_of(tmp_path / "clean", *clean), folder_of(tmp_path / "protected", *protected), 20)
    assert sorted(pairs.names) == sorted(clean)
    for name, picture in zip(pairs.names, pairs.protected, strict=True):
        assert np.array_equal(picture, photo(order[clean.index(name)]))
    assert {picture.shape for picture in pairs.clean} == {(20, 20, 3)}


@pytest.mark.parametrize(
    ("clean", "protected", "says"),
    [
        (["a.png", "b.png"], ["a.png"], "no photo carries the name of the clean 'b'"),
        (["a.png"], ["a.png", "c.png"], "'c' matches no clean photo"),
        (["a.png"], ["10_noise_a.png", "20_noise_a.png"], "'10_noise_a' and '20_noise_a' both match"),
        (["1.png", "2.png"], ["1_noise_2.png", "2_noise_1.png"], "both match"),
        (["face.png", "face_2.png"], ["p_face_2.png"], "matches both clean photos 'face' and 'face_2'"),
        (["me.png"], ["some.png"], "no photo carries the name of the clean 'me'"),
        (["a.png", "a.bmp"], ["a.png"], "share a stem"),
    ],
)
def test_what_does_not_match_is_named(tmp_path, clean, protected, says):
    folders = folder_of(tmp_path / "clean", *clean), folder_of(tmp_path / "protected", *protected)
    with pytest.raises(UserError) as error:
        pair(*folders, 8)
    assert says in str(error.value)


def test_a_pair_of_two_sizes_is_refused_before_fitting(tmp_path):
    clean = folder_of(tmp_path / "clean", "a.png", shape=(20, 30))
    protected = folder_of(tmp_path / "protected", "a.png", shape=(16, 16))
    with pytest.raises(UserError, match=r"16x16 but the clean .* 30x20"):
        pair(clean, protected, 8)


def test_both_of_a_pair_are_fitted_alike(tmp_path):
    clean = folder_of(tmp_path / "clean", "a.png", "b.png", shape=(20, 30))
    pairs = pair(clean, folder_of(tmp_path / "protected", "a.png", "b.png", shape=(20, 30)), 8)
    for first, second in zip(pairs.clean, pairs.protected, strict=True):
        assert np.array_equal(first, second)
