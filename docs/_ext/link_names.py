"""Link names in inline code to their pages: `GridSearchCV`, `joblib.dump`, `BertPretrainer.fit`.

So the pages are plain Markdown, which reads well in the repository too. Linked are the names of the
inventories with their module; classes, and functions of scikit-learn, also without it; and the
classes of skbert and their methods.
"""

import inspect
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

import skbert
import skbert.inspection


def targets(inventories: Path) -> dict[str, str]:
    """Map what may stand in inline code to the full name of its target."""
    found = {}
    for path in sorted(inventories.glob("*.inv")):
        for line in path.read_text(encoding="utf-8").splitlines()[3:]:
            name, kind, _ = line.split()
            if "." not in name:
                continue  # str, int, ...: everybody knows them
            found[name] = name
            short = name.rpartition(".")[2]
            if kind in ("class", "exception") or (path.stem == "sklearn" and "_" in short):
                found[short] = name
    for module in (skbert, skbert.inspection):
        for short in module.__all__:
            value = getattr(module, short)
            full = f"{module.__name__}.{short}"
            if not callable(value) or short in found:
                continue  # no class or function, or documented under its other name
            found[short] = found[full] = full
            for method in dir(value) if inspect.isclass(value) else ():
                own = getattr(getattr(value, method), "__module__", "") or ""
                if not method.startswith("_") and own.startswith("skbert"):
                    found[f"{short}.{method}"] = f"{full}.{method}"
    return found


def link(app, doctree) -> None:
    """Make a reference of each name in inline code, except in titles and links."""
    if app.env.docname == "contributing":  # the same words there are names of the engine
        return
    for literal in [*doctree.findall(nodes.literal)]:
        target = app.config.link_names.get(literal.astext().removesuffix("()"))
        if target is None or _is_inside(
            literal, (nodes.title, nodes.reference, addnodes.pending_xref)
        ):
            continue
        reference = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True
        )
        reference["refdoc"] = app.env.docname
        literal.replace_self(reference)
        reference += literal


def _is_inside(node, kinds) -> bool:
    while node is not None:
        if isinstance(node, kinds):
            return True
        node = node.parent
    return False


def setup(app):
    """Register with Sphinx."""
    app.add_config_value("link_names", targets(Path(app.srcdir) / "inventories"), "env")
    app.connect("doctree-read", link)
    return {"parallel_read_safe": True}
