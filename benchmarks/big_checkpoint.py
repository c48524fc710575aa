"""A sharded checkpoint of many gigabytes: time against reading it once, memory of all processes.

``python benchmarks/big_checkpoint.py --gigabytes 20 --folder /somewhere [--trained] [--write]``
writes real random bytes (bfloat16 and float32, with an index), reads them once as ``cat`` does,
lints them, prints ratios, and removes them. The files are evicted from the page cache before each
reading, so that both pay for the disk. ``--write`` puts the table into ``docs/scaling.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHARD_BYTES = 4_000_000_000
WIDTH, INNER, HEADS_KV, VOCABULARY = 4096, 11008, 1024, 32000
_BEGIN, _END = "<!-- big checkpoint: begin -->", "<!-- big checkpoint: end -->"


def shapes() -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and element type of the tensors of a decoder, layer after layer, without end."""
    yield "model.embed_tokens.weight", (VOCABULARY, WIDTH), "BF16"
    layer = 0
    while True:
        kind = "F32" if layer % 4 == 3 else "BF16"
        base = f"model.layers.{layer}"
        for name, rows, columns in (
            ("self_attn.q_proj", WIDTH, WIDTH),
            ("self_attn.k_proj", HEADS_KV, WIDTH),
            ("self_attn.v_proj", HEADS_KV, WIDTH),
            ("self_attn.o_proj", WIDTH, WIDTH),
            ("mlp.gate_proj", INNER, WIDTH),
            ("mlp.up_proj", INNER, WIDTH),
            ("mlp.down_proj", WIDTH, INNER),
        ):
            yield f"{base}.{name}.weight", (rows, columns), kind
        yield f"{base}.input_layernorm.weight", (WIDTH,), "F32"
        yield f"{base}.post_attention_layernorm.weight", (WIDTH,), "F32"
        layer += 1


def normal_codes(std: float) -> NDArray[np.uint16]:
    """bfloat16 codes of 65,536 equally likely normal values: random bits then index them."""
    quantiles = (np.arange(1 << 16) + 0.5) / (1 << 16)
    low = quantiles[: 1 << 15]
    # Acklam's tails are not needed: a sorted sample of a million draws is as good a table
    draws = np.sort(np.random.default_rng(0).standard_normal(1 << 22))
    values = np.concatenate([draws[(low * draws.size).astype(int)], np.empty(1 << 15)])
    values[1 << 15 :] = -values[: 1 << 15][::-1]
    bits = (values * std).astype(np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded >> 16).astype(np.uint16)


