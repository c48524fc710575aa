"""Screenshots of the HTML report of a broken and a healthy network of fifty layers.

python docs/report_pictures.py docs/pictures

Light and dark, wide and on a phone. Needs Chromium and the ``playwright`` package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"broken": "bad_residual_unscaled", "healthy": "good_residual_scaled"}
WIDTHS = {"wide": (1100, 1500), "phone": (390, 1500)}
"""Width and height of a picture, in pixels."""

SCHEMES = ("light", "dark")


def write_reports(folder: Path) -> None:
    """The models and their pages."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'rules'}"}
    for name, model in MODELS.items():
        make = [sys.executable, "-m", "fixtures.onnx_models", model, f"{folder}/{name}.onnx"]
        subprocess.run(make, cwd=ROOT, env=environment, check=True, capture_output=True)
        lint = [sys.executable, "-m", "initlint", f"{name}.onnx", "--report", f"html={name}.html"]
        subprocess.run(
            [*lint, "--exit-zero"], cwd=folder, env=environment, check=True, capture_output=True
        )


def main() -> None:
    """Take the pictures."""
    from playwright.sync_api import sync_playwright

    target = Path(sys.argv[1])
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        write_reports(folder)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for model in MODELS:
            for width, (across, down) in WIDTHS.items():
                for scheme in SCHEMES:
                    context = browser.new_context(
                        viewport={"width": across, "height": down}, color_scheme=scheme
                    )
                    page = context.new_page()
                    page.goto((folder / f"{model}.html").as_uri())
                    page.screenshot(path=target / f"report-{model}-{width}-{scheme}.png")
                    context.close()
        browser.close()


if __name__ == "__main__":
    main()
