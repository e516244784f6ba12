"""The console page's files, read: nothing inline, nothing from outside, no text that becomes markup, nothing lost."""

import gzip
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import pi_orchestrator
from pi_orchestrator.api.envelope import HTTP_STATUS

CONSOLE = Path(pi_orchestrator.__file__).parent / "api" / "console"
FILES = sorted(path for path in CONSOLE.rglob("*") if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
MAX_BYTES = 200 * 1024
MAX_COMPRESSED_BYTES = 72 * 1024
IMPORT = re.compile(r"""(?:\bfrom\s*|\bimport\s*\(?\s*)["']([^"']+)["']""")
MARKUP_FROM_TEXT = re.compile(
    r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|setHTMLUnsafe|DOMParser|eval|"
    r"new Function|execCommand|srcdoc\s*=)\b"
)
NAMESPACES = {"http://www.w3.org/2000/svg"}


class Page(HTMLParser):
    """A page's elements with their attributes, and the text within scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.inline, self._within = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag):
        self._within = None

    def handle_data(self, data):
        if self._within in ("script", "style") and data.strip():
            self.inline.append(data)


def page():
    return Page((CONSOLE / "index.html").read_text())


def names(paths):
    return {path.name for path in paths}


def referenced():
    """Every file that index.html or a script names, index.html itself included."""
    found = {"index.html"}
    for _, attributes in page().elements:
        if attributes.get("rel") == "modulepreload":
            continue  # early, for a script that imports it
        found |= {attributes[name].lstrip("/") for name in ("src", "href") if attributes.get(name, "#")[0] == "/"}
    for script in SCRIPTS:
        text = script.read_text()
        found |= {target.removeprefix("./") for target in IMPORT.findall(text)}
        found |= set(re.findall(r"""(?:src|href): ["']/([\w.-]+)["']""", text))
    return found


def test_the_page_has_no_script_style_or_handler_of_its_own():
    parsed = page()
    assert parsed.inline == []
    for tag, attributes in parsed.elements:
        assert tag not in ("style", "base", "iframe", "object", "embed", "form"), tag
        assert not [name for name in attributes if name == "style" or name.startswith("on")], (tag, attributes)


def test_the_page_is_named_in_a_language_and_zooms():
    attributes = dict(page().elements)
    assert attributes["html"]["lang"] == "en"
    viewport = next(one["content"] for tag, one in page().elements if one.get("name") == "viewport")
    assert "width=device-width" in viewport
    assert not re.search(r"user-scalable|maximum-scale", viewport)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_comes_from_outside(path):
    text = path.read_text()
    addresses = set(re.findall(r"(?:https?:|wss?:|data:)?//[\w.-]+\.[\w./-]+", text)) - NAMESPACES
    assert addresses == set()
    if path.suffix == ".css":
        assert not re.search(r"@import|url\(", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_text_never_becomes_markup_or_code(path):
    assert MARKUP_FROM_TEXT.findall(path.read_text()) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_import_is_there(path):
    for target in IMPORT.findall(path.read_text()):
        assert target.startswith("./"), target
        assert (CONSOLE / target).is_file(), target


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_imported_name_is_exported(path):
    text = path.read_text()
    for imported, target in re.findall(r"""import \{([^}]*)\} from ["']\./([^"']+)["']""", text):
        exported = set(
            re.findall(
                r"^export (?:async )?(?:const|let|class|function\*?) (\w+)", (CONSOLE / target).read_text(), re.M
            )
        )
        wanted = {name.split(" as ")[0].strip() for name in imported.split(",") if name.strip()}
        assert wanted <= exported, f"{target} has no {wanted - exported}"
        for name in (one.split(" as ")[-1].strip() for one in imported.split(",") if one.strip()):
            assert len(re.findall(rf"\b{name}\b", text)) > 1, f"{name} is imported and not used"


def test_every_file_is_used_and_every_used_file_is_there():
    assert referenced() == names(FILES)


def test_modules_are_fetched_at_once_and_not_one_import_after_the_other():
    early = [one["href"] for _, one in page().elements if one.get("rel") == "modulepreload"]
    imported = {target for script in SCRIPTS for target in IMPORT.findall(script.read_text())}
    assert sorted(early) == sorted({"/" + target.removeprefix("./") for target in imported})


def test_no_file_lies_where_the_api_is():
    # Paths of the API are never files, so a file named like one could not be fetched.
    assert [name for name in names(FILES) if name.startswith(("api", "health", "ready", "metrics", "version"))] == []


def test_every_export_has_a_contract():
    for path in SCRIPTS:
        lines = path.read_text().splitlines()
        assert lines[0].startswith("// "), f"{path.name} does not say what it is"
        for number, line in enumerate(lines):
            if re.match(r"export (async )?(function|class|const \w+ = (async )?\()", line):
                assert lines[number - 1].rstrip().endswith("*/"), f"{path.name}: {line}"


def test_every_error_of_the_daemon_has_a_remedy():
    known = set(re.findall(r"^  ([A-Z_]+):", (CONSOLE / "remedies.js").read_text(), re.MULTILINE))
    assert set(HTTP_STATUS) - known == set()


def test_the_whole_page_is_small():
    assert sum(path.stat().st_size for path in FILES) <= MAX_BYTES
    assert sum(len(gzip.compress(path.read_bytes())) for path in FILES) <= MAX_COMPRESSED_BYTES
