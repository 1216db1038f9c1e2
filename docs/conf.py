"""How Sphinx builds the documents: `make docs`."""

import re
import sys
from pathlib import Path

from sphinx.domains.python import PyObject

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

project = "Parsimony"
author = "The Parsimony developers"
copyright = "2026, The Parsimony developers"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Explanations are marked as Python where they run, and as text everywhere else.
highlight_language = "text"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autoclass_content = "class"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False
python_maximum_signature_line_length = 90

html_theme = "pydata_sphinx_theme"
html_title = "Parsimony"
html_theme_options = {"show_prev_next": False, "navbar_end": ["theme-switcher"], "show_toc_level": 2}
html_sidebars = {page: [] for page in ("start", "examples", "results", "limits", "architecture", "glossary")}
html_show_sourcelink = False
exclude_patterns = ["_build"]

# Docstrings are written as Markdown's readers expect: one pair of backticks is code.
default_role = "code"


#: Several names that share a description. Sphinx would take all but the last for a type.
SEVERAL = re.compile(r"(\s+)(\w+(?:, \w+)+): (\S.*)")


def _adapt(app, what, name, obj, options, lines):
    """Write lines as Sphinx wants them.

    |x| stays, which is a norm here and a substitution to Sphinx. Each reference is a paragraph. Names that share a
    description have a line each.
    """
    adapted, in_references, section = [], False, ""
    for line in lines:
        pieces = line.split("`")
        pieces[::2] = [piece.replace("|", r"\|") for piece in pieces[::2]]
        line = "`".join(pieces)
        several = SEVERAL.fullmatch(line)
        if several is not None and section in ("Attributes:", "Args:"):
            indent, names, text = several.groups()
            *others, last = names.split(", ")
            adapted += [f"{indent}{other}: See `{last}`." for other in others]
            line = f"{indent}{last}: {text}"
        if line.strip() and not line.startswith(" "):
            section = line.strip()
            in_references = section == "References:"
        elif in_references and line.lstrip().startswith("["):
            adapted += ["", "    " + line.lstrip()]
            continue
        elif in_references:
            line = "    " + line.lstrip()
        adapted.append(line)
    lines[:] = adapted


def setup(app):
    # Sphinx would link the name of an attribute to any documented attribute of that name, of whatever class.
    next(field for field in PyObject.doc_field_types if field.name == "variable").rolename = None
    app.connect("autodoc-process-docstring", _adapt, priority=100)  # before napoleon reads the sections
