"""Text that every machine has: the source of Python's own standard library."""

import pathlib
import sysconfig

import numpy as np

VALIDATION = 10  # each tenth file is for validation


def load(num_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes to train with, so many, and a tenth of that to validate with."""
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py"))
    files = [file for file in files if "site-packages" not in file.parts]
    parts = files[::VALIDATION], [f for i, f in enumerate(files) if i % VALIDATION]
    validation, train = (b"".join(f.read_bytes() for f in part) for part in parts)
    limits = (train, num_bytes), (validation, num_bytes // VALIDATION)
    learn, check = (np.frombuffer(x[:limit], np.uint8) for x, limit in limits)
    return learn, check


def windows(text: np.ndarray, length: int, number: int, seed: int) -> np.ndarray:
    """``number`` random pieces of the text, of ``length`` bytes, as int32."""
    starts = np.random.default_rng(seed).integers(0, text.size - length, number)
    return text[starts[:, None] + np.arange(length)].astype(np.int32)
