"""Builds the documentation from the docstrings: `make docs`.

The source folder is the repository itself, so that README, CONTRIBUTING and the pages in docs/ link to one another as
they do on a code host. Nothing is fetched: formulas become MathML, which browsers draw without a script, and names of
other libraries are looked up by importing them.
"""

import pkgutil
import re
from importlib.metadata import version as version_of
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import approx_is

logger = logging.getLogger(__name__)

project = "approx_is"
author = "The approx_is authors"
project_copyright = author
release = version_of("approx_is")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md", "docs/**.rst"]
exclude_patterns = [".*", "build", "runs", "approx_is", "predictors", "scripts", "tests"]
nitpicky = True
default_role = "name"  # of single backticks, see `name_role`
suppress_warnings = ["myst.header"]
highlight_language = "none"  # of commands; Python blocks say that they are, and examples with a prompt are recognised
myst_heading_anchors = 6
maximum_signature_line_length = 88

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "check_state_dict"}
autodoc_typehints_format = "short"
autodoc_type_aliases = {"Array": "numpy.typing.NDArray", "ArrayLike": "numpy.typing.ArrayLike"}
python_use_unqualified_type_names = True
napoleon_custom_sections = ["Reference"]
napoleon_use_ivar = True

linkcheck_timeout = 20

html_theme = "furo"
html_title = f"approx_is {release}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_additional_pages = {"index": "redirect.html"}
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["formulas.css"]
templates_path = ["templates"]

# What docstrings call by a short name.
ELSEWHERE = {
    "DataLoader": "torch.utils.data.DataLoader",
    "LambdaLR": "torch.optim.lr_scheduler.LambdaLR",
    "LightningModule": "lightning.pytorch.LightningModule",
    "Subset": "torch.utils.data.Subset",
    "SyncBatchNorm.convert_sync_batchnorm": "torch.nn.SyncBatchNorm.convert_sync_batchnorm",
    "Trainer": "transformers.Trainer",
    "Trainer.fit": "lightning.pytorch.Trainer.fit",
    "Trainer.train": "transformers.Trainer.train",
    "TrainingArguments.label_names": "transformers.TrainingArguments.label_names",
}

# What docutils writes, and what browsers draw well: space about log and its like, lines as long as what is below.
MATHML = [
    (r"<mi>(\w+)</mi>(\s*<mo>&ApplyFunction;)", r'<mo lspace="0.17em" rspace="0.17em">\1</mo>\2'),
    (r'<mover accent="false">(.*?)<mo accent="true">_</mo>\s*</mover>', r'<mrow class="overline">\1</mrow>'),
]

NAVIGATION = """

```{toctree}
:hidden:

docs/api/index
docs/frameworks
docs/tasks
docs/results
docs/performance
docs/scaling
CONTRIBUTING
CHANGELOG
```
"""


def name_role(role: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    """Render single backticks: as code, with a link where they name something that is documented."""
    literal = nodes.literal(raw, text)
    env = inliner.document.settings.env
    if re.fullmatch(r"docs/\w+\.md", text):
        page = {"refdomain": "std", "reftype": "doc", "reftarget": "/" + text.removesuffix(".md"), "refexplicit": True}
        return [addnodes.pending_xref(raw, literal, refdoc=env.docname, refwarn=True, **page)], []
    found = re.fullmatch(r"([A-Za-z_]\w*(?:\.\w+)*)(\(.*\))?", text)
    if not found:
        return [literal], []
    reference = addnodes.pending_xref(raw, literal, refdomain="py", reftype="obj", refdoc=env.docname)
    reference["reftarget"] = ELSEWHERE.get(found[1], found[1])
    for scope in ("py:module", "py:class"):
        reference[scope] = env.ref_context.get(scope)
    # a word in lower case may as well be an argument, a key or a value
    reference["may_be_code"] = not re.match(r"[A-Z]+[a-z]|approx_is\.(?!pt$)|torch\.", found[1])
    reference.source, reference.line = inliner.reporter.get_source_and_line(line)
    return [reference], []


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Node) -> Any:
    """Find what Sphinx did not: names of other modules of ours and, by importing them, of other libraries."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target[0].isupper() or target in approx_is.__all__:
        python = env.domains.python_domain
        found = {entry.node_id: name for name, entry in python.objects.items() if name.endswith(f".{target}")}
        if len(found) == 1:
            (name,) = found.values()
            return python.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
    if node.get("may_be_code") or exists_elsewhere(target):
        return content
    return None  # a broken reference, and so a warning


def exists_elsewhere(name: str) -> bool:
    """Return whether another library, or Python itself, has this name."""
    if name.partition(".")[0] == approx_is.__name__:
        return False
    try:
        pkgutil.resolve_name(name if "." in name else f"builtins.{name}")
    except (ImportError, AttributeError, ValueError):
        return False
    return True


def write_math(translator: Any, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML; what docutils cannot read is a warning."""
    is_block = isinstance(node, nodes.math_block)
    try:
        formula = tex2mathml(node.astext(), as_block=is_block)
    except MathError as error:
        logger.warning("not a formula: %s (%s)", node.astext(), error, location=node)
        formula = ""
    for written, better in MATHML:
        formula = re.sub(written, better, formula, flags=re.DOTALL)
    translator.body.append(f'<div class="math">{formula}</div>' if is_block else formula)
    raise nodes.SkipNode


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the other pages beside the README, which knows nothing of Sphinx."""
    if docname == root_doc:
        source[0] += NAVIGATION


def keep_colons(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking what stands before a colon for a type: types are in the annotations."""
    nothing = ["..", ""]  # an empty comment
    if what == "property":
        lines[:0] = nothing
    for position, line in enumerate(lines):
        if line.strip() == "Returns:":
            indent = " " * (len(lines[position + 1]) - len(lines[position + 1].lstrip()))
            lines[position + 1 : position + 1] = [indent + each for each in nothing]
            break


def hide_arguments(app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: Any, result: Any) -> Any:
    """Leave out the constructor of protocols, which nobody calls."""
    return ("", None) if what == "class" and getattr(thing, "_is_protocol", False) else None


def setup(app: Sphinx) -> None:
    """Connect the above."""
    app.add_role("name", name_role)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", hide_arguments)
    app.connect("missing-reference", resolve)