def payload(
    rng: np.random.Generator, shape: tuple[int, ...], kind: str, codes: NDArray[np.uint16]
) -> Iterator[memoryview]:
    """Bytes of one tensor in pieces: ones for a norm, uniform float32, normal bfloat16."""
    left = int(np.prod(shape))
    if len(shape) == 1:
        yield memoryview(np.ones(left, np.float32)).cast("B")
        return
    bound = 1.0 / np.sqrt(shape[1])
    while left:
        count = min(left, 1 << 22)
        if kind == "F32":
            values = rng.random(count, dtype=np.float32)
            values *= np.float32(2 * bound)
            values -= np.float32(bound)
            yield memoryview(values).cast("B")
        else:
            raw = rng.bit_generator.random_raw(-(-count // 4)).view(np.uint16)[:count]
            yield memoryview(codes[raw]).cast("B")
        left -= count


def trained(piece: memoryview, kind: str, scale: NDArray[np.float32]) -> memoryview:
    """A piece whose elements have scales of their own, as training leaves them."""
    if kind == "F32":
        values = np.frombuffer(piece, np.float32).copy()
        values *= np.resize(scale, values.size)
        return memoryview(values).cast("B")
    wide = np.frombuffer(piece, np.uint16).astype(np.uint32) << 16
    values = wide.view(np.float32) * np.resize(scale, wide.size)
    return memoryview((values.view(np.uint32) >> 16).astype(np.uint16)).cast("B")


def generate(folder: Path, size: int, *, as_trained: bool) -> Path:
    """A checkpoint of about ``size`` bytes in shards, and its index."""
    plan: list[list[tuple[str, tuple[int, ...], str]]] = [[]]
    total = held = 0
    for name, shape, kind in shapes():
        bytes_of = int(np.prod(shape)) * (4 if kind == "F32" else 2)
        if total + bytes_of > size:
            break
        if held + bytes_of > SHARD_BYTES:
            plan.append([])
            held = 0
        plan[-1].append((name, shape, kind))
        total += bytes_of
        held += bytes_of
    rng = np.random.Generator(np.random.SFC64(1))
    codes = normal_codes(0.02)
    scale = np.exp(0.3 * rng.standard_normal(WIDTH)).astype(np.float32)
    placed: dict[str, str] = {}
    for number, tensors in enumerate(plan, 1):
        shard = f"model-{number:05d}-of-{len(plan):05d}.safetensors"
        header: dict[str, object] = {}
        position = 0
        for name, shape, kind in tensors:
            length = int(np.prod(shape)) * (4 if kind == "F32" else 2)
            offsets = [position, position + length]
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": offsets}
            position += length
            placed[name] = shard
        text = json.dumps(header).encode()
        with open(folder / shard, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, shape, kind in tensors:
                for piece in payload(rng, shape, kind, codes):
                    file.write(trained(piece, kind, scale) if as_trained else piece)
            file.flush()
            os.fsync(file.fileno())
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": placed}))
    return index


def evict(folder: Path) -> None:
    """Drop the files from the page cache (they are on disk already)."""
    for path in sorted(folder.iterdir()):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read_once(folder: Path) -> float:
    """Seconds to read every shard in order, as ``cat`` does."""
    started = time.perf_counter()
    buffer = bytearray(1 << 17)
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - started


def _resident(pid: int) -> int:
    """Bytes of a process that are its own: anonymous pages, not the shared page cache."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) << 10 if found else 0


def _tree(pid: int) -> list[int]:
    """A process and all below it; workers have sessions of their own but stay children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(member for child in children for member in _tree(int(child)))]


def _processor() -> float:
    """Processor seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_watched(command: Sequence[str]) -> tuple[float, float, int, int, str]:
    """Seconds, processor seconds, most resident bytes of the tree at once, exit code, output."""
    started, used = time.perf_counter(), _processor()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, sum(map(_resident, _tree(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return seconds, _processor() - used, most, process.returncode, output


def imports() -> int:
    """Resident bytes of the tree on a checkpoint of one tensor: what importing takes."""
    with tempfile.TemporaryDirectory(prefix="big-") as folder:
        path = Path(folder) / "small.safetensors"
        text = b'{"w":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]}}'
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
        return max(run_watched(lint_command(path))[2] for _ in range(3))


def lint_command(path: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "initlint", str(path), "--format", "json", "--exit-zero", *more]


def main() -> int:
    """Generate, measure, print, clean up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--trained", action="store_true", help="weights that fit no scheme")
    parser.add_argument("--keep", action="store_true", help="leave the files for another run")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    folder = options.folder / f"initlint-big-{options.gigabytes:g}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        index = folder / "model.safetensors.index.json"
        if not index.exists():
            generate(folder, int(options.gigabytes * 1e9), as_trained=options.trained)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        base = imports()
        reads, lints, peaks, processor = [], [], [], []
        for _ in range(options.repeats):
            evict(folder)
            reads.append(read_once(folder))
            evict(folder)
            seconds, used, most, code, output = run_watched(lint_command(index))
            report = json.loads(output)
            if code != 0 or report["errors"]:
                print(output[:2000], file=sys.stderr)
                return 1
            lints.append(seconds)
            peaks.append(most)
            processor.append(used)
        target = report["targets"][0]
        ratios = [lint / read for lint, read in zip(lints, reads, strict=True)]
        above = (max(peaks) - base) / 1e6
        lines = [
            f"{size / 1e9:.1f} GB in {len(list(folder.glob('*.safetensors')))} shards, "
            f"{target['parameters'] / 1e9:.2f} billion parameters, stage {target['stage']}, "
            f"{os.cpu_count()} processors, median of {options.repeats}.",
            "",
            "| what | must be | measured |",
            "|---|--:|--:|",
            f"| lint / reading the files once from disk | 1.3 | {statistics.median(ratios):.2f} |",
            f"| memory of all processes above imports | 500 MB | {above:.0f} MB |",
            f"| reading once | | {size / statistics.median(reads) / 1e6:.0f} MB/s |",
            f"| processor time of linting | | {statistics.median(processor):.0f} s |",
            f"| linting | | {size / statistics.median(lints) / 1e6:.0f} MB/s |",
        ]
        print("\n".join(lines))
        if options.write:
            path = ROOT / "docs" / "scaling.md"
            page = path.read_text()
            head, _, rest = page.partition(_BEGIN)
            text = "\n".join(lines)
            path.write_text(f"{head}{_BEGIN}\n{text}\n{_END}{rest.partition(_END)[2]}")
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
