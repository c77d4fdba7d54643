"""The links in the Markdown files lead somewhere; the flags, fields and recipes of their commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from cifar_jax.api import recipes
from cifar_jax.cli import MODES, arguments
from cifar_jax.errors import UserError
from configs import default

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "tests").glob("*/README.md")),
    *sorted((ROOT / "cifar_jax/inference/pretrained").glob("*.md")),
]
# Its commands are wrong on purpose.
WRONG_COMMANDS = ROOT / "tests/bad_input/README.md"
# A reader writes this file.
OWN_RECIPE = "my_recipe.py"


def without_code(text: str) -> str:
    """The text without code blocks and without code in lines."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a text: `## Your own recipe` has #your-own-recipe."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text, flags=re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = base = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = 0
        while anchor in found:
            count += 1
            anchor = f"{base}-{count}"
        found.add(anchor)
    return found


def broken_links(document: Path) -> list[str]:
    """The relative links of a document that lead to no file, or to no heading of a Markdown file."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        has_anchor = not anchor or (target.is_file() and anchor in anchors(target.read_text()))
        if not target.exists() or not has_anchor:
            broken.append(link)
    return broken


def commands(text: str) -> list[list[str]]:
    """The arguments of each `python main.py` or `cifar-jax` in the blocks of shell commands of a text."""
    found = []
    for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                for program in ("main.py", "cifar-jax"):
                    if program in words:
                        found.append(words[words.index(program) + 1 :])
    return found


def mistakes(args: list[str]) -> list[str]:
    """What is wrong with the flags and fields of a command, as far as no file of the reader matters."""
    given = dict(arg.lstrip("-").partition("=")[::2] for arg in args)
    mode = given.get("mode", "train")
    fields = {name: value for name, value in given.items() if name.startswith("config.")}
    wrong = [] if mode in MODES else [f"--mode={mode}"]
    for name in given.keys() - fields.keys() - {"mode", "help"}:
        if mode not in arguments.USED_BY.get(name, ()):
            wrong.append(f"--{name}")
    for name in fields:
        if name.removeprefix("config.") not in default.FIELDS:
            wrong.append(f"--{name}")
    recipe = given.get("config", "")
    if recipe and recipe != OWN_RECIPE and not recipe.startswith("configs/rerun.py") and not wrong:
        try:
            changes = [f"--{name}={value}" for name, value in fields.items()]
            arguments.load_recipe(recipes.resolve(recipe), changes)
        except UserError as error:
            wrong.append(str(error))
    return wrong


def missing_recipes(text: str, root: Path = ROOT) -> list[str]:
    """The paths and patterns after --config= and --recipes= that match nothing. Words like FILE may."""
    missing = []
    for value in re.findall(r"--(?:config|recipes)=['\"]?([^\s'\"`,;)]+)", text):
        path = value.partition(":")[0]  # configs/rerun.py:runs/NAME
        if path.isupper() or path == OWN_RECIPE:
            continue
        if path.startswith("/") or not any(root.glob(path)):
            missing.append(value)
    return missing


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_relative_link_resolves(document):
    assert broken_links(document) == []


@pytest.mark.parametrize("document", [x for x in DOCUMENTS if x != WRONG_COMMANDS], ids=name)
def test_every_recipe_in_a_command_exists(document):
    assert missing_recipes(document.read_text()) == []


@pytest.mark.parametrize("document", [x for x in DOCUMENTS if x != WRONG_COMMANDS], ids=name)
def test_every_command_has_flags_and_fields_that_exist(document, monkeypatch):
    monkeypatch.chdir(ROOT)
    wrong = {shlex.join(args): mistakes(args) for args in commands(document.read_text())}
    assert {command: words for command, words in wrong.items() if words} == {}


def test_every_module_and_script_in_a_command_exists():
    for document in DOCUMENTS:
        text = document.read_text()
        for module in re.findall(r"python -m ((?:benchmarks|tests)[\w.]*)", text):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
        for script in re.findall(r"python ((?!main\.py)[\w/]+\.py)", text):
            assert (ROOT / script).exists(), script


def test_a_wrong_command_is_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = "```sh\npip install x && python main.py --mode=eval \\\n    --imag=a  # b\ncifar-jax --help\n```\n"
    assert commands(text) == [["--mode=eval", "--imag=a"], ["--help"]]
    assert [mistakes(args) for args in commands(text)] == [["--imag"], []]
    quickstart = "--config=configs/quickstart.py"
    assert mistakes([quickstart, "--config.batch_size=32"]) == []
    assert mistakes([quickstart, "--config.bach_size=32"]) == ["--config.bach_size"]
    assert len(mistakes([quickstart, "--config.batch_size=0"])) == 1
    assert mistakes([quickstart, "--image=frog.png"]) == ["--image"]


def test_the_documents_have_links_anchors_and_commands():
    """Otherwise the tests above would pass because they found nothing."""
    together = "\n".join(document.read_text() for document in DOCUMENTS)
    assert "](docs/results.md)" in together
    assert "](../docs/results.md#speed-beside-pytorch)" in together
    assert "--config=configs/lenet.py" in together
    assert "--recipes='configs/cifar100/cnn_*.py'" in together
    assert len(commands(together)) > 40


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "other.md").write_text(
        "# Some words: a `title`\n## Twice\n## Twice\n```sh\n# no\n```\n"
    )
    document = tmp_path / "document.md"
    right = "[a](other.md) [b](other.md#some-words-a-title) [c](other.md#twice-1) [d](#here) [e](.)"
    outside = "[f](https://example.org/nothing.md#x) `[g](in_code.md)`"
    document.write_text(f"# Here\n{right} {outside}\n```\n[h](in_a_block.md)\n```\n")
    assert broken_links(document) == []
    wrong = ["gone.md", "other.md#no", "other.md#twice-2", "#there", "gone/"]
    document.write_text("# Here\n" + " ".join(f"[a]({link})" for link in wrong))
    assert broken_links(document) == wrong


def test_a_missing_recipe_is_found(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/one.py").write_text("")
    right = ["configs/one.py", "configs", "'configs/o*.py'", "configs/one.py:runs/NAME", "FILE"]
    assert missing_recipes(" ".join(f"--config={x} --recipes={x}" for x in right), tmp_path) == []
    assert missing_recipes("`--config=configs/two.py`", tmp_path) == ["configs/two.py"]
    assert missing_recipes("--recipes='configs/t*.py'", tmp_path) == ["configs/t*.py"]
    assert missing_recipes("--config=config/one.py \\", tmp_path) == ["config/one.py"]
