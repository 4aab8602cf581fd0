from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from redcloak import images
from redcloak.errors import UserError

SAVED_AS = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("GIF", {}),
]
LOSSLESS = [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"})]


def photo(height: int = 24, width: int = 32, seed: int = 0) -> images.Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(picture: images.Picture, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def one_line(error: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_import_does_not_load_torch():
    code = "import sys, redcloak.images, redcloak.subjects; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- listing --------------------------------------------------------------------------------------


def test_list_is_natural_and_passes_over_the_rest(tmp_path):
    for name in [
        "10.png",
        "2.PNG",
        "1.png",
        "01.png",
        "b.jpeg",
        "A.webp",
        ".hidden.png",
        "notes.txt",
        "9.pdf",
    ]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = [path.name for path in images.list_images(tmp_path)]
    assert found == ["01.png", "1.png", "2.PNG", "10.png", "A.webp", "b.jpeg"]


def test_list_names_what_is_wrong(tmp_path):
    with pytest.raises(UserError) as missing:
        images.list_images(tmp_path / "nowhere")
    one_line(missing, "nowhere", "No such file")
    with pytest.raises(UserError) as blocked:
        images.list_images(write(tmp_path / "file.png", b"x"))
    one_line(blocked, "file.png", "Not a directory")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as empty:
        images.list_images(tmp_path / "empty")
    one_line(empty, "empty", *images.SUFFIXES)


# --- reading: handled -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_formats_come_back_exactly_whatever_the_suffix(tmp_path, kind, options):
    path = write(tmp_path / "any.jpg", encode(photo(), kind, **options))
    assert np.array_equal(images.read_image(path), photo())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path, kind, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255  # only the top left is white, so that all eight orientations differ
    upright[:16, 16:32] = 128
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](upright))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    path = write(tmp_path / "a.jpg", encode(stored, kind, exif=exif, **options))
    read = images.read_image(path)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() <= (40 if kind == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow says so; the pixels are sound
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_broken_exif_does_not_cost_the_picture(tmp_path, kind):
    broken = b"Exif\0\0II*\0\x08\0\0\0\x05\0" if kind == "JPEG" else b"nonsense"
    path = write(tmp_path / "a.jpg", encode(photo(), kind, exif=broken))
    assert images.read_image(path).shape == (24, 32, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_match_their_rgb(tmp_path, mode):
    image = Image.fromarray(photo()).convert(mode)
    image.save(tmp_path / "a.tif")
    assert np.array_equal(images.read_image(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(images.read_image(tmp_path / "a.jpg").astype(int) - [200, 30, 60]).max() <= 4


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_truncated(tmp_path, suffix):
    wide = np.array([[0, 128, 129, 0x00FF, 0x8000, 0xFF00, 0xFFFF]], np.uint16)
    Image.fromarray(wide).save(tmp_path / f"a.{suffix}")
    expected = np.rint(wide / 257).astype(np.uint8)
    assert np.array_equal(images.read_image(tmp_path / f"a.{suffix}"), np.stack([expected] * 3, axis=-1))


def test_big_endian_16_bit_grey(tmp_path):
    values = np.array([[0, 0x8000, 0xFFFF]], ">u2")
    tags = [
        (256, 3, 1, 3 << 16),
        (257, 3, 1, 1 << 16),
        (258, 3, 1, 16 << 16),
        (259, 3, 1, 1 << 16),
        (262, 3, 1, 1 << 16),
        (273, 4, 1, 8),
        (277, 3, 1, 1 << 16),
        (278, 3, 1, 1 << 16),
        (279, 4, 1, 6),
    ]
    directory = struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", *tag) for tag in tags) + bytes(4)
    data = b"MM\0*" + struct.pack(">I", 14) + values.tobytes() + directory
    assert images.read_image(write(tmp_path / "a.tif", data))[0, :, 0].tolist() == [0, 128, 255]


def test_16_bit_colour_keeps_its_high_byte(tmp_path):
    row = np.array([[0x1234, 0xABCD, 0xFFFF]], ">u2")
    path = write(tmp_path / "a.png", raw_png(1, 1, 16, 2, b"\0" + row.tobytes()))
    assert images.read_image(path).tolist() == [[[0x12, 0xAB, 0xFF]]]


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("PA", "tif"), ("RGBA", "webp")])
def test_alpha_is_laid_on_white(tmp_path, mode, suffix):
    image = Image.new("L", (3, 2), 100).convert({"RGBA": "RGB", "LA": "L", "PA": "P"}[mode])
    image.putalpha(Image.fromarray(np.array([[0, 128, 255]] * 2, np.uint8)))
    assert image.mode == mode
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert images.read_image(tmp_path / f"a.{suffix}")[0, :, 1].tolist() == [255, 177, 100]


@pytest.mark.parametrize("key", ["index", b"\xff\x00"])
def test_transparent_palette_is_laid_on_white(tmp_path, key):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=1 if key == "index" else key)
    assert images.read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(tmp_path, kind):
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / "a.gif", kind, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(images.read_image(tmp_path / "a.gif"), np.asarray(frames[0]))


def test_a_phone_s_two_picture_jpeg_gives_the_first(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert images.read_image(tmp_path / "a.jpg")[8, 8, 0] > 200


def test_reading_is_thread_safe_and_leaves_pillow_alone(tmp_path):
    paths = [write(tmp_path / f"{seed}.png", encode(photo(seed=seed))) for seed in range(16)]
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(images.read_image, paths))
    assert all(np.array_equal(picture, photo(seed=seed)) for seed, picture in enumerate(read))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))


