"""Run every hostile, broken and odd input through the command and print the bars it must hold.

``python benchmarks/hostile.py [--write] [--jobs N] [--only TEXT]``. Each case is one run of the
command with an empty HOME and TMPDIR and without ``CI``; strace, where it is installed, tells what
was opened, written and connected. ``--write`` puts the tables into ``docs/security.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.hostile import CASES, TRAP, Case, End  # noqa: E402

LIMIT = 120.0
"""Seconds after which a case counts as a hang: twice the bar."""

TRACED = (
    "open,openat,openat2,creat,socket,connect,mkdir,mkdirat,unlink,unlinkat,rename,renameat,"
    "renameat2,symlink,symlinkat,link,linkat,truncate"
)
_OPENED = re.compile(r"\b(open|openat|openat2|creat)\((.*)\) += \d+<([^>]*)>")
_MADE = re.compile(r"\b(mkdir|unlink|rename|symlink|link|truncate)\w*\(.*\) += 0$")
_SOCKET = re.compile(r"\b(socket|connect)\(")
_LIBRARIES = ("/usr/", "/lib", "/proc", "/sys/", "/dev/null", "/dev/urandom", "/etc/ld.so.cache")
_LIBRARIES += ("/etc/localtime", "/etc/terminfo", "/etc/locale.alias", "/etc/ssl/openssl.cnf")
_LIBRARIES += ("/dev/pts", "pipe:", str(ROOT / "initlint"))
_LIBRARIES += (str(ROOT / "rules"), str(ROOT / "initlint.egg-info"))


@dataclass
class Result:
    """What one run did."""

    case: Case
    code: int | None
    seconds: float
    memory: int
    stdout: str
    stderr: str
    faults: list[str] = field(default_factory=list)
    probe: str = ""
    linted: bool = False


def command(*arguments: str) -> list[str]:
    """The command line of initlint."""
    return [sys.executable, "-m", "initlint", *arguments]


def environment(scratch: Path) -> dict[str, str]:
    """No CI, no caches, nothing inherited but the search path."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    path = os.pathsep.join((str(ROOT), str(ROOT / "rules")))
    home, temporary = scratch / "home", scratch / "tmp"
    return {
        **kept,
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run_case(case: Case, strace: str | None) -> Result:
    """Write a case, lint it, and look at what that did."""
    scratch = Path(os.path.realpath(tempfile.mkdtemp(prefix="hostile-")))
    try:
        for folder in ("home", "tmp", "work"):
            (scratch / folder).mkdir()
        target = case.make(scratch / "case")
        before = _listing(scratch)
        log = scratch.with_suffix(".strace")
        tracer = (
            [
                strace,
                "-f",
                "-y",
                "-qq",
                "--seccomp-bpf",
                "-s",
                "4096",
                "-o",
                str(log),
                "-e",
                f"trace={TRACED}",
            ]
            if strace
            else []
        )
        started = time.monotonic()
        process = subprocess.Popen(
            [*tracer, *command("--format", "json", "--", str(target))],
            cwd=scratch / "work",
            env=environment(scratch),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        peak = _Peak(process.pid, traced=bool(tracer))
        try:
            stdout, stderr = process.communicate(timeout=LIMIT)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            code = None
        seconds = time.monotonic() - started
        peak.stop()
        result = Result(
            case,
            code,
            seconds,
            peak.bytes,
            stdout.decode("utf-8", "replace"),
            stderr.decode("utf-8", "replace"),
        )
        _judge(result)
        new = _listing(scratch) - before
        result.faults += [f"wrote {path}" for path in sorted(new)[:3]]
        if any(TRAP in path for path in new):
            result.faults.append("ran code")
        if strace:
            result.faults += _trace_faults(log, scratch)
            log.unlink(missing_ok=True)
        return result
    finally:
        subprocess.run(["rm", "-rf", str(scratch)], check=False)  # shutil recurses


def _listing(folder: Path) -> set[str]:
    found = set()
    waiting = [str(folder)]
    while waiting:
        here = waiting.pop()
        if len(here) > 3000:
            continue
        for entry in os.scandir(here):
            found.add(entry.path)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return found


class _Peak:
    """Most memory that a process and its descendants held at once, looked at every 30 ms."""

    def __init__(self, root: int, *, traced: bool) -> None:
        self.bytes = 0
        self._root, self._traced = root, traced
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._done.wait(0.03):
            children, pages = defaultdict(list), {}
            for name in filter(str.isdigit, os.listdir("/proc")):
                try:
                    stat = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                except OSError:
                    continue
                children[int(stat[1])].append(int(name))
                pages[int(name)] = int(stat[21])
            below, total = [self._root], 0
            while below:
                process = below.pop()
                below += children[process]
                if not (self._traced and process == self._root):
                    total += pages.get(process, 0)
            self.bytes = max(self.bytes, total * page)

    def stop(self) -> None:
        """Stop looking."""
        self._done.set()
        self._thread.join()


def _judge(result: Result) -> None:
    case, faults = result.case, result.faults
    if result.code is None:
        faults.append("hung")
        return
    if result.code not in (0, 1, 2):
        faults.append(f"exit code {result.code}")
    if "Traceback" in result.stdout + result.stderr:
        faults.append("traceback")
    try:
        report = json.loads(result.stdout, parse_constant=_no_constant)
    except ValueError as error:
        if result.code != 2:
            faults.append(f"no strict JSON: {error}")
        report = {}
    targets = report.get("targets") or []
    result.linted = bool(targets) and result.code in (0, 1)
    result.probe = targets[0]["probe"]["status"] if targets else ""
    if targets and result.probe in ("failed", "timeout") and not targets[0]["probe"]["detail"]:
        faults.append("no reason why the probe did not run")
    if "initlint failed" in result.stdout + result.stderr or "defect" in result.stderr:
        faults.append("an exception nobody expected")
    if case.end is End.REFUSED and not clear(result):
        faults.append("not refused with one clear line")
    if case.end is End.NOT_CLEAN and result.code == 0:
        faults.append("a clean bill")
    if case.end is End.LINTED and not result.linted:
        faults.append("not linted")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def clear(result: Result) -> bool:
    """Exit code 2 and one line of at most 300 characters that says what it should."""
    lines = result.stderr.splitlines()
    return (
        result.code == 2
        and len(lines) == 1
        and len(lines[0]) <= 300
        and lines[0].isprintable()
        and result.case.words.lower() in lines[0].lower()
    )


def _trace_faults(log: Path, scratch: Path) -> list[str]:
    """What the trace shows beyond the case's folder and the interpreter's libraries."""
    libraries = (*_LIBRARIES, sys.prefix, os.path.realpath(sys.base_prefix))
    faults = set()
    for line in log.read_text(errors="replace").splitlines():
        if "__pycache__" in line:  # the interpreter's own, where the package was not compiled yet
            continue
        opened = _OPENED.search(line)
        if opened:
            _, arguments, path = opened.groups()
            if re.search(r"O_(WRONLY|RDWR|CREAT)", arguments) and path != "/dev/null":
                faults.add(f"opened {path} for writing")
            inside = path.startswith((str(scratch / "case"), str(scratch / "work")))
            if not inside and path not in ("/", str(ROOT)) and not path.startswith(libraries):
                faults.add(f"opened {path}")
        elif _MADE.search(line):
            faults.add(f"changed a folder: {line[:120]}")
        elif _SOCKET.search(line):
            faults.add(f"used a socket: {line[:120]}")
    return sorted(faults)[:5]


def table(results: Sequence[Result]) -> str:
    """Results by family, in Markdown."""
    rows = [
        "| class | cases | exit 0 / 1 / 2 | probe lost, findings kept | longest | most memory |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    families: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        families[result.case.family].append(result)
    for family, group in families.items():
        codes = Counter(result.code for result in group)
        lost = sum(result.probe in ("failed", "timeout") and result.linted for result in group)
        rows.append(
            f"| {family} | {len(group)} | {codes[0]} / {codes[1]} / {codes[2]} | {lost} "
            f"| {max(r.seconds for r in group):.1f} s | {max(r.memory for r in group) >> 20} MB |"
        )
    return "\n".join(rows)


def bars(results: Sequence[Result], traced: bool) -> str:
    """The bars, in Markdown."""
    faults = Counter(fault.split(" ")[0] for result in results for fault in result.faults)
    refused = [result for result in results if result.case.end is End.REFUSED]
    hostile = [result for result in results if result.case.family != "valid but odd"]
    odd = [result for result in results if result.case.family == "valid but odd"]
    share = sum(map(clear, refused)) / max(len(refused), 1)
    trace = "" if traced else " (strace is not installed: not looked at)"
    rows = [
        ("code run from a data file", "0", str(faults["ran"])),
        ("files opened outside the model's folder", "0", f"{faults['opened']}{trace}"),
        (
            "files written or changed, HOME and TMPDIR included",
            "0",
            str(faults["wrote"] + faults["changed"]),
        ),
        ("sockets", "0", f"{faults['used']}{trace}"),
        ("ends other than exit code 0, 1 or 2", "0", str(faults["exit"] + faults["hung"])),
        ("tracebacks and unexpected exceptions", "0", str(faults["traceback"] + faults["an"])),
        ("longest case", "60 s", f"{max(r.seconds for r in results):.1f} s"),
        (
            "95th percentile of hostile cases",
            "5 s",
            f"{quantiles([r.seconds for r in hostile], n=20)[-1]:.1f} s"
            if len(hostile) > 1
            else "-",
        ),
        (
            "most memory of the whole process tree",
            "3 GB",
            f"{max(r.memory for r in results) / 1e9:.2f} GB",
        ),
        ("clear errors: exit code 2 and one line", "98 %", f"{share:.1%} of {len(refused)}"),
        (
            "valid but odd files linted",
            "all",
            f"{sum(result.linted for result in odd)} of {len(odd)}",
        ),
        ("damaged or hostile files with a clean bill", "0", str(faults["a"])),
    ]
    lines = ["| bar | must be | measured |", "|---|--:|--:|"]
    return "\n".join([*lines, *(f"| {a} | {b} | {c} |" for a, b, c in rows)])


_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write(text: str) -> None:
    """Put the tables into the page of documentation."""
    path = ROOT / "docs" / "security.md"
    page = path.read_text()
    head, _, rest = page.partition(_BEGIN)
    path.write_text(f"{head}{_BEGIN}\n{text}\n{_END}{rest.partition(_END)[2]}")


def main() -> int:
    """Run, print, and fail when a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name matches this expression")
    options = parser.parse_args()
    strace = shutil.which("strace")
    chosen = [case for case in CASES if re.search(options.only, case.name)]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = []
        for result in pool.map(lambda case: run_case(case, strace), chosen):
            results.append(result)
            for fault in result.faults:
                line = result.stderr.strip().splitlines()
                print(f"{result.case.name}: {fault} [{result.code}] {line[-1:]}", flush=True)
    text = f"{len(results)} cases.\n\n{bars(results, bool(strace))}\n\n{table(results)}"
    print(text)
    for result in sorted(results, key=lambda result: -result.seconds)[:8]:
        print(f"  {result.seconds:.1f} s {result.memory >> 20} MB {result.case.name}")
    if options.write:
        write(text)
    return int(any(result.faults for result in results))


if __name__ == "__main__":
    sys.exit(main())
