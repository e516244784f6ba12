"""The console page's files: nothing inline, nothing external, no text as markup, no missing file."""

import gzip
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import pi_orchestrator
from pi_orchestrator.core.error_codes import ErrorCode

CONSOLE = Path(pi_orchestrator.__file__).parent / "console" / "page"
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
    """A page's elements with their attributes, and the text inside scripts and styles."""

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
            continue  # a preload for a script that is imported
        found |= {attributes[name].lstrip("/") for name in ("src", "href") if attributes.get(name, "#")[0] == "/"}
    for script in SCRIPTS:
        text = script.read_text()
        found |= {target.removeprefix("./") for target in IMPORT.findall(text)}
        found |= set(re.findall(r"""(?:src|href): ["']/([\w.-]+)["']""", text))
    return found


def test_page_has_no_inline_code():
    parsed = page()
    assert parsed.inline == []
    for tag, attributes in parsed.elements:
        assert tag not in ("style", "base", "iframe", "object", "embed", "form"), tag
        assert not [name for name in attributes if name == "style" or name.startswith("on")], (tag, attributes)


def test_page_has_language_and_zoom():
    attributes = dict(page().elements)
    assert attributes["html"]["lang"] == "en"
    viewport = next(element["content"] for _, element in page().elements if element.get("name") == "viewport")
    assert "width=device-width" in viewport
    assert not re.search(r"user-scalable|maximum-scale", viewport)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_page_file_has_no_external_url(path):
    text = path.read_text()
    addresses = set(re.findall(r"(?:https?:|wss?:|data:)?//[\w.-]+\.[\w./-]+", text)) - NAMESPACES
    assert addresses == set()
    if path.suffix == ".css":
        assert not re.search(r"@import|url\(", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_makes_no_markup_from_text(path):
    assert MARKUP_FROM_TEXT.findall(path.read_text()) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_imports_existing_files(path):
    for target in IMPORT.findall(path.read_text()):
        assert target.startswith("./"), target
        assert (CONSOLE / target).is_file(), target


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_imports_exported_names(path):
    text = path.read_text()
    for imported, target in re.findall(r"""import \{([^}]*)\} from ["']\./([^"']+)["']""", text):
        exported = set(
            re.findall(
                r"^export (?:async )?(?:const|let|class|function\*?) (\w+)", (CONSOLE / target).read_text(), re.M
            )
        )
        required = {name.split(" as ")[0].strip() for name in imported.split(",") if name.strip()}
        assert required <= exported, f"{target} has no {required - exported}"
        for name in (part.split(" as ")[-1].strip() for part in imported.split(",") if part.strip()):
            assert len(re.findall(rf"\b{name}\b", text)) > 1, f"{name} is imported and not used"


def test_page_files_are_all_referenced():
    assert referenced() == names(FILES)


def test_page_preloads_every_module():
    preloads = [element["href"] for _, element in page().elements if element.get("rel") == "modulepreload"]
    imported = {target for script in SCRIPTS for target in IMPORT.findall(script.read_text())}
    assert sorted(preloads) == sorted({"/" + target.removeprefix("./") for target in imported})


def test_page_file_names_avoid_api_paths():
    # Paths of the API are never served as files.
    assert [name for name in names(FILES) if name.startswith(("api", "health", "ready", "metrics", "version"))] == []


def test_every_export_has_a_docstring():
    for path in SCRIPTS:
        lines = path.read_text().splitlines()
        assert lines[0].startswith("// "), f"{path.name} has no description"
        for number, line in enumerate(lines):
            if re.match(r"export (async )?(function|class|const \w+ = (async )?\()", line):
                assert lines[number - 1].rstrip().endswith("*/"), f"{path.name}: {line}"


def test_every_error_code_has_a_remedy():
    documented = set(re.findall(r"^  ([A-Z_]+):", (CONSOLE / "remedies.js").read_text(), re.MULTILINE))
    assert set(ErrorCode.__members__) - documented == set()


def test_page_size_is_limited():
    assert sum(path.stat().st_size for path in FILES) <= MAX_BYTES
    assert sum(len(gzip.compress(path.read_bytes())) for path in FILES) <= MAX_COMPRESSED_BYTES