def test_what_is_read_may_be_written_to(tmp_path):
    picture = images.read_image(write(tmp_path / "a.png", encode(photo())))
    picture[0, 0] = 0
    assert picture.flags.c_contiguous


# --- reading: refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"this is a text", "not PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not PNG"),
        (b"P6 1 1 255 abc", "not PNG"),
        (b"BM, said the text", "damaged"),
        (b"RIFF\x04\0\0\0AVI LIST", "damaged"),
    ],
)
def test_what_is_not_a_picture_is_refused(tmp_path, data, says):
    with pytest.raises(UserError) as error:
        images.read_image(write(tmp_path / "a.png", data))
    one_line(error, "a.png", says)


def read_or_refuse(path: Path) -> images.Picture | None:
    try:
        return images.read_image(path)
    except UserError as error:
        message = str(error)
    assert path.name in message
    return None


@pytest.mark.parametrize(("kind", "options"), SAVED_AS)
def test_truncated_files_are_refused_wherever_they_end(tmp_path, kind, options):
    whole = encode(photo(40, 56), kind, **options)
    for end in [*range(1, len(whole) - 40, len(whole) // 20), len(whole) - 40]:
        with pytest.raises(UserError) as error:
            images.read_image(write(tmp_path / "a.png", whole[:end]))
        one_line(error, "a.png")


@pytest.mark.parametrize(("kind", "options"), SAVED_AS)
def test_what_is_read_without_its_last_bytes_has_every_pixel(tmp_path, kind, options):
    whole = encode(photo(40, 56), kind, **options)
    expected = images.read_image(write(tmp_path / "a.png", whole))
    for end in range(len(whole) - 40, len(whole)):
        read = read_or_refuse(write(tmp_path / "a.png", whole[:end]))
        assert read is None or np.array_equal(read, expected)


@settings(max_examples=60)
@given(data=st.data())
def test_damage_gives_a_picture_or_a_user_error(tmp_path_factory, data):
    kind, options = data.draw(st.sampled_from([entry for entry in SAVED_AS if entry[0] != "TIFF"]))
    damaged = bytearray(encode(photo(), kind, **options))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    read = read_or_refuse(write(tmp_path_factory.getbasetemp() / "damaged.png", bytes(damaged)))
    assert read is None or (read.dtype == np.uint8 and read.shape[2] == 3)


def bomb(side: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_001, 10_000, 30_000])  # 10,000: where Pillow itself would warn, not raise
@pytest.mark.parametrize("sound", [True, False])  # not sound: had it been decoded, the message would be another
def test_huge_png_is_refused_from_its_header(tmp_path, side, sound):
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes((side + 7) // 8 + 1)) for _ in range(side)) + packer.flush()
    path = write(tmp_path / "bomb.png", bomb(side, rows if sound else b"not deflate"))
    with pytest.raises(UserError) as error:
        images.read_image(path)
    one_line(error, "bomb.png", f"{side}x{side}", "64 million")


def test_the_limit_itself_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("redcloak.decoding.MAX_PIXELS", 24 * 32)
    assert images.read_image(write(tmp_path / "a.png", encode(photo()))).shape == (24, 32, 3)
    with pytest.raises(UserError, match="33x24"):
        images.read_image(write(tmp_path / "a.png", encode(photo(24, 33))))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_32_bit_pixels_are_refused(tmp_path, kind):
    Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="32-bit"):
        images.read_image(tmp_path / "a.tif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_missing_file_folder_and_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(UserError, match="is not a file"):
            images.read_image(path)


# --- arrays and tensors ---------------------------------------------------------------------------


def test_fit_takes_the_centre():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert np.array_equal(images.fit(wide, 10), np.full((10, 10, 3), 200, np.uint8))
    assert np.array_equal(images.fit(wide.swapaxes(0, 1), 4), np.full((4, 4, 3), 200, np.uint8))


def test_fit_is_lanczos_and_leaves_a_fitted_picture_alone():
    square = photo(32, 32)
    lanczos = Image.fromarray(square).resize((20, 20), Image.Resampling.LANCZOS)
    assert np.array_equal(images.fit(square, 20), np.asarray(lanczos))
    assert np.array_equal(images.fit(square, 32), square)
    with pytest.raises(UserError, match="size = 0"):
        images.fit(square, 0)


def test_every_8_bit_value_survives_the_round_trip_exactly():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    tensor = images.to_tensor(list(ramp))
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert (tensor.min(), tensor.max()) == (0, 1)
    assert np.array_equal(images.to_uint8(tensor), ramp)
    assert torch.equal(images.on_lattice(tensor), tensor)


@settings(max_examples=100)
@given(st.lists(st.floats(-2, 3, width=32), min_size=12, max_size=12))
def test_lattice_is_what_a_saved_file_holds(values):
    tensor = torch.tensor(values).reshape(1, 3, 2, 2)
    lattice = images.on_lattice(tensor)
    assert torch.equal(images.to_tensor(list(images.to_uint8(tensor))), lattice)
    assert torch.equal(images.on_lattice(lattice), lattice)
    assert (lattice - tensor.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6


def test_rounding_is_half_to_even_and_clamped():
    steps = torch.tensor([0.5, 1.5, 2.5, 254.5, -3.0, 999.0], dtype=torch.float64)
    tensor = (steps / 255).float().reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert images.to_uint8(tensor)[0, 0, :, 0].tolist() == [0, 2, 2, 254, 0, 255]


def test_to_uint8_refuses_what_it_cannot_mean():
    with pytest.raises(ValueError, match="NaN"):
        images.to_uint8(torch.tensor([0.0, float("nan"), 1.0]).reshape(1, 3, 1, 1))
    with pytest.raises(ValueError, match="floats"):
        images.to_uint8(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(3, 2, 2\)"):
        images.to_uint8(torch.zeros(3, 2, 2))


def test_to_uint8_takes_a_tensor_with_gradient_and_leaves_it():
    tensor = torch.rand(2, 3, 4, 4, requires_grad=True)
    before = tensor.detach().clone()
    assert images.to_uint8(tensor).shape == (2, 4, 4, 3)
    assert torch.equal(tensor, before)


# --- saving and loading ---------------------------------------------------------------------------


def test_save_and_load_round_trip(tmp_path):
    tensor = images.to_tensor([photo(seed=seed) for seed in range(3)])
    paths = images.save_images(tmp_path / "a" / "b", tensor)
    assert [path.name for path in paths] == ["000.png", "001.png", "002.png"]
    loaded, names = images.load_images(tmp_path / "a" / "b")
    assert torch.equal(loaded, tensor)
    assert names == ["000.png", "001.png", "002.png"]
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == names


def test_save_gives_png_and_never_overwrites_a_companion(tmp_path):
    tensor = images.to_tensor([photo(seed=seed) for seed in range(5)])
    paths = images.save_images(tmp_path, tensor, ["a.jpg", "a.png", "A.webp", "v1.5", "../up/b.jpeg"])
    assert [path.name for path in paths] == ["a.png", "a-2.png", "A-3.png", "v1.5.png", "b.png"]
    assert all(path.parent == tmp_path for path in paths)
    for seed, path in enumerate(paths):
        assert path.read_bytes() == images.to_png_bytes(photo(seed=seed))


def test_save_wants_one_name_per_image(tmp_path):
    with pytest.raises(ValueError, match="1 names for 2 images"):
        images.save_images(tmp_path, torch.zeros(2, 3, 4, 4), ["a"])


def test_png_bytes_are_deterministic_and_carry_no_metadata():
    data = images.to_png_bytes(photo())
    assert data == images.to_png_bytes(photo())
    kinds, at = set(), 8
    while at < len(data):
        kinds.add(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    assert kinds == {b"IHDR", b"IDAT", b"IEND"}


def test_gps_does_not_pass_through(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "at home"
    exif.get_ifd(0x8825)[1] = "N"
    write(tmp_path / "a.jpg", encode(photo(), "JPEG", exif=exif, comment=b"at home"))
    tensor, names = images.load_images(tmp_path)
    (saved,) = images.save_images(tmp_path / "out", tensor, names)
    assert b"at home" in (tmp_path / "a.jpg").read_bytes()
    assert b"at home" not in saved.read_bytes()
    with Image.open(saved) as image:
        assert not image.getexif()
        assert not image.info


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    resource = pytest.importorskip("resource")
    (old,) = images.save_images(tmp_path, images.to_tensor([photo()]), ["a.png"])
    before = old.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limit[1]))
    try:
        with pytest.raises(UserError) as error:
            images.save_images(tmp_path, images.to_tensor([photo(seed=1)]), ["a.png"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    one_line(error, "a.png", "cannot be saved", "too large")
    assert old.read_bytes() == before
    assert list(tmp_path.iterdir()) == [old]


def test_whoever_has_the_old_file_open_still_reads_it_whole(tmp_path):
    (path,) = images.save_images(tmp_path, images.to_tensor([photo()]), ["a.png"])
    with path.open("rb") as reader:
        images.save_images(tmp_path, images.to_tensor([photo(seed=1)]), ["a.png"])
        assert reader.read() == images.to_png_bytes(photo())
    assert np.array_equal(images.read_image(path), photo(seed=1))


def test_a_folder_in_the_file_s_place_is_named(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match=r"a\.png.*cannot be saved"):
        images.save_images(tmp_path, torch.zeros(1, 3, 4, 4), ["a.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_load_fits_or_names_the_two_that_differ(tmp_path):
    write(tmp_path / "a.png", encode(photo(24, 32)))
    write(tmp_path / "b.png", encode(photo(20, 20)))
    tensor, names = images.load_images(tmp_path, size=16)
    assert tensor.shape == (2, 3, 16, 16)
    assert names == ["a.png", "b.png"]
    with pytest.raises(UserError) as error:
        images.load_images(tmp_path)
    one_line(error, "a.png is 32x24", "b.png is 20x20")


def test_linf_counts_8_bit_steps(tmp_path):
    clean = np.full((4, 4, 3), 250, np.uint8)
    other = clean.copy()
    other[1, 2, 0] = 3
    a, b = write(tmp_path / "a.png", encode(clean)), write(tmp_path / "b.png", encode(other))
    assert images.linf_on_disk(a, b) == images.linf_on_disk(b, a) == 247
    assert images.linf_on_disk(a, a) == 0
    with pytest.raises(UserError, match=r"4x4 and .* 4x5"):
        images.linf_on_disk(a, write(tmp_path / "c.png", encode(photo(5, 4))))


# --- digests --------------------------------------------------------------------------------------


def test_digest_depends_on_pixels_shape_and_order():
    a, b = photo(seed=1), photo(seed=2)
    changed = a.copy()
    changed[0, 0, 0] ^= 1
    digests = [images.digest(value) for value in ([a], [b], [a, b], [b, a], [changed], [a.reshape(32, 24, 3)], [])]
    assert len(set(digests)) == len(digests)
    assert digests[2] == images.digest(np.stack([a, b])) == images.digest(images.to_tensor([a, b]))
    assert images.digest([a[:, ::-1]]) == images.digest([np.ascontiguousarray(a[:, ::-1])])


def test_digest_is_stable_for_ever():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert images.digest([picture]) == hashlib.sha256(b"(2, 2, 3)" + bytes(range(12))).hexdigest()


def test_folder_digest_sees_stems_and_pixels_only(tmp_path):
    folders = [tmp_path / name for name in ("png", "bmp", "named", "changed")]
    for folder, kind, stem, seed in zip(folders, ["PNG", "BMP", "PNG", "PNG"], "aaba", [0, 0, 0, 2], strict=True):
        folder.mkdir()
        write(folder / f"{stem}.{kind.lower()}", encode(photo(seed=seed), kind))
        write(folder / f"z.{kind.lower()}", encode(photo(seed=1), kind))
    (folders[0] / "notes.txt").write_text("ignored")
    png, bmp, named, changed = map(images.folder_digest, folders)
    assert png == bmp
    assert len({png, named, changed}) == 3


# --- output folders -------------------------------------------------------------------------------


def test_check_writable_creates_and_leaves_nothing(tmp_path):
    images.check_writable(tmp_path / "a" / "b")
    images.check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_check_writable_names_a_file_in_the_way(tmp_path):
    write(tmp_path / "file", b"x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as error:
            images.check_writable(folder)
        one_line(error, str(folder), "a file is in the way")


@pytest.fixture
def locked():
    """A folder with two below it: ``closed`` to its user and ``readable`` only. Root steps down meanwhile."""
    if os.name != "posix":
        pytest.skip("permissions are POSIX's")
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to any other user
        modes = {"closed": 0, "readable": 0o555, ".": 0o755}
        for below, mode in modes.items():
            (Path(name) / below).mkdir(exist_ok=True)
            write(Path(name) / below / "a.png", encode(photo()))
            (Path(name) / below).chmod(mode)
        if user == 0:
            os.seteuid(65534)
        yield Path(name)
        os.seteuid(user)
        for below in modes:
            (Path(name) / below).chmod(0o700)


@pytest.mark.parametrize("call", [images.list_images, lambda folder: images.read_image(folder / "a.png")])
def test_a_closed_folder_is_a_user_error(locked, call):
    assert images.read_image(locked / "readable" / "a.png").shape == (24, 32, 3)
    with pytest.raises(UserError) as error:
        call(locked / "closed")
    one_line(error, "closed", "Permission denied")


def test_a_read_only_folder_is_a_user_error(locked):
    tensor = torch.zeros(1, 3, 4, 4)
    for call in (images.check_writable, lambda folder: images.save_images(folder, tensor)):
        for folder in (locked / "readable", locked / "readable" / "new"):
            with pytest.raises(UserError) as error:
                call(folder)
            one_line(error, str(folder), "Permission denied")
