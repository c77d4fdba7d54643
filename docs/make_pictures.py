"""Makes the pictures of README.md and docs/ again, from real runs of this program.

  python docs/make_pictures.py

It takes about three minutes on two CPU cores. It needs the program, and for the pages a browser: `pip install
playwright` and Chromium (`apt install chromium`, or `playwright install chromium`).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs/pictures"
# A picture in a README should load at once.
LARGEST_BYTES = 150_000
# Width of a page, the height that is shown of it, and pixels of the picture per pixel of the page.
WIDTH, SCALE = 1100, 1
QUICKSTART = "--config=configs/quickstart.py"
# The runs of the comparison, and the fields in which they differ from the quickstart.
CHANGES = {
    "first": [],
    "long": ["--config.num_epochs=100"],
    "no_batch_norm": ["--config.model.batch_norm=False"],
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        runs = Path("runs")
        for name, change in CHANGES.items():
            program(QUICKSTART, *change, f"--workdir={runs}/{name}")
        program("--mode=eval", f"--workdir={runs}/first")
        program("--mode=compare", f"--workdir={runs}/*")
        scenes = f"--workdir={folder}/scenes"
        program("--config=configs/segmentation/digits.py", scenes)
        program("--mode=eval", scenes)
        program(
            "--mode=predict",
            "--weights=airbench94",
            f"--image={PICTURES}/photographs",
            f"--output={PICTURES}/prediction.png",
        )
        shutil.copy(runs / "first/history.png", PICTURES / "history.png")
        shutil.copy(runs / "first/first_batch.png", PICTURES / "first_batch.png")
        photograph(runs / "first/eval/index.html", PICTURES / "evaluation.png", height=1005)
        photograph(Path(folder) / "scenes/eval/index.html", PICTURES / "segmentation.png", 1000)
        photograph(runs / "compare/index.html", PICTURES / "comparison.png", height=900)
    for path in sorted(PICTURES.glob("*.png")):
        shrink(path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def program(*args: str) -> None:
    """Runs `python main.py ARGS` and shows what it prints."""
    print("python main.py", *args, flush=True)
    subprocess.run([sys.executable, ROOT / "main.py", *args], check=True)


def photograph(page: Path, picture: Path, height: int) -> None:
    """Writes a picture of the upper part of a page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        view = browser.new_page(
            viewport={"width": WIDTH, "height": height}, device_scale_factor=SCALE
        )
        view.goto(page.absolute().as_uri())
        view.screenshot(path=picture)
        browser.close()


def shrink(path: Path) -> None:
    """Reduces the colours, then the size, of a PNG until it is small enough."""
    picture = Image.open(path).convert("RGB")
    colours = 256
    while os.path.getsize(path) > LARGEST_BYTES:
        picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if colours == 32:
            picture = picture.resize((picture.width * 9 // 10, picture.height * 9 // 10))
        colours = max(32, colours // 2)


if __name__ == "__main__":
    main()
