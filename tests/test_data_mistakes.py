"""Mistakes in data sets: paths, files, arrays, images and labels that are wrong each have their sentence."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_data
from PIL import Image
from small_data import CLASSES, N, R, idx, make_folder, make_idx, make_zip, names, pixels, refused, save

from noisegan.core.data import dataset, open_dataset
from noisegan.errors import NoiseganError

cache = small_data.cache
lazy = small_data.lazy


def test_missing_path(tmp_path: Path) -> None:
    (tmp_path / "Faces.zip").write_bytes(b"")
    assert refused("fashion-mnits") == "there is no data set 'fashion-mnits'; did you mean 'fashion-mnist'?"
    assert f"; did you mean '{tmp_path}/Faces.zip'?" in refused(tmp_path / "Facs.zip")
    assert "or a name: digits, fashion-mnist" in refused(tmp_path / "qqq")
    assert f"the folder {tmp_path}/nowhere does not exist either" in refused(tmp_path / "nowhere" / "x.zip")


def test_an_unknown_home_and_an_empty_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = (
        "there is no data set '~no-such-user/x': the system knows no home folder ~no-such-user; write the whole path"
    )
    assert refused("~no-such-user/x") == refused(Path("~no-such-user/x")) == sentence
    assert refused("").startswith("the data set's name is empty; give a folder or .zip of images")
    monkeypatch.setenv("NOISEGAN_CACHE", "~no-such-user")
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", 0)
    np.save(cache / "a.npy", pixels(1))
    assert len(open_dataset(cache / "a.npy")) == N  # only the memory of fingerprints is lost
    assert "set NOISEGAN_CACHE to a whole path" in refused("fashion-mnist")


def test_empty_places(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    assert refused(folder).startswith(f"the folder {folder} holds no images (png, jpg, webp")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"")
    assert "it holds train-images-idx3-ubyte.gz: give that file" in refused(folder)
    assert f"the zip file {tmp_path}/a.zip holds no images" in refused(make_zip(tmp_path / "a.zip", folder))


def test_files_of_the_wrong_kind(tmp_path: Path) -> None:
    for name, content, expected in [
        ("a.zip", b"hello", "a.zip is not a zip file, or is cut short"),
        ("a.txt", b"hello", "a.txt is a file of a kind that is not read (.txt); a data set is a folder or .zip"),
        ("noname", b"", "noname is a file of a kind that is not read (no suffix)"),
        ("a.png", b"hello", "a.png is a single image; a data set is a folder or .zip of images"),
        ("a.npy", b"hello", "a.npy is not a file of NumPy's .npy format"),
        ("a.npz", b"", "a.npz is not a file of NumPy's .npz format"),
        ("b.npz", b"PK\3\4hello", "b.npz cannot be read as NumPy's .npz file: File is not a zip file"),
        ("a.gz", b"hello", "a.gz is not the IDX file it should be: its magic number is 1751477356, expected 2051"),
        ("b.gz", b"\x1f\x8bhello", "b.gz cannot be read: "),
        ("c.idx", b"\0\0", "c.idx is cut short or damaged"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert expected in refused(tmp_path / name), name


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, path = make_folder(tmp_path / "f", pixels(1)), tmp_path / "a.npy"
    np.save(path, pixels(1))

    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert refused(path) == f"{path} cannot be read: Permission denied"
    assert refused(folder).startswith(f"a/000.png in {folder} cannot be read: Permission denied; replace")


def test_array_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array, expected in [
        (
            pixels(1) / 255.0,
            "is float64; images must be uint8, 0..255: scale to 0..255, round and convert with .astype",
        ),
        (pixels(1).astype(np.int32), "is int32; images must be uint8, 0..255: convert with .astype('uint8')"),
        (np.zeros((4, 4), np.uint8), "has the shape [4, 4]; images must be [N,H,W], [N,H,W,C] or [N,C,H,W]"),
        (np.zeros((2, 8, 8, 2), np.uint8), "has the shape [2, 8, 8, 2]; images must be"),
        (np.zeros((1, 8, 0, 3), np.uint8), "has the shape [1, 8, 0, 3], so there are no images"),
        (np.array([{"code": 1}], dtype=object), "holds Python objects, which could run code and are never loaded"),
    ]:
        np.save(path, array)
        if array.size == 0:
            np.savez(tmp_path / "a.npz", images=array)
            assert expected in refused(tmp_path / "a.npz")
        else:
            assert f"{path} {expected}" in refused(path)
    np.save(path, pixels(1))
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path} cannot be read as NumPy's .npy file" in refused(path)


def test_npz_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=pixels(1), labels=CLASSES)
    assert f"{path} has no array named 'images'; its keys are: labels, x; name the images" in refused(path)
    np.savez(path, images=pixels(1), labels=CLASSES, extra=np.array([{}], dtype=object))
    assert len(open_dataset(path)) == N  # what is not asked for is never loaded
    np.savez(path, images=np.array([{}], dtype=object))
    assert "holds Python objects" in refused(path)
    for labels, expected in [
        (None, "a has no labels, which --cond needs: " + str(path) + " has no array named 'labels'; add them or leave"),
        (np.arange(5), f"{path} has {N} images but 5 labels"),
        (
            np.eye(N),
            f"the labels of {path} must be one integer class per image, shape [{N}]; they are float64 of shape",
        ),
        (np.arange(N) - 1, f"{path} has the class -1; classes must be integers 0..K-1"),
        (np.arange(N) * 2, f"{path} has classes up to 22 but no image of class 1"),
    ]:
        np.savez(path, images=pixels(1), **({} if labels is None else {"labels": labels}))
        assert expected in refused(path, cond=True)
        assert len(open_dataset(path)) == N


def test_idx_mistakes(tmp_path: Path) -> None:
    path = make_idx(tmp_path, pixels(1), None, suffix="")
    assert f"there is no train-labels-idx1-ubyte beside {path}" in refused(path, cond=True)
    path.write_bytes(idx(pixels(1)[..., 0])[:-5])
    assert f"{path} is cut short or damaged: its header says [12, 16, 16], 3072 bytes, and 3067 follow" in refused(path)
    path.write_bytes(idx(pixels(1)[..., 0].reshape(-1)))
    assert "its magic number is 2049, expected 2051 (uint8, 3 dimensions); that is a file of labels" in refused(path)
    path.write_bytes(idx(pixels(1)[:0, ..., 0]))
    assert f"{path} holds no images: its shape is [0, 16, 16]" in refused(path)
    packed = make_idx(tmp_path / "gz", pixels(1), CLASSES)
    packed.write_bytes(packed.read_bytes()[:-20])
    assert f"{packed} cannot be read: " in refused(packed)
    labels = make_idx(tmp_path / "l", pixels(1), CLASSES[:-1])
    assert f"{labels} has {N} images but {N - 1} labels" in refused(labels, cond=True)


def test_corrupt_images_are_named(tmp_path: Path, lazy: None) -> None:
    folder = make_folder(tmp_path / "f", pixels(3))
    whole = (folder / "a/003.png").read_bytes()
    for content, reason in [
        (b"", "it is empty, cut short or no image"),
        (b"hello", "it is empty, cut short or no image"),
        (whole[:-60], "image file is truncated"),
        (whole[:60] + bytes(30) + whole[90:], ""),
    ]:
        (folder / "a/003.png").write_bytes(content)
        for workers in (0, 3):
            text = refused(folder, workers=workers)
            assert text.startswith(f"a/003.png in {folder} cannot be read: {reason}")
            assert text.endswith("; replace or remove it")
    text = refused(make_zip(tmp_path / "a.zip", folder))
    assert text.startswith(f"a/003.png in {tmp_path}/a.zip cannot be read: ")


def test_damaged_zip_member(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", make_folder(tmp_path / "f", pixels(3)))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("a/001.bmp").header_offset
    content[at + 300] ^= 255  # a pixel: only the checksum of the zip can tell
    path.write_bytes(content)
    assert f"a/001.bmp in {path} cannot be read: Bad CRC-32" in refused(path)


def test_modes_that_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    save(folder / "a.png", pixels(1)[0])
    for name, image in [("x.png", np.zeros((R, R), np.uint16)), ("y.tiff", np.zeros((R, R), np.float32))]:
        Image.fromarray(image).save(folder / name)
        kind = "16-bit" if name == "x.png" else "floating-point"
        assert f"{name} in {folder} is a {kind} image; only 8 bits per channel are read" in refused(folder)
        (folder / name).unlink()
    (folder / "z.png").write_bytes(png_rgb16())  # Pillow would read it as 8 bits without a word
    assert f"z.png in {folder} is a 16-bit image" in refused(folder)
    (folder / "z.png").unlink()
    save(folder / "z.png", pixels(3)[0])
    assert refused(folder) == (
        f"images differ in colour: a.png in {folder} is grey, z.png in {folder} is RGB; convert them to one kind"
    )


def png_rgb16() -> bytes:
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(R * 6) for _ in range(R))
    head = struct.pack(">IIBBBBB", R, R, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_manifest_mistakes(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", pixels(1))
    where = f"dataset.json in {folder}"
    assert f"f has no labels, which --cond needs: there is no dataset.json in {folder}" in refused(folder, cond=True)
    good: list[list[Any]] = [[name, 0] for name in names()]
    for content, expected in [
        ("{", f"{where} is not valid JSON ("),
        ("[]", f'{where} must be {{"labels": [[name, class], ...]}}'),
        ('{"labels": null}', "or its labels are null"),
        ("{}", "or its labels are null"),
        ('{"labels": {"a": 1}}', f"the labels of {where} must be a list of [name, class] or null; found a dict"),
        ('{"labels": [["a"]]}', f'the labels of {where} must be pairs [name, class]; found ["a"]'),
        (json.dumps({"labels": good[:4] + good[5:]}), f"{where} has no label for a/004.bmp; --cond needs a label"),
        (json.dumps({"labels": [["a/000.png", 1.5]]}), f"{where} gives a/000.png the class 1.5; classes must be"),
        (json.dumps({"labels": [["a/000.png", True]]}), f"{where} gives a/000.png the class true"),
        (json.dumps({"labels": [[name, -1] for name in names()]}), f"{where} has the class -1"),
        (
            json.dumps({"labels": [[name, 1] for name in names()]}),
            f"{where} has classes up to 1 but no image of class 0",
        ),
    ]:
        (folder / "dataset.json").write_text(content)
        assert expected in refused(folder, cond=True)
        assert len(open_dataset(folder)) == N  # labels that are not used do no harm


def test_an_image_that_changes_under_a_run(tmp_path: Path, lazy: None) -> None:
    folder = make_folder(tmp_path / "f", pixels(3))
    data = open_dataset(folder)
    save(folder / "a/000.png", pixels(3, height=8, width=8)[0])
    with pytest.raises(NoiseganError, match=r"a/000.png in .* has changed since the data set was opened"):
        data.images([1, 0])
